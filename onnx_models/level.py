"""The `level` and `noise` inputs of conditioned networks: how degraded a stream is, each from 0 (clean) to 1 (heavy).

Both are logarithms of an error in code values. Quantisation with step q leaves an error of at most q / sqrt(12)
(uniform distribution), so a quantiser and sensor noise have a common measure, expressed as the H.264 quantisation
parameter with that step: q = 0.625 * 2^(QP / 6) (ITU-T H.264, table 8-12 and equation 8-350; 6 more is twice the step).

    QP     10    16    22    28    34    40    42      mean over the blocks: `level`
    sigma  0.6   1.1   2.3   4.6   9.2   18    23      in 8-bit code values, as it is in the received picture: `noise`
    input  0     0.19  0.38  0.56  0.75  0.94  1

They are two, because small networks can't tell one from the other: told only the sum of both, w16d2u1 gained 0.10 dB
less on streams of CRF 18 and 23 (x2, 8,000 steps). Training computes them from what was done to a sequence, `streamer`
from the decoder and the picture.
"""

from __future__ import annotations

import math

LEVEL_NAMES = ("level", "noise")
"""The inputs of a conditioned network, in the order in which they are told."""
CLEAN_QP, HEAVY_QP = 10.0, 42.0
"""Quantisation parameters of level 0 and 1."""
_STEP_AT_0 = 0.625


def step_of_qp(qp: float) -> float:
    """The quantiser step in code values of an H.264 quantisation parameter."""
    return float(_STEP_AT_0 * 2 ** (qp / 6))


def qp_of_step(step: float) -> float:
    """The inverse of `step_of_qp`; -inf for no quantisation."""
    return 6 * math.log2(step / _STEP_AT_0) if step > 0 else -math.inf


def level_of_qp(qp: float) -> float:
    """0..1 of a mean H.264 quantisation parameter; -inf: not compressed."""
    return min(1.0, max(0.0, (qp - CLEAN_QP) / (HEAVY_QP - CLEAN_QP)))


def level_of_stream(qp: float) -> float:
    """0..1 of the mean QP that a video decoder told: the square of its `level_of_qp`.

    Real cameras' video suffers less from a mean QP than the sequences that networks are trained on: unmoving parts keep
    the quality of their key frame, whatever QP their skipped blocks carry. On seven development clips the best share of
    the QP's level rises with it, from 0.4 (x264 at CRF 18) to 0.9 (CRF 38), for enlarging and restoring networks alike.
    """
    return level_of_qp(qp) ** 2


def level_of_noise(sigma: float) -> float:
    """0..1 of a standard deviation of additive noise, in 8-bit code values."""
    return level_of_qp(qp_of_step(sigma * math.sqrt(12)))
