"""Scene cuts: the synthesised set of the benchmark, on pictures that are drawn here."""

from __future__ import annotations

from collections import defaultdict

import cv2
import numpy as np

from benchmarks.cutset import Tally, events, judge
from streamer.cuts import CutDetector
from tests.photos import picture


def test_precision_and_recall_of_the_synthesised_set() -> None:
    pictures = [np.asarray(cv2.cvtColor(picture(seed, 180, 320), cv2.COLOR_BGR2GRAY), np.uint8) for seed in range(3)]
    tallies: dict[str, Tally] = defaultdict(lambda: Tally(0, 0, 0))
    for event in events(pictures):
        tallies[event.name] += judge(event, CutDetector())
    total = sum(tallies.values(), Tally(0, 0, 0))
    assert total.precision >= 0.98, tallies
    assert total.recall >= 0.93, tallies
    for name in ("flash", "strobe", "fade through black", "dissolve", "exposure"):
        assert tallies[name] == Tally(0, 0, 0), name
    assert tallies["cut"].missed == tallies["cuts, close"].missed == 0


def test_constant_colour_and_tiny_pictures_are_no_cuts() -> None:
    for shape in ((1, 1), (3, 50), (90, 160)):
        detector = CutDetector()
        assert not any(detector.update(np.full(shape, level, np.float32)) for level in (0, 0, 255, 255, 16, 235))
