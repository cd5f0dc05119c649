"""The cache of plans, in a folder of the user's: building one takes from seconds to minutes.

A plan is executable code, so it is only ever read from a folder and a file that belong to the user and that nobody else
can write to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .key import PlanKey
from .lock import process_lock

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

LIMIT_BYTES = 2 << 30
_MAGIC = b"streamer plan 1\n"
_PLAN, _SIDE, _DRAFT = ".plan", ".side", ".part"
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY_ENTER = stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """One cached plan."""

    title: str
    """Model and picture size."""
    backend: str
    gpu: str
    size_bytes: int
    age_s: float
    """Since it was last used."""


class _UnusableError(Exception):
    """A file is not the plan it should be, and why."""


class PlanCache:
    """Plans by their keys. Any number of processes may use one folder at the same time."""

    def __init__(self, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        """Store the settings.

        Args:
            folder: made when the first plan is kept; by default in the user's cache folder.
            limit_bytes: of all plans together; those not used for longest make room for new ones.
        """
        self.folder = folder or _default_folder()
        self._limit_bytes = limit_bytes

    def fetch(self, key: PlanKey, title: str, build: Callable[[], bytes]) -> bytes:
        """The plan with this key; if there is none, or a damaged or foreign one, what `build` makes.

        A second process that asks for the same plan meanwhile waits, and gets it from here. If the plan can't be kept,
        for example because the disk is full, a warning says so and it is used all the same.

        Raises whatever `build` raises; nothing is kept then.
        """
        with contextlib.ExitStack() as held:
            try:
                self._prepare_folder()
                held.enter_context(process_lock(self.folder / f"{key.digest}.lock", title))
            except (OSError, _UnusableError) as error:
                log.warning("plans are not kept in %s: %s", self.folder, error)
                return build()
            content = self.peek(key, title)
            if content is not None:
                return content
            content = build()
            self._store(key, title, content)
            return content

    def peek(self, key: PlanKey, title: str) -> bytes | None:
        """The plan that `fetch` would find, whole and the user's own; None also if the folder can't be read.

        Waits for nobody who builds it.
        """
        path = self._path(key)
        try:
            _check_file(path)
            with path.open("rb") as file:
                head, content = _read_head(file), file.read()
            if head["key"] != key.parts:
                raise _UnusableError("it was made for something else")
            if hashlib.sha256(content).hexdigest() != head["sha256"]:
                raise _UnusableError("it is damaged")
        except OSError:  # nothing is wrong with the plan, if there is one
            return None
        except _UnusableError as error:
            self.discard(key, title, str(error))
            return None
        with contextlib.suppress(OSError):  # on a read-only volume nothing makes room either
            os.utime(path)
        return content

    def keys(self) -> list[PlanKey]:
        """Of all readable plans."""
        found = []
        for path in self._plans():
            with contextlib.suppress(OSError, _UnusableError), path.open("rb") as file:
                found.append(PlanKey(_read_head(file)["key"]))
        return found

    def discard(self, key: PlanKey, title: str, reason: str) -> None:
        """Forget a plan that turned out to be unusable."""
        log.warning("the cached plan of %s is not usable (%s): it is built again", title, reason)
        with contextlib.suppress(OSError):  # such as a folder that can't be written to
            self._path(key).unlink(missing_ok=True)

    def load_side(self, name: str) -> bytes:
        """A file that makes builds or starts faster, such as the timing cache; empty if there is none."""
        path = self.folder / f"{name}{_SIDE}"
        try:
            _check_file(path)
            return path.read_bytes()
        except (OSError, _UnusableError):
            return b""

    def store_side(self, name: str, content: bytes) -> None:
        """Keep such a file, if that is possible; the last writer wins."""
        if content:
            with contextlib.suppress(OSError, _UnusableError):  # it only costs time
                self._prepare_folder()
                _replace(self.folder / f"{name}{_SIDE}", content)

    def subfolder(self, name: str) -> Path | None:
        """A folder for what another library keeps of the kind; None, with a warning, if there can't be a safe one."""
        folder = self.folder / name
        try:
            self._prepare_folder()
            folder.mkdir(mode=0o700, exist_ok=True)
            _check_folder(folder)
            for path in folder.iterdir():
                _check_file(path)
        except (OSError, _UnusableError) as error:
            log.warning("nothing is kept in %s: %s", folder, error)
            return None
        return folder

    def entries(self) -> list[PlanEntry]:
        """All readable plans, the one used last first."""
        found, now = [], time.time()
        for path in self._plans():
            with contextlib.suppress(OSError, _UnusableError), path.open("rb") as file:
                head = _read_head(file)
                about, parts = path.stat(), head["key"]
                age_s = max(0.0, now - about.st_mtime)
                found.append(PlanEntry(head["title"], parts["backend"], parts["gpu"], about.st_size, age_s))
        return sorted(found, key=lambda entry: entry.age_s)

    def clear(self) -> int:
        """Delete everything; how many bytes that freed."""
        freed = 0
        kinds = (f"*{_PLAN}", f"*{_SIDE}", f"*{_DRAFT}", "*.lock", "*/*")
        for path in [path for kind in kinds for path in self._matching(kind)]:
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                freed += size
        return freed

    def _store(self, key: PlanKey, title: str, content: bytes) -> None:
        head = {"title": title, "sha256": hashlib.sha256(content).hexdigest(), "key": key.parts}
        path = self._path(key)
        try:
            for left in self.folder.glob(
                f"{path.stem}*{_DRAFT}"
            ):  # by a process that was killed: the lock is held here
                left.unlink(missing_ok=True)
            _replace(path, _MAGIC + json.dumps(head).encode() + b"\n" + content)
        except OSError as error:
            log.warning("the plan of %s is not kept in %s: %s", title, self.folder, error.strerror or error)
            return
        self._make_room(path)

    def _make_room(self, newest: Path) -> None:
        """Other processes may do the same at the same time."""
        found = []
        for path in self._plans():
            with contextlib.suppress(OSError):
                about = path.stat()
                found.append((path != newest, -about.st_mtime, about.st_size, path))
        total = 0
        for older, _, size, path in sorted(found):
            total += size
            if older and total > self._limit_bytes:
                log.info("the cache of plans is full: %s is deleted", path.name)
                with contextlib.suppress(OSError):
                    path.unlink()

    def _plans(self) -> list[Path]:
        return self._matching(f"*{_PLAN}")

    def _matching(self, pattern: str) -> list[Path]:
        """Nothing if the folder can't be read."""
        try:
            return list(self.folder.glob(pattern))
        except OSError:
            return []

    def _path(self, key: PlanKey) -> Path:
        return self.folder / f"{key.digest}{_PLAN}"

    def _prepare_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(self.folder)


