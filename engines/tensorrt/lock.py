"""A lock between processes: two that want the same plan build it once."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
"""What systems say of a lock that another process has; others are of file systems that have none."""


@contextlib.contextmanager
def process_lock(path: Path, subject: str) -> Iterator[None]:
    """Hold the lock of this file; wait for it if another process has it, and say so. Ended processes hold none.

    On a file system without locks it says so, too, and goes on: nothing is damaged, but two may build the same.

    Args:
        path: of a file that is made if it isn't there, and stays.
        subject: what is locked, for the message.

    Raises:
        OSError: the file can't be made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            if not _try_lock(handle):
                log.warning("waiting for another process that builds %s", subject)
                _lock(handle)
        except OSError as error:
            log.warning("another process may build %s at the same time: %s", subject, error.strerror or error)
        yield
    finally:
        os.close(handle)  # which unlocks it


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            _windows().locking(handle, _windows().LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        while not _try_lock(handle):
            with contextlib.suppress(OSError):  # it gives up after ten seconds
                _windows().locking(handle, _windows().LK_LOCK, 1)
                return
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def _windows() -> Any:
    import msvcrt

    return msvcrt
