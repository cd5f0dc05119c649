"""What is asked of an engine, in one piece that can be compared, changed in parts, and told to another process."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from .base import EngineError
from .chroma import ChromaFilter, U, V
from .follower import follower_shapes
from .pixels import LUMA

AUTO = "auto"
F32, F16, INT8 = "f32", "f16", "int8"
PRECISIONS = (AUTO, F32, F16, INT8)
CALIBRATED, CAREFUL, WHOLE = 0, 1, 2
ISLANDS = (CALIBRATED, CAREFUL, WHOLE)
"""How much of a float16 network stays in float32: what overflowed in a trial; also its ends and what came near; all."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A model for pictures of one size, in some precision, on some device."""

    model: Path | bytes
    """A model that follows the contract of `engines.pixels`, as a file or its content."""
    width: int
    """Of `luma`, in pixels."""
    height: int
    bits: int = 8
    """8 for uint8 pixels; 9 to 16 for float32 pixels that hold whole code values."""
    engine: str = AUTO
    """A name of the table, or "auto"."""
    device: int = 0
    """Which GPU; a CPU has 0 only."""
    precision: str = AUTO
    """"f32", "int8" on a CPU (see `engines.int8`), "f16" on a GPU (see `engines.tensorrt.fp16`), or "auto": f16 on a
    GPU, and int8 if the model was made for it and the processor has the instructions."""
    islands: int | tuple[str, ...] = CALIBRATED
    """Of a float16 network, what stays in float32: one of `ISLANDS`, or names of tensors beside those that overflow.
    WHOLE is the same as precision f32."""
    chroma: ChromaFilter | None = None
    """Adds chroma to the model, see `engines.chroma`; None: it takes luma alone."""
    follower: bytes | None = None
    """A model that works on what this one gives, on the same device, see `engines.follower`; for 8 bits."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs that depend on the size.

        Raises:
            EngineError: a size below 1, or one that the follower doesn't take.
        """
        if self.height < 1 or self.width < 1:
            raise EngineError(f"cannot open a model for {self.width}x{self.height}: use sizes of 1 or more")
        shapes: dict[str, tuple[int, ...]] = {LUMA: (1, 1, self.height, self.width)}
        if self.chroma is not None:
            plane = (1, 1, *self.chroma.shape(self.height, self.width))
            shapes |= {U: plane, V: plane}
        if self.follower is not None:
            shapes |= follower_shapes(self.follower, self.height, self.width)
        return shapes

    def resized(self, size: tuple[int, int]) -> Self:
        """The same for another (width, height)."""
        return replace(self, width=size[0], height=size[1])

    def to_json(self) -> str:
        """For `from_json` in another process; the model must be a file."""
        follower = None if self.follower is None else base64.b64encode(zlib.compress(self.follower)).decode()
        return json.dumps(asdict(self) | {"model": str(self.model), "follower": follower})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` was called on."""
        found = json.loads(text)
        islands, chroma, follower = found["islands"], found["chroma"], found["follower"]
        return cls(
            **found
            | {
                "model": Path(found["model"]),
                "islands": islands if isinstance(islands, int) else tuple(islands),
                "chroma": None if chroma is None else ChromaFilter.of(chroma),
                "follower": None if follower is None else zlib.decompress(base64.b64decode(follower)),
            }
        )
