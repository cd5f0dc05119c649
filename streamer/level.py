"""How degraded a stream is: by compression, as its decoder tells or its pictures show, and by noise, as they show.

The estimate needs one picture's luma. It takes up to 121 squares spread over the picture, and of them the statistics
in which compression and noise differ from each other and from the softness of lenses: energies of DCT bands on and off
the grid of 8 (quantiles over blocks), how evenly a band's energy is spread, and how differences of neighbouring samples
on the borders of coding blocks compare with those inside. A network of one hidden layer (`streamer.level_weights`)
maps them to the quantisation parameter, and to the one with the error of the noise that is left; where the decoder
tells the former, that is one more input. `python -m benchmarks level` measures how well, and `--fit` makes the weights:
from clean photographs and clips after encoders, noise and both, with errors upwards counting more than downwards,
because a level too high blurs what is merely soft or finely textured.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_models.level import level_of_qp, level_of_stream
from streamer.frame import Frame, Plane
from streamer.level_weights import HIDDEN, OUTPUT

MEASURED_EVERY = 8
"""Frames: the estimate takes less than a millisecond, but a stream seldom changes in a quarter of a second."""
_QP_SECONDS, _SEEN_SECONDS = 1.0, 3.0
"""Time constants: one quantiser is certain and belongs to one frame, one estimate errs with the content."""
_NO_DURATION = Fraction(1, 25)
HELD = 0.1
"""The level of told parameters stays until their mean is so far from it: about 3 QP, which cost less than 0.01 dB. Each
change of it changes all pixels a little: one that followed every frame's quantiser made up to 27 % of the flicker."""
PER_SECOND = 1.0
"""How fast it goes where it has to: in no jump, and as soon as the mean, which is that of about a second."""
NOISE_DEAD_ZONE = 0.1
"""So little noise is taken for none; up to twice as much, what is left grows twice as fast."""

Floats = npt.NDArray[np.float32]

QP_RANGE = 6.0, 46.0
"""Of estimates: a little beyond the levels 0 and 1."""

_SQUARES, _SIDE = 11, 18
"""At most so many squares a row and column, of so many samples: 16 about a corner of H.264's macroblocks, and one more
on every side. Their corners are at multiples of 8, which are borders of blocks in nearly every encoder."""
_FEWEST = 4
_BAR_DEVIATION = 2
"""8-bit code values by which samples of a bar may differ after a codec."""
_BAND_LIMITS = ((1, 1), (2, 3), (4, 5), (6, 8), (9, 14))
"""First and last sum of horizontal and vertical frequency of each band."""
_HIDDEN, _OUTPUT = np.array(HIDDEN), np.array(OUTPUT)


class Levels(NamedTuple):
    """How degraded a stream is, each from 0 (clean) to 1 (heavy); see `onnx_models.level`."""

    level: float
    """Of its compression."""
    noise: float
    """Of what is left of its sensor's noise."""


class Estimate(NamedTuple):
    """What one picture looks like, as H.264 quantisation parameters within QP_RANGE."""

    qp: float
    """Of its compression; of no meaning if it was told."""
    noise_qp: float
    """With the error of its noise."""


class LevelMeter:
    """Follows the levels of one stream; its state are weighted means, and what is held of them.

    Quantisation parameters that the decoder gives are averaged over about a second of stream time: encoders quantise
    frames of different types differently. Every MEASURED_EVERY-th frame is looked at, for its noise and, if the decoder
    gives nothing, for its compression; what is seen is averaged over about three seconds. The level of what was
    told stays as it is while the mean is near it (HELD); what is seen moves little, and errs more if it is held. The
    same frames always give the same levels.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets the stream: the next frame begins another."""
        self._qp, self._noise_qp = _Mean(), _Mean()
        self._told_level: _Held | None = None
        self._frames = 0

    def update(self, frame: Frame) -> Levels:
        """The levels after one more frame; 0 as long as nothing is known."""
        seconds = float(frame.duration * frame.time_base if frame.duration > 0 else _NO_DURATION)
        if frame.qp is not None:
            if self._told_level is None:
                self._told_level, self._qp = _Held(level_of_stream(frame.qp)), _Mean()  # what was seen counts no longer
            self._qp.add(frame.qp, seconds / _QP_SECONDS)
        if self._frames % MEASURED_EVERY == 0:
            self._look(frame, MEASURED_EVERY * seconds / _SEEN_SECONDS)
        self._frames += 1
        noise = noise_of_qp(self._noise_qp.value)
        if self._told_level is None:
            return Levels(level_of_qp(self._qp.value), noise)
        return Levels(self._told_level.follow(level_of_stream(self._qp.value), seconds), noise)

    def _look(self, frame: Frame, age: float) -> None:
        told = None if self._told_level is None else self._qp.value
        seen = estimate(frame.planes[0], frame.format.layout.bits, told)
        if seen is None:
            return
        if self._told_level is None:  # decoders that tell leave out a picture here and there, such as MPEG-2's last
            self._qp.add(seen.qp, age)
        self._noise_qp.add(seen.noise_qp, age)


