"""Opening an input: from a path or URL to a PyAV container, its picture stream and the streams that go along."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.stream

from streamer.convert import TOLERANT
from streamer.errors import SourceError, UsageError, reason_of
from streamer.notes import Notes
from streamer.numbered import FIELD, ffmpeg_pattern, numbers_present
from streamer.sources.inputs import is_sequence

_OPEN_S, READ_S = 10.0, 30.0
_MAY_JUMP = 0x200


def open_container(url: str, name: str, notes: Notes, rate: Fraction | None = None) -> Any:
    """The open container of a file, numbered sequence or URL; `name` is what messages call it.

    `rate` is the frame rate of a numbered sequence (FFmpeg's default is 25). Raises SourceError, UsageError.
    """
    options: dict[str, str] = {}
    target = url
    if "://" not in url and url != "pipe:0":
        target = os.path.abspath(url)
        if is_sequence(url):
            pattern = Path(target)
            options = {"start_number": str(_first_number(pattern, name, notes)), "framerate": str(rate or 25)}
            target = ffmpeg_pattern(pattern)
        elif os.path.isdir(target):
            raise SourceError(
                f"can't read {name}: it is a folder; for a numbered sequence write {os.path.join(name, '%05d.png')}"
            )
        elif os.path.isfile(target) and os.path.getsize(target) == 0:
            raise SourceError(f"can't read {name}: the file is empty")
    if rate is not None and "framerate" not in options:
        raise UsageError(f"--fps is for numbered sequences such as frames/%05d.png: {name} has its own times")
    try:
        return av.open(target, options=options, timeout=(_OPEN_S, READ_S), **TOLERANT)
    except FileNotFoundError as error:
        raise SourceError(f"can't read {name}: no such file; check the path") from error
    except PermissionError as error:
        raise SourceError(f"can't read {name}: permission denied") from error
    except av.error.InvalidDataError as error:
        raise SourceError(
            f"can't read {name}: it isn't a video or image that FFmpeg knows, or its index is missing because the "
            "recording was cut off"
        ) from error
    except (av.error.ExitError, av.error.TimeoutError) as error:
        raise SourceError(
            f"can't read {name}: no answer within {_OPEN_S:g} s; check the address, and that nothing blocks it"
        ) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise SourceError(f"can't read {name}: {reason_of(error)}") from error


def _first_number(pattern: Path, name: str, notes: Notes) -> int:
    """The lowest number in a sequence such as frames/%05d.png; FFmpeg by itself looks no further than 4."""
    if len(FIELD.findall(pattern.name)) > 1:
        raise SourceError(f"can't read {name}: pictures have one number; leave one field such as %05d in the name")
    present = set(numbers_present(pattern))
    if not present:
        raise SourceError(f"can't read {name}: no picture matches it; check the folder and the number of digits")
    gap = next(number for number in range(min(present), max(present) + 2) if number not in present)
    if gap <= max(present):
        notes.say(
            f"number {gap} is missing: the sequence ends before it, {len(present) - (gap - min(present))} are left"
        )
    return min(present)


def pick_video(container: Any, name: str) -> Any:
    """The stream to enhance: the first with moving pictures. Raises SourceError if there is none to decode."""
    attached = av.stream.Disposition.attached_pic
    pictures = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not pictures:
        kinds = ", ".join(sorted({_kind(stream) for stream in container.streams})) or "no streams"
        raise SourceError(f"can't enhance {name}: it has no video, only {kinds}")
    if pictures[0].codec_context is None:
        raise SourceError(f"can't decode {name}: no decoder for its video codec in this FFmpeg build")
    return pictures[0]


def _kind(stream: Any) -> str:
    return "cover art" if stream.type == "video" else str(stream.type)


def may_jump(container: Any) -> bool:
    """Whether time may jump in containers of this kind (FFmpeg's AVFMT_TS_DISCONT: transport and program streams)."""
    return bool(container.format.flags & _MAY_JUMP)


def companions_of(container: Any, video: Any, notes: Notes) -> dict[int, Any]:
    """The streams that go along: everything but the enhanced one and untyped data tracks."""
    kept = {}
    for stream in container.streams:
        if stream.index == video.index:
            continue
        if stream.type in ("audio", "subtitle", "attachment", "video"):
            kept[stream.index] = stream
        else:
            notes.say(f"stream #{stream.index} ({stream.type}) is left out: only its container knows what it means")
    return kept
