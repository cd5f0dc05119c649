"""Numbered files: a pattern such as frames/%05d.png, and the files that it means."""

from __future__ import annotations

import os
import re
from pathlib import Path

FIELD = re.compile(r"%0?\d*d")
"""The field of a number in a file's name; any other % there, and in the folder, means itself."""


def is_pattern(path: str | Path) -> bool:
    """Whether the name of a file has a field for its number."""
    return FIELD.search(Path(path).name) is not None


def numbered(pattern: Path, number: int) -> Path:
    """The file of that number; a plain name is itself."""
    return pattern.with_name(FIELD.sub(lambda field: field[0] % number, pattern.name))


def numbers_present(pattern: Path) -> list[int]:
    """The numbers of the files that are there, ascending; none for a plain name."""
    if not is_pattern(pattern) or not pattern.parent.is_dir():
        return []
    match = re.compile("([0-9]+)".join(map(re.escape, FIELD.split(pattern.name)))).fullmatch
    found = ((name, match(name)) for name in os.listdir(pattern.parent))
    numbers = ((name, int(fields[1])) for name, fields in found if fields)
    return sorted(number for name, number in numbers if numbered(pattern, number).name == name)


def ffmpeg_pattern(pattern: Path) -> str:
    """`pattern` as FFmpeg's image2 demuxer takes it, which knows one field in all of the path, and %% for a %."""
    name = re.sub(rf"%(?!{FIELD.pattern[1:]})", "%%", pattern.name)
    return os.path.join(str(pattern.parent).replace("%", "%%"), name)
