"""Codecs of the training data, and the level that says how coarse they were."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from onnx_models.codecs import Coding, Decoded, transcode
from onnx_models.level import CLEAN_QP, HEAVY_QP, level_of_noise, level_of_qp, qp_of_step, qp_of_venc_params, step_of_qp
from onnx_models.quality import psnr
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


def venc_params(kind: int, qp: int, deltas: list[int]) -> bytes:
    header = struct.pack("=I4xQQii8i", len(deltas), 64, 20, kind, qp, *range(8))
    blocks = b"".join(struct.pack("=5i", 16 * i, 0, 16, 16, delta) for i, delta in enumerate(deltas))
    return header + blocks


def test_the_decoders_quantisers_are_averaged() -> None:
    assert qp_of_venc_params(venc_params(1, 23, [-1, 9, 1])) == 26
    assert qp_of_venc_params(venc_params(1, 23, [])) == 23
    assert qp_of_venc_params(venc_params(2, 0, [8, 12])) == pytest.approx(qp_of_step(10))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 63, venc_params(1, 23, [1, 2])[:-1], venc_params(0, 23, [1]), venc_params(2, 0, []), b"\xff" * 200],
    ids=["empty", "short", "cut", "vp9", "no step", "garbage"],
)
def test_what_a_decoder_did_not_tell_is_unknown(content: bytes) -> None:
    assert qp_of_venc_params(content) is None