class _Mean:
    """Older values fade by exp(-age); until there are any, the mean is that of all."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    @property
    def value(self) -> float:
        """-inf if there was none."""
        return self._sum / self._weight if self._weight else -math.inf

    def add(self, value: float, age: float) -> None:
        kept = math.exp(-age)
        self._sum = kept * self._sum + (1 - kept) * value
        self._weight = kept * self._weight + (1 - kept)


class _Held:
    """A level that stays while what is measured is within HELD of it, and otherwise goes all the way there."""

    def __init__(self, value: float) -> None:
        self._value = value
        self._goes = False

    def follow(self, wanted: float, seconds: float) -> float:
        """The value, so many seconds later."""
        apart = wanted - self._value
        if self._goes or abs(apart) > HELD:
            step = PER_SECOND * seconds
            self._goes = abs(apart) > step
            self._value = self._value + math.copysign(step, apart) if self._goes else wanted
        return self._value


def noise_of_qp(noise_qp: float) -> float:
    """The level 0..1 of noise that was seen, without the NOISE_DEAD_ZONE."""
    level = level_of_qp(noise_qp)
    return min(level, max(0.0, 2 * (level - NOISE_DEAD_ZONE)))


def estimate(luma: Plane, bits: int = 8, told: float | None = None) -> Estimate | None:
    """What one picture looks like; None if it has too little to see.

    Args:
        luma: code values [height, width] of `bits` bits, uint8 or uint16.
        told: its mean quantisation parameter, if known.
    """
    found = statistics(luma, bits)
    if found is None:
        return None
    units = np.tanh(np.append(inputs(found, told), 1.0) @ _HIDDEN)
    qp, noise_qp = np.clip(np.append(units, 1.0) @ _OUTPUT, *QP_RANGE).tolist()
    return Estimate(qp, noise_qp)


def inputs(found: Floats, told: float | None) -> Floats:
    """What the network gets, [STATISTICS + 2]: the statistics, whether a parameter was told, and which."""
    if told is None:
        return np.append(found, np.zeros(2, np.float32))
    lowest, highest = QP_RANGE
    return np.append(found, np.array([1, min(highest, max(lowest, told)) / highest], np.float32))


def statistics(luma: Plane, bits: int = 8) -> Floats | None:
    """What an estimate is made of, [STATISTICS]; None if the picture is too small or has too little in it."""
    squares = _squares(luma, bits)
    if squares is None:
        return None
    return np.concatenate([_band_statistics(squares), _border_statistics(squares)]).astype(np.float32)


def _squares(luma: Plane, bits: int) -> Floats | None:
    """Squares [n, 18, 18] in 8-bit code values, without those of one colour: bars and captions have no level."""
    luma = _without_bars(luma, bits)
    rows, columns = ((side - _SIDE - 7) // 16 + 1 for side in luma.shape)
    if min(rows, columns) < 1:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(luma, (_SIDE, _SIDE))[7::16, 7::16]
    chosen = np.ix_(*(np.linspace(0, count - 1, min(_SQUARES, count)).astype(int) for count in (rows, columns)))
    squares = windows[chosen].reshape(-1, _SIDE, _SIDE) >> (bits - 8)
    squares = squares[np.ptp(squares.reshape(len(squares), -1), axis=1) > 0]
    return squares.astype(np.float32) if len(squares) >= _FEWEST else None


def _without_bars(luma: Plane, bits: int) -> Plane:
    """The picture inside of bars at its sides, with coding blocks where they were."""
    spans = []
    for axis in (1, 0):  # rows, then columns, each by a few of its samples
        step = max(1, luma.shape[axis] // 64)
        lines = luma[:, ::step].T.copy() if axis else luma[::step]
        pictured = np.flatnonzero(np.ptp(lines, axis=0) > _BAR_DEVIATION << (bits - 8))
        spans.append(slice((pictured[0] + 15) // 16 * 16, pictured[-1] + 1) if len(pictured) else slice(0))
    return luma[tuple(spans)]


class _Tables(NamedTuple):
    dct: Floats
    """[24, 16]: of the two blocks in 16 samples, and of the block between them."""
    bands: Floats
    """[64, bands]: averages of the coefficients of a block."""
    first: Floats
    """[17, groups]: averages of first differences at the same distance from the borders of blocks."""
    second: Floats
    """[16, groups]: the same for second differences."""


@cache
def _tables() -> _Tables:
    k = np.arange(8)
    basis = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / 16) * np.where(k[:, None] == 0, math.sqrt(1 / 8), 0.5)
    dct = np.zeros((24, 16))
    dct[:8, :8] = dct[8:16, 8:] = dct[16:, 4:12] = basis
    frequency = (k[:, None] + k[None]).reshape(64)
    bands = np.stack([(first <= frequency) & (frequency <= last) for first, last in _BAND_LIMITS], axis=1)
    # Difference k lies between samples k and k + 1, and the borders before the samples 1, 9 and 17.
    first = _averages(17, (8,), (0, 16), (4, 12), (7, 9), (1, 15), (3, 5, 11, 13), (2, 6, 10, 14))
    second = _averages(16, (7, 8), (0, 15), (3, 4, 11, 12), (6, 9), (1, 14), (2, 5, 10, 13))
    return _Tables(dct.astype(np.float32), (bands / bands.sum(0)).astype(np.float32), first, second)


def _averages(size: int, *groups: tuple[int, ...]) -> Floats:
    table = np.zeros((size, len(groups)), np.float32)
    for column, group in enumerate(groups):
        table[list(group), column] = 1 / len(group)
    return table


def _band_statistics(squares: Floats) -> Floats:
    """Quantiles over blocks of log2 of a band's RMS, how even its coefficients are, and what the grid changes."""
    dct, bands, *_ = _tables()
    count, inner = len(squares), squares[:, 1:17, 1:17]
    on_grid = dct[:16] @ (inner @ dct[:16].T)
    off_grid = dct[16:] @ (inner @ dct[16:].T)
    blocks = on_grid.reshape(count, 2, 8, 2, 8).transpose(1, 3, 0, 2, 4).reshape(4, count, 64)
    coefficients = np.concatenate([blocks, off_grid.reshape(1, count, 64)])
    magnitudes = np.abs(coefficients) @ bands
    power = np.square(coefficients) @ bands + np.float32(0.05)  # less than rounding to whole codes leaves
    evenness = (magnitudes[:4] / np.sqrt(power[:4])).mean((0, 1))
    logs = 0.5 * np.log2(power)
    ours = np.sort(logs[:4].reshape(4 * count, -1).T.copy())
    other = np.sort(logs[4].T.copy())
    quantiles = {share: ours[:, int(share * (4 * count - 1))] for share in (0.05, 0.2, 0.5, 0.8, 0.95)}
    shifts = [ours.mean(1) - other.mean(1)]
    shifts += [quantiles[share] - other[:, int(share * (count - 1))] for share in (0.2, 0.5)]
    return np.concatenate([*quantiles.values(), evenness[1:], *(shift[1:] for shift in shifts)])


