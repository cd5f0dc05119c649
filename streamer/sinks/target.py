"""A file to be: it grows under a temporary name beside its own and takes its own when it is complete."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from streamer.errors import SinkError, UsageError
from streamer.numbered import numbered, numbers_present


class Target:
    """Where a finished file will be (`path`, links followed) and where it grows until then (`partial`).

    Raises UsageError or SinkError at once if the file can't be created, or exists and `force` isn't given.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(os.path.realpath(path))
        self._force = force
        self.partial = self.path.with_name(f".{self.path.stem}.{secrets.token_hex(4)}.part{self.path.suffix}")
        folder = self.path.parent
        if not folder.is_dir():
            raise SinkError(f"can't write {path}: there is no folder {folder}; create it first")
        if not os.access(folder, os.W_OK):
            raise SinkError(f"can't write {path}: no permission to create files in {folder}")
        if self.path.is_dir():
            raise UsageError(f"can't write {path}: it is a folder; add a file name")
        if not self.path.suffix:
            raise UsageError(f"can't write {path}: its ending says the format; add one such as .mp4 or .mkv")
        if self.path.exists() and not force:
            raise UsageError(f"{path} exists already: give another name, or --force to replace it")

    def publish(self) -> None:
        """Gives the complete file its name. Raises SinkError if somebody else took it meanwhile, OSError."""
        if self.path.exists() and not self._force:
            raise SinkError(f"{self.path} was created by somebody else meanwhile; the result is in {self.partial}")
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Removes the unfinished file, if it is there."""
        self.partial.unlink(missing_ok=True)


def overwrites(output: str, source: str) -> bool:
    """Whether writing `output` (a file or numbered sequence) would write over the file or sequence `source`."""
    return not _identities(output).isdisjoint(_identities(source))


def _identities(name: str) -> set[tuple[int, int]]:
    """Device and inode of the existing files that a name means, be it theirs, a link's or a sequence's."""
    pattern = Path(name)
    files = [pattern, *(numbered(pattern, number) for number in numbers_present(pattern))]
    statuses = [os.stat(file) for file in files if os.path.exists(file)]
    return {(status.st_dev, status.st_ino) for status in statuses}
