"""The demonstration: the packaged webcam clip, enhanced, and one of its frames before and after."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from streamer.convert import EXACT
from streamer.errors import SinkError, reason_of
from streamer.job import Progress, Summary, enhance

_FRAME = 60
_CROP = (0.34, 0.16, 0.30, 0.52)
"""The part of the picture to compare: left, top, width and height as shares of the frame."""


def run(folder: Path, *, engine: str = "auto", on_progress: Callable[[Progress], None] | None = None) -> Summary:
    """Writes `folder`/book-x2.mp4 and `folder`/before-after.png, replacing those of an earlier run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"can't create the folder {folder}: {reason_of(error)}; choose another --folder") from error
    enhanced = folder / "book-x2.mp4"
    with resources.as_file(resources.files("streamer") / "samples" / "book.mkv") as clip:
        summary = enhance(clip, enhanced, engine=engine, preset="ultrafast", force=True, on_progress=on_progress)
        before, after = _picture(clip), _picture(enhanced)
    _save(_side_by_side(before, after), folder / "before-after.png")
    return summary


def _picture(path: Path) -> npt.NDArray[np.uint8]:
    """Frame _FRAME of a clip as RGB [height, width, 3]."""
    with av.open(str(path)) as container:
        for index, picture in enumerate(container.decode(video=0)):
            if index == _FRAME:
                return np.asarray(picture.to_ndarray(format="rgb24", interpolation=EXACT), np.uint8)
    raise SinkError(f"{path} ended before frame {_FRAME}")


def _side_by_side(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The same crop twice: enlarged by bicubic interpolation, as a player would, and enhanced; at twice the size."""
    import cv2

    height, width = after.shape[:2]
    enlarged = cv2.resize(before, (width, height), interpolation=cv2.INTER_CUBIC)
    left, top, wide, high = _CROP
    rows = slice(int(top * height), int((top + high) * height))
    columns = slice(int(left * width), int((left + wide) * width))
    halves = []
    for label, picture in (("before (bicubic)", enlarged), ("after", after)):
        crop = cv2.resize(picture[rows, columns], None, fx=1.5, fy=1.5, interpolation=cv2.INTER_NEAREST_EXACT)
        cv2.putText(crop, label, (12, 32), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.putText(crop, label, (12, 32), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2, cv2.LINE_AA)
        halves.append(crop)
    return np.hstack(halves)


def _save(picture: npt.NDArray[np.uint8], path: Path) -> None:
    import cv2

    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise SinkError(f"can't write {path}: is the disk full or the folder protected?")
