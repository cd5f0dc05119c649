"""Synthesised sequences with cuts, and with what is mistaken for one: flashes, fades, dissolves, whip pans, shakes.

Made of any still pictures, so that a benchmark can take photographs and a test what it draws itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from streamer.cuts import CutDetector

    Luma = NDArray[np.float32]

WIDTH, HEIGHT = 160, 90
LENGTH = 40
EVENT = 20
"""The frame at which something happens."""
NOISE = 1.5


@dataclass(frozen=True, slots=True)
class Event:
    """A short sequence, and the frames that begin a new scene."""

    name: str
    frames: list[Luma]
    cuts: frozenset[int]


@dataclass(frozen=True, slots=True)
class Tally:
    """Cuts found, missed and imagined."""

    found: int
    missed: int
    imagined: int

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.imagined) if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.found / (self.found + self.missed) if self.found else 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.found + other.found, self.missed + other.missed, self.imagined + other.imagined)


def events(pictures: Sequence[NDArray[np.uint8]]) -> Iterator[Event]:
    """Every kind of event, for each picture and the next one; luma of at least 2 x HEIGHT lines."""
    rng = np.random.default_rng(5)
    for number, picture in enumerate(pictures):
        other = pictures[(number + 1) % len(pictures)]
        for name, (view, cuts) in _kinds(picture.astype(np.float32), other.astype(np.float32)).items():
            frames = [_grain(view(t), rng) for t in range(LENGTH)]
            yield Event(name, frames, frozenset(cuts))


def judge(event: Event, detector: CutDetector) -> Tally:
    """What a new detector makes of an event."""
    said = {t for t, frame in enumerate(event.frames) if detector.update(frame)}
    return Tally(len(said & event.cuts), len(event.cuts - said), len(said - event.cuts))


def _kinds(one: Luma, other: Luma) -> dict[str, tuple[Callable[[int], Luma], set[int]]]:
    def drift(t: int) -> Luma:
        return _view(one, 1.0 * t, 0.3 * t)

    def cut(t: int) -> Luma:
        return drift(t) if t < EVENT else _view(other, 0.7 * t, 0)

    def faded(t: int) -> float:
        return min(1.0, abs(t - EVENT) / 12)

    def lit(t: int) -> Luma:
        return np.asarray(np.minimum(255, 60 + 1.5 * drift(t)), np.float32)

    def whip(t: int) -> Luma:
        fast = min(max(0, t - EVENT), 8)
        view = _view(one, 1.0 * t + 2.2 * fast * fast, 0)
        return np.asarray(cv2.blur(view, (1 + 3 * fast, 1)), np.float32) if 0 < fast < 8 else view

    def shake(t: int) -> Luma:
        return _view(one, 9 * np.sin(2.1 * t), 7 * np.sin(2.9 * t + 1))

    def dissolve(t: int) -> Luma:
        share = np.float32(np.clip((t - EVENT) / 12, 0, 1))
        return np.asarray((1 - share) * drift(t) + share * _view(other, 0.7 * t, 0), np.float32)

    return {
        "cut": (cut, {EVENT}),
        "cuts, dim": (lambda t: 20 + 0.25 * cut(t), {EVENT}),
        "cuts, close": (lambda t: cut(EVENT if t // 5 % 2 else 0), set(range(5, LENGTH, 5))),
        "cut from a fast camera": (
            lambda t: _view(one, 6.0 * t, 0) if t < EVENT else _view(other, 6.0 * t, 0),
            {EVENT},
        ),
        "flash": (lambda t: lit(t) if EVENT <= t < EVENT + 2 else drift(t), set()),
        "strobe": (lambda t: lit(t) if t % 7 == 0 else drift(t), set()),
        "fade through black": (lambda t: 16 + (drift(t) - 16) * np.float32(faded(t)), set()),
        "dissolve": (dissolve, set()),
        "whip pan": (whip, set()),
        "shake": (shake, set()),
        "exposure": (lambda t: np.minimum(255, drift(t) * (1.25 if t > EVENT else 1.0)), set()),
    }


def _view(picture: Luma, x: float, y: float) -> Luma:
    """A window of the picture, whose sides go on as in mirrors."""
    scale = max(picture.shape[0] / (1.6 * HEIGHT), 1.0)
    matrix = np.array([[scale, 0, 10 + scale * x], [0, scale, 10 + scale * y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(seen, np.float32)


def _grain(view: Luma, rng: np.random.Generator) -> Luma:
    return np.asarray(np.clip(view + rng.normal(0, NOISE, view.shape), 0, 255), np.float32)
