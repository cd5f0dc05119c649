"""Codecs of the training data, and the level that says how coarse they were."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from onnx_models.codecs import Coding, Decoded, transcode
from onnx_models.level import CLEAN_QP, HEAVY_QP, level_of_noise, level_of_qp, qp_of_step, step_of_qp
from onnx_models.quality import psnr
from onnx_models.quantiser import mean_qp
from onnx_models.scenes import Planes


def moving(frames: int = 6) -> list[Planes]:
    rng = np.random.default_rng(2)
    coarse = rng.integers(40, 200, (12, 16)).astype(np.uint8)
    luma = np.kron(coarse, np.ones((8, 8), np.uint8)) + rng.integers(0, 20, (96, 128)).astype(np.uint8)
    grey = np.full((48, 64), 128, np.uint8)
    return [(np.roll(luma, 2 * t, axis=1), grey, grey) for t in range(frames)]


@pytest.mark.parametrize(
    ("codec", "qualities"),
    [
        ("h264", (12, 24, 36)),
        ("hevc", (14, 26, 38)),
        ("mpeg2", (2, 6, 20)),
        ("vp9", (8, 30, 52)),
        ("jpeg", (95, 60, 15)),
    ],
)
def test_coarser_is_smaller_worse_and_known(codec: str, qualities: tuple[int, ...]) -> None:
    sequence = moving()
    results = [transcode(sequence, Coding(codec, quality)) for quality in qualities]

    def fidelity(result: Decoded) -> float:
        return float(np.mean([psnr(a[0], b[0]) for a, b in zip(result.sequence, sequence, strict=True)]))

    assert [len(result.sequence) for result in results] == [6] * 3
    sizes = [result.size_bytes for result in results]
    assert sizes == sorted(sizes, reverse=True)
    scores = [fidelity(result) for result in results]
    assert scores == sorted(scores, reverse=True)
    levels = [level_of_qp(result.qp) for result in results]
    assert levels == sorted(levels)
    assert levels[0] < 0.4
    assert levels[2] > 0.6


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg2", "vp9", "jpeg"])
def test_the_error_is_within_what_the_step_allows(codec: str) -> None:
    quality = {"h264": 20, "hevc": 20, "mpeg2": 4, "vp9": 16, "jpeg": 80}[codec]
    sequence = moving()
    result = transcode(sequence, Coding(codec, quality))
    rmse = math.sqrt(
        np.mean([(a[0].astype(float) - b[0]) ** 2 for a, b in zip(result.sequence, sequence, strict=True)])
    )
    assert 0.3 * step_of_qp(result.qp) / math.sqrt(12) < rmse < 2 * step_of_qp(result.qp) / math.sqrt(12)


def test_levels_have_their_stated_ends() -> None:
    assert level_of_qp(-math.inf) == level_of_qp(CLEAN_QP) == level_of_noise(0) == 0
    assert level_of_qp(HEAVY_QP) == level_of_qp(99) == level_of_noise(100) == 1
    assert level_of_qp(26) == pytest.approx(0.5)
    assert level_of_noise(step_of_qp(26) / math.sqrt(12)) == pytest.approx(0.5)


def test_steps_and_parameters_are_inverse() -> None:
    assert step_of_qp(4) == pytest.approx(0.992, abs=1e-3)
    assert [qp_of_step(step_of_qp(qp)) for qp in (0, 23, 51)] == pytest.approx([0, 23, 51])
    assert qp_of_step(0) == -math.inf


def told(
    *deltas: int, kind: int = 1, base: int = 30, sizes: tuple[int, ...] = (), step: int = 20, offset: int = 64
) -> bytes:
    """FFmpeg's AVVideoEncParams with 16x16 blocks, or of `sizes` x 16."""
    header = struct.pack("=I4xQQii32x", len(deltas), offset, step, kind, base)
    widths = sizes or (16,) * len(deltas)
    blocks = b"".join(
        struct.pack("=5i", 0, 0, width, 16, delta).ljust(step, b"\0")
        for delta, width in zip(deltas, widths, strict=True)
    )
    return header + blocks


def test_the_decoders_quantisers_are_averaged() -> None:
    assert mean_qp(told(-1, 9, 1, base=23)) == 26
    assert mean_qp(told(base=23)) == 23
    assert mean_qp(told(8, 12, kind=2, base=0)) == pytest.approx(qp_of_step(10))


def test_blocks_count_by_their_area() -> None:
    assert mean_qp(told(-2, 4)) == 31
    assert mean_qp(told(-2, 4, step=24)) == 31
    assert mean_qp(told(-2, 4, sizes=(8, 24))) == 32.5


def test_deeper_samples_have_a_lower_parameter_on_the_8_bit_scale() -> None:
    assert mean_qp(told(), bits=10) == 18
    assert mean_qp(told(10, kind=2, base=0), bits=10) == qp_of_step(10)


def test_blocks_of_plain_samples_or_not_yet_written_do_not_count() -> None:
    assert mean_qp(told(0, -30, 0)) == 30
    assert mean_qp(told(-30, -30)) is None


def test_damaged_side_data_tells_nothing() -> None:
    whole = told(1, 2, 3)
    assert all(mean_qp(whole[:length]) is None for length in range(len(whole)))
    assert mean_qp(told(1, kind=0)) is None  # VP9
    assert mean_qp(told(kind=2, base=0)) is None
    assert mean_qp(told(kind=2, base=-5)) is None
    assert mean_qp(told(base=10**6)) is None
    assert mean_qp(told(10**9)) is None
    assert mean_qp(told(0, sizes=(-16,))) is None
    assert mean_qp(told(0, offset=2**60)) is None
    assert mean_qp(b"\xff" * 200) is None
    garbage = np.random.default_rng(0)
    for length in range(0, 400, 7):
        mean_qp(garbage.bytes(length))
