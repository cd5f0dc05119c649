"""The stabiliser's gate: how much of each place's history is still true, judged by the source's luma alone.

One recursive picture of the source, the reference, is held beside the stabilised output and follows it with the same
gains. The gate looks at cells of CELL x CELL px and asks of the difference between source and reference whether noise
explains it. Three figures answer, each against the noise that is measured in the stream:

- its energy: objects that move, appear or go;
- the part of it that a small shift of the reference explains (least squares on the gradients of the cells, as in Lucas
  and Kanade, "An iterative image registration technique", IJCAI 1981): slow motion of low contrast, below the noise of
  any single pixel;
- its mean: light that changes.

What noise doesn't explain is the variance by which the history is out of date, and the gain is that of a Kalman filter
of one state (Kalman, "A new approach to linear filtering and prediction problems", 1960): 1/2, 1/3, 1/4 ... where
nothing happens, 1 where the picture is new.

Key frames of a compressed stream renew every pixel at once, though nothing moves: the picture pops. Where a place was
quiet, changes together with most others, and neither a shift nor light explains it, the change is let in slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from onnx_models.gate import (
    CELL,
    COARSE,
    DARK,
    EXPLAINED,
    FEWEST_CELLS,
    FINE,
    FLOOR,
    FOLLOW_BETTER,
    FOLLOW_ENERGY,
    LIGHT,
    LIMIT,
    MARGIN,
    MOVING,
    PER_FRAME,
    POP_CHANGED,
    POP_ENERGY,
    POP_LEFT,
    POP_LIGHT,
    POP_LIKE,
    POP_NEWS,
    POP_QUANTILE,
    POP_QUIET,
    POP_SHIFT,
    QUANTILE,
    QUIET_GAIN,
    RIDGE,
    RIDGE_NOISE,
    RISE,
    SAMPLE,
    SLOPE,
    SPATIAL_MAX,
    SPATIAL_QUANTILE,
    STILL_FRAMES,
    TO_MEAN,
    WIDE,
    WINDOW,
)
from streamer.motion import moved, resized

if TYPE_CHECKING:
    from streamer.frame import Plane
    from streamer.motion import Flow

    Map = npt.NDArray[np.float32]

_EDGE = cv2.BORDER_REPLICATE
_FINE, _SLOPE = (np.array(taps, np.float32) for taps in (FINE, SLOPE))


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What the gate says of one frame: `gain` float32 [cells], 0 to 1, and `limit` in 8-bit codes."""

    gain: Map
    limit: float


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A source's luma in 8-bit codes: `base` reduced, its sides multiples of CELL; the means of `cells`."""

    base: Map
    cells: Map


