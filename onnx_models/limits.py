"""Which values the fields of a configuration may have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Limits:
    """Numbers between two, which belong to them."""

    lowest: float = 0
    highest: float = math.inf
    above: bool = False
    """`lowest` doesn't belong to them."""

    def __contains__(self, number: float) -> bool:
        within = self.lowest < number if self.above else self.lowest <= number
        return within and number <= self.highest

    def __str__(self) -> str:
        if self.highest < math.inf:
            return f"from {self.lowest:g} to {self.highest:g}"
        return f"{'above' if self.above else 'at least'} {self.lowest:g}"


COUNT, SHARE, ANY_SIZE, POSITIVE = Limits(1), Limits(0, 1), Limits(0), Limits(0, above=True)


def check(section: object, limits: Mapping[str, Limits], spans: Mapping[str, Limits] | None = None) -> None:
    """Check fields that hold a number or a tuple of numbers; `spans` are those that hold the ends of a range.

    Raises:
        ValueError: the first field that is not finite, out of its limits, empty, or no range.
    """
    for name, allowed in {**limits, **(spans or {})}.items():
        value = getattr(section, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers:
            raise ValueError(f"{name} is empty; give at least one value")
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{name} is {value}; must be finite")
        if not all(number in allowed for number in numbers):
            raise ValueError(f"{name} is {value}; must be {allowed}")
        if name in (spans or {}) and (len(numbers) != 2 or numbers[0] > numbers[1]):
            raise ValueError(f"{name} is {value}; it must be a lowest and a highest value")