def _border_statistics(squares: Floats) -> Floats:
    """Differences by distance from the borders of blocks, relative to those farthest away, and how abrupt edges are."""
    both = np.concatenate([squares[:, ::2], squares[:, :, ::2].transpose(0, 2, 1)])
    first = both[:, :, 1:] - both[:, :, :-1]
    second = first[:, :, 1:] - first[:, :, :-1]
    np.abs(first, out=first)
    np.abs(second, out=second)
    count, lines = first.shape[:2]
    weights = np.repeat(1 / (first.reshape(count, -1).mean(1) + 0.5), lines)  # what shows in flat squares counts more
    ones = np.full(len(weights), 1 / len(weights), np.float32)
    found: list[Any] = []
    for differences, groups in ((first, _tables().first), (second, _tables().second)):
        rows = differences.reshape(len(weights), -1)
        size = weights @ rows @ groups / weights.sum() + np.float32(1e-2)
        zeros = ones @ (rows == 0).astype(np.float32) @ groups
        ratio = (zeros[:-1] + 1e-3) / (zeros[-1] + 1e-3)
        found += [np.log2(size[:-1] / size[-1]), np.log2(ratio), [np.log2(zeros.mean() + 1e-2)]]
    steepest = first.reshape(count, -1).max(1)
    edges = np.argpartition(steepest, -(count // 4))[-(count // 4) :]
    abruptness = second.reshape(count, -1).max(1)[edges] / (steepest[edges] + 1)
    found.append(np.log2([np.median(steepest) + 1, steepest[edges].mean() + 1]))
    found.append(np.quantile(abruptness, (0.2, 0.5, 0.8)))
    return np.concatenate(found)