def _read_head(file: Any) -> dict[str, Any]:
    if file.readline() != _MAGIC:
        raise _UnusableError("it is no plan of this program")
    try:
        head = json.loads(file.readline())
        return {"title": head["title"], "sha256": head["sha256"], "key": dict(head["key"])}
    except (ValueError, KeyError, TypeError):
        raise _UnusableError("it is damaged") from None


def _check_folder(path: Path) -> None:
    """Whoever may write a plan may run code as the user who loads it."""
    _check_owner(path, others_write=bool(path.stat().st_mode & _OTHERS_MAY_WRITE))


def _check_file(path: Path) -> None:
    """The same; but where nobody else comes into the folder, it doesn't matter what the file allows.

    Other libraries leave, and people copy, files that their group may write.
    """
    writable = path.stat().st_mode & _OTHERS_MAY_WRITE
    _check_owner(path, others_write=bool(writable and path.parent.stat().st_mode & _OTHERS_MAY_ENTER))


def _check_owner(path: Path, *, others_write: bool) -> None:
    if sys.platform != "win32" and (path.stat().st_uid != os.getuid() or others_write):
        raise _UnusableError(f"{path} belongs to, or may be written by, someone else")


def _replace(path: Path, content: bytes) -> None:
    """Write all of it or nothing."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=_DRAFT)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _default_folder() -> Path:
    named = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "streamer-enhancer" / "plans"