class Gate:
    """Follows the luma of a stream; for one thread.

    `reduce` is by how much the source is reduced first (block means): 2 where the network keeps the size, so that the
    gate costs less than what it steers. State: 4 bytes for each pixel of the reduced source and 8 for each cell.
    """

    def __init__(self, reduce: int = 1) -> None:
        self._reduce = reduce
        self.reset()

    def reset(self) -> None:
        """The next frame is new everywhere."""
        self._reference: Map | None = None
        self._gain = np.zeros((0, 0), np.float32)
        self._pop = np.zeros((0, 0), np.float32)
        self._noise: float | None = None
        self._repeats = 0
        self._pop_level = 0.0

    @property
    def noise(self) -> float | None:
        """Standard deviation of the noise in 8-bit codes, in the reduced source; None if not yet known."""
        return None if self._noise is None else self._noise**0.5

    @property
    def nbytes(self) -> int:
        """Memory of the state."""
        return 0 if self._reference is None else self._reference.nbytes + self._gain.nbytes + self._pop.nbytes

    def look(self, luma: Plane, bits: int = 8) -> Look:
        """The source's luma [h, w], uint8 or uint16 with `bits` of a sample, as `update` wants it."""
        block = self._reduce * CELL
        height, width = luma.shape
        if height % block or width % block:
            luma = np.asarray(cv2.copyMakeBorder(luma, 0, -height % block, 0, -width % block, _EDGE), luma.dtype)
        if self._reduce > 1:
            luma = np.asarray(_area(luma, self._reduce), luma.dtype)
        base = luma.astype(np.float32)
        if bits > 8:
            base *= np.float32(2.0 ** (8 - bits))
        return Look(base, _cells(base))

    def update(self, look: Look, *, elapsed: int = 1, repeated: bool = False) -> Verdict:
        """Takes the next frame.

        Args:
            look: at the source.
            elapsed: frames since the last one; more than 1 after drops.
            repeated: the frame is the last one again, so it says nothing of noise.
        """
        base = look.base
        if self._reference is None:
            self._reference = base.copy()
            self._gain = np.ones_like(look.cells)
            self._pop = np.zeros_like(look.cells)
            return Verdict(self._gain, 0.0)
        difference = cv2.subtract(base, self._reference)
        means, energy = _cells(difference), _cells(cv2.multiply(difference, difference))
        before = self._gain
        self._repeats = self._repeats + 1 if repeated else 0
        evidence = _Evidence(self._reference, means, energy, self._variance)
        self._estimate(look, energy / (1 + before), may_rise=evidence.may_be_noise())
        noise = self._variance
        expected = noise * (1 + before)
        accepted = self._accept(evidence, before, expected)
        news = np.where(accepted, np.float32(POP_NEWS), evidence.news(self._pop, expected))
        variance = before + news + np.float32(PER_FRAME * elapsed)
        self._gain = gain = np.asarray(variance / (1 + variance), np.float32)
        self._pop *= np.square(1 - gain)
        weights = cv2.resize(gain, base.shape[::-1], interpolation=cv2.INTER_LINEAR)
        self._reference += cv2.multiply(difference, weights)
        limit = LIMIT * self._reduce * (noise + self._pop_level) ** 0.5
        self._pop_level *= float(np.square(1 - gain.min()))
        return Verdict(gain, float(limit))

    def follow(self, look: Look, flow: Flow, trusted: npt.NDArray[np.bool_]) -> Flow | None:
        """Moves the state along a flow where that explains the next frame better than standing still does.

        Args:
            look: at the next frame, for which `update` comes next.
            flow: where its pixels were in the last frame, at any size.
            trusted: whether they were there at all, at any size.

        Returns:
            The flow that was followed, 0 where none was, at that size; None if it was followed nowhere.
        """
        if self._reference is None:
            return None
        size = look.base.shape
        followed = np.asarray(moved(self._reference, resized(flow, size)), np.float32)
        energies = [
            _blur(_cells(_square(cv2.subtract(look.base, reference))), WINDOW)
            for reference in (self._reference, followed)
        ]
        noise = self._variance * (1 + self._gain)
        better = (energies[0] > FOLLOW_ENERGY * noise) & (energies[1] < FOLLOW_BETTER * energies[0])
        if not better.any():
            return None
        share = better.astype(np.float32)
        weights = cv2.resize(share, size[::-1], interpolation=cv2.INTER_LINEAR)
        self._reference += cv2.multiply(cv2.subtract(followed, self._reference), weights)
        weights = cv2.resize(share, flow.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        flow = np.asarray(cv2.multiply(flow, cv2.merge([weights, weights])), np.float32)
        cells = resized(flow, better.shape)
        self._gain, self._pop = (np.asarray(moved(state, cells), np.float32) for state in (self._gain, self._pop))
        seen = cv2.resize(trusted.astype(np.float32), better.shape[::-1], interpolation=cv2.INTER_AREA)
        self._gain[better & (seen < 1)] = 1.0
        return flow

    @property
    def _variance(self) -> float:
        """Of the noise, as far as it is known."""
        return max(TO_MEAN * (self._noise or 0.0), FLOOR)

    def _estimate(self, look: Look, energy: Map, *, may_rise: bool) -> None:
        """Measures the noise, from what changes between frames, and from what is fine within one.

        What moves looks like noise, so a picture may be found less noisy than before at any time, but more only if
        `may_rise`.
        """
        some = (slice(None, None, SAMPLE), slice(None, None, SAMPLE))
        useful = (look.cells[some] > DARK) & (look.cells[some] < LIGHT)
        if self._repeats not in range(1, STILL_FRAMES) and np.count_nonzero(useful) >= FEWEST_CELLS:
            fine = cv2.sepFilter2D(look.base, -1, _FINE, _FINE, borderType=_EDGE)
            spatial = _quantile(_cells(cv2.multiply(fine, fine))[some][useful], SPATIAL_QUANTILE)
            now = min(_quantile(energy[some][useful], QUANTILE), SPATIAL_MAX * spatial)
            last = now if self._noise is None else self._noise
            if now < last:
                self._noise = (last + now) / 2
            elif may_rise:
                self._noise = min(now, RISE * max(last, FLOOR))

    def _accept(self, evidence: _Evidence, before: Map, expected: Map) -> npt.NDArray[np.bool_]:
        """Finds a pop, and takes its energy into account where it is one."""
        quiet = before < QUIET_GAIN
        changed = quiet & (evidence.energy > POP_ENERGY * expected + POP_LEFT * self._pop)
        unmoved, unlit = (changed & which for which in evidence.looks_like_a_pop(self._variance))
        counts = [np.count_nonzero(which) for which in (quiet, changed, unmoved, unlit)]
        found = counts[0] > POP_QUIET * quiet.size and counts[1] > POP_CHANGED * counts[0]
        if not found or min(counts[2:]) <= POP_LIKE * counts[1]:
            return np.zeros_like(quiet)
        alike = unmoved & unlit
        self._pop = np.where(alike, evidence.energy, self._pop)
        self._pop_level = _quantile(evidence.energy[alike], POP_QUANTILE)
        return alike


class _Evidence:
    """What the difference between source and reference shows, in cells."""

    def __init__(self, reference: Map, means: Map, energy: Map, variance: float) -> None:
        """`means` and `energy` (mean square) of the difference; `variance` of the noise as it was so far."""
        self.energy = _blur(energy, WINDOW)
        self._wide_energy = _blur(energy, WIDE)
        self._mean_energy = _blur(means * means, WIDE)
        self._light = np.square(_blur(means, WIDE))
        self._shift = _explained(_cells(reference), means, variance / CELL**2)
        self._ridge = np.float32(RIDGE_NOISE * variance / CELL**2)

    def may_be_noise(self) -> bool:
        """Whether most of the difference is as fine as noise, and no shift explains it."""
        moved = np.mean(self._shift / (self._mean_energy + self._ridge))
        coarse = np.mean(self._mean_energy / (self._wide_energy + self._ridge))
        return bool(moved < MOVING and coarse * CELL**2 < COARSE)

    def news(self, pop: Map, expected: Map) -> Map:
        """What noise and a pop on its way in don't explain, in units of the noise; `expected` is that of each cell."""
        energy = (self.energy - POP_LEFT * pop) / expected - (1 + MARGIN)
        news = np.maximum(energy, 0)
        wide = expected + CELL**2 * pop
        count = np.float32(WIDE**2)  # cells of a window, so its mean has so much less of their variance
        for part in (self._shift, self._light):
            news += np.maximum(count * CELL**2 * part / wide - EXPLAINED, 0) / count
        return np.asarray(news, np.float32)

    def looks_like_a_pop(self, variance: float) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Where no shift explains the change, and where no light does."""
        unmoved = self._shift < POP_SHIFT * (self._mean_energy + self._ridge)
        unlit = self._light < POP_LIGHT * (self._wide_energy + np.float32(variance))
        return np.asarray(unmoved, np.bool_), np.asarray(unlit, np.bool_)


def _explained(reference: Map, means: Map, variance: float) -> Map:
    """The mean square of `means` that the best shift of the reference explains in each window of WIDE x WIDE cells."""
    across = cv2.filter2D(reference, -1, _SLOPE[None], borderType=_EDGE)
    down = cv2.filter2D(reference, -1, _SLOPE[:, None], borderType=_EDGE)
    xx, yy, xy = _blur(across * across, WIDE), _blur(down * down, WIDE), _blur(across * down, WIDE)
    x, y = _blur(across * means, WIDE), _blur(down * means, WIDE)
    ridge = np.float32(RIDGE) * (xx + yy) + np.float32(RIDGE_NOISE * variance)
    xx, yy = xx + ridge, yy + ridge
    return np.asarray((yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy), np.float32)


def _square(values: npt.NDArray[Any]) -> Map:
    return np.asarray(cv2.multiply(values, values), np.float32)


def _cells(values: npt.NDArray[Any]) -> Map:
    return np.asarray(_area(_area(values, 2), 2), np.float32)


def _area(values: npt.NDArray[Any], by: int) -> npt.NDArray[Any]:
    size = (values.shape[1] // by, values.shape[0] // by)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA))


def _blur(values: Map, side: int) -> Map:
    return np.asarray(cv2.blur(values, (side, side), borderType=_EDGE), np.float32)


def _quantile(values: Map, share: float) -> float:
    place = int(share * (values.size - 1))
    return float(np.partition(values, place)[place])
