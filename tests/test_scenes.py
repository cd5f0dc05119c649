"""Moving sequences made from photographs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from onnx_models.scenes import SceneMix, Scenes
from tests.photos import picture

if TYPE_CHECKING:
    from pathlib import Path


def test_a_part_of_another_photograph_moves_over_a_still_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        cv2.imwrite(str(path), picture(seed, 192, 256))
    mix = SceneMix(width_px=256, height_px=192, frames=6, inset_share=1.0, speed_px=(3.0, 3.0))
    sequence = Scenes(paths, [], mix).draw(np.random.default_rng(4))
    lumas = np.stack([planes[0] for planes in sequence]).astype(int)
    moves = np.ptp(lumas, axis=0) > 0
    assert 0.05 < moves.mean() < 0.6  # the rest stands still
    rows, cols = np.nonzero(np.abs(np.diff(lumas, axis=0)).max(axis=0) > 8)
    assert np.ptp(rows) < 190 or np.ptp(cols) < 250
    assert all(plane.dtype == np.uint8 for planes in sequence for plane in planes)
    assert {planes[1].shape for planes in sequence} == {(96, 128)}
