"""Single pictures as NumPy arrays, without threads or files."""

from __future__ import annotations

from fractions import Fraction
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from streamer import ycbcr
from streamer.color import BT601
from streamer.enhancer import EnhanceStage
from streamer.errors import UsageError
from streamer.frame import FULL, LIMITED, ColorSpec, Frame, VideoFormat
from streamer.job import choose_model

_YUV = ColorSpec(matrix=BT601, range=LIMITED)
_PIX_FMT = "yuv444p12le"
"""RGB travels as 12-bit Y'CbCr, so that the way there and back costs less than one step of 8 bits."""


class ImageEnhancer:
    """Enhances arrays with one model; the engine stays open between pictures of one size.

    A context manager. Not thread-safe: open, use and close it on one thread.
    """

    def __init__(
        self,
        model: str = "auto",
        *,
        scale: int | None = None,
        engine: str = "auto",
        strength: float = 1.0,
        level: float | Literal["auto"] = "auto",
        noise: float | Literal["auto"] = "auto",
        precision: str = "auto",
    ) -> None:
        card = choose_model(model, scale)
        if card is None:
            raise UsageError("give a model: 'none' does nothing to an image")
        self._stage = EnhanceStage(
            card,
            engine=engine,
            strength=strength,
            level=None if level == "auto" else level,
            noise=None if noise == "auto" else noise,
            precision=precision,
        )
        self._format: VideoFormat | None = None

    def enhance(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """`image` enlarged: uint8 RGB [height, width, 3] or gray [height, width] in full range, and the same out.

        What is given is the caller's own: nothing else holds it.

        Raises UsageError for another shape or type, EnhanceError or EngineError if it can't be enhanced.
        """
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not fits or not image.size:
            raise UsageError(f"give uint8 RGB [h, w, 3] or gray [h, w], not {image.dtype} {list(image.shape)}")
        if image.ndim == 2:
            gray = VideoFormat(image.shape[1], image.shape[0], "gray", ColorSpec(range=FULL))
            return self._run((image,), gray)[0].copy()
        height, width = image.shape[:2]
        yuv = VideoFormat(width, height, _PIX_FMT, _YUV)
        planes = self._run(ycbcr.from_rgb(image, yuv, 8), yuv)
        larger = VideoFormat(planes[0].shape[1], planes[0].shape[0], _PIX_FMT, _YUV)
        return np.asarray(ycbcr.to_rgb(planes, larger, 8), np.uint8)

    def close(self) -> None:
        self._stage.close()
        self._format = None

    def __enter__(self) -> ImageEnhancer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, planes: tuple[npt.NDArray[np.uint8], ...], format: VideoFormat) -> tuple[npt.NDArray[np.uint8], ...]:
        if format != self._format:
            self._format = None  # it may be refused
            self._stage.close()
            self._stage.open(format)
            self._format = format
        self._stage.reset()  # pictures have nothing to do with each other
        frame = Frame(planes, format, pts=0, time_base=Fraction(1, 25), duration=1, index=0, captured_ns=0)
        (result,) = [*self._stage.process(frame), *self._stage.flush()]
        return result.planes


def enhance_image(
    image: npt.NDArray[np.uint8],
    *,
    model: str = "auto",
    scale: int | None = None,
    strength: float = 1.0,
    level: float | Literal["auto"] = "auto",
    noise: float | Literal["auto"] = "auto",
) -> npt.NDArray[np.uint8]:
    """`image` (uint8 RGB [h, w, 3] or gray [h, w]) enlarged by one model; for many, use ImageEnhancer."""
    with ImageEnhancer(model, scale=scale, strength=strength, level=level, noise=noise) as enhancer:
        return enhancer.enhance(image)
