"""For which input shapes a plan is: one size, which is fastest, or a range of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ..base import EngineError

Shapes = Mapping[str, tuple[int, ...]]
"""Of every input whose shape may vary, by its name."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes that a plan serves: each dimension between its `smallest` and its `largest`."""

    smallest: Shapes
    best: Shapes
    """What it is optimised for."""
    largest: Shapes

    def __post_init__(self) -> None:
        """Raises EngineError unless all three are of the same inputs and in order."""
        if not self.serves(self.best):
            raise EngineError(f"a plan for {self} cannot be best at {_told(self.best)}: use a size in between")

    @classmethod
    def fixed(cls, shapes: Shapes) -> Self:
        """For these shapes only."""
        return cls(shapes, shapes, shapes)

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `text` was. Raises ValueError, KeyError or TypeError if it is something else."""
        found = dict(json.loads(text))
        return cls(*({name: tuple(one[i]) for name, one in found.items()} for i in range(3)))

    @property
    def text(self) -> str:
        """The same for equal profiles."""
        names = sorted(self.best)
        return json.dumps({name: [self.smallest[name], self.best[name], self.largest[name]] for name in names})

    @property
    def is_fixed(self) -> bool:
        """Whether it serves one size only."""
        return dict(self.smallest) == dict(self.largest)

    @property
    def breadth(self) -> float:
        """How many times more values the largest inputs have than the smallest."""
        return _values(self.largest) / max(1, _values(self.smallest))

    def serves(self, shapes: Shapes) -> bool:
        """Whether a plan for this profile runs these shapes."""
        return self.smallest.keys() == self.largest.keys() == shapes.keys() and all(
            len(low) == len(high) == len(shapes[name])
            and all(a <= size <= b for a, size, b in zip(low, shapes[name], high, strict=True))
            for name, low, high in ((name, self.smallest[name], self.largest[name]) for name in shapes)
        )

    def __str__(self) -> str:
        return _told(self.best) if self.is_fixed else f"{_told(self.smallest)} to {_told(self.largest)}"


def _values(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _told(shapes: Shapes) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
