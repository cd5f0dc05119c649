"""What the tests share: a fresh simulated GPU with the stand-in for TensorRT, and a check of what was done on it."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import pytest

from tests.gpu.device import LAZY, SimulatedGpu, Unavailable, load_simulated_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOTHING = {"device": 0, "pinned": 0, "streams": 0, "contexts": 0}


@pytest.fixture
def simulated_gpu(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[SimulatedGpu]:
    """One simulated GPU in the lazy order; the test fails if anything on it was done wrong or left behind."""
    pytest.importorskip("onnxruntime", reason="the stand-in for TensorRT runs models with it")
    try:
        gpu = load_simulated_gpu(request.config.cache.mkdir("simulated-gpu"))
    except Unavailable as reason:  # no pycuda or no C++ compiler, which the project itself needs neither of
        pytest.skip(str(reason))
    from tests.gpu import standin

    standin.device[:] = [gpu]
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, standin)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpu.reset(order=LAZY)
    yield gpu
    if gpu.live() != NOTHING:
        gc.collect()
    left, wrong = gpu.live(), gpu.violations()
    gpu.reset(devices=0)
    assert not wrong, wrong
    assert left == NOTHING, left
