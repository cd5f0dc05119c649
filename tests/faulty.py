"""An engine that says it is on a GPU and damages what it computes; and how to put it into the table of engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from engines import EngineRow, OpenVINOEngine, select
from engines.base import Array
from engines.request import F16, F32

if TYPE_CHECKING:
    import pytest

NAME = "faulty"
Damage = Callable[[int, str, Array], None]
"""Called with the number of the inference since the engine was opened, its precision, and its output to change."""
Spoil = Callable[[Array], None]
Pictures = Callable[[], Iterator[Array]]


class FaultyEngine(OpenVINOEngine):
    """OpenVINO, whose results are damaged before they are given out."""

    name = NAME
    on_gpu = True
    damage: ClassVar[Damage]

    def __init__(
        self, model: bytes, shapes: Mapping[str, tuple[int, ...]], *, device: int = 0, **settings: Any
    ) -> None:
        super().__init__(model, shapes, **settings)
        self.device = device
        self._given = 0

    def _collect(self, slot: int) -> None:
        super()._collect(slot)
        if self._flying:  # not while it warms up
            type(self).damage(self._given, self.precision, self._buffers[slot].outputs["enhanced"][0, 0])
            self._given += 1


def install(patch: pytest.MonkeyPatch, damage: Damage, *, on_gpu: bool = True, alone: bool = False) -> None:
    """Makes it the first engine of the table, in f16 or f32, or the only one."""
    patch.setattr(FaultyEngine, "damage", staticmethod(damage), raising=False)
    patch.setattr(FaultyEngine, "on_gpu", on_gpu)
    row = EngineRow(NAME, True, "for a test", "1", "a test")
    entry = select.Entry(NAME, lambda: row, FaultyEngine, (F16, F32))
    patch.setattr(select, "_TABLE", (entry, *(() if alone else select._TABLE)))
