"""ONNX Runtime on a GPU: what is verified before it is believed. Its contract is in tests/test_engines.py."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest

from engines import EngineError, OnnxRuntimeCudaEngine, available_engines, select
from engines.tensorrt import DriverError
from engines.tensorrt.driver import Driver
from tests.pixel_models import tiny_model

ort: Any = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
SHAPES = {"luma": (1, 1, 18, 26)}
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def installed(patch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    patch.setattr(metadata, "version", lambda name: "1.31.1" if name == "onnxruntime-gpu" else real(name))


def row() -> Any:
    return next(row for row in available_engines() if row.name == "onnxruntime-cuda")


def test_a_package_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(EngineError, match=r"needs a package with CUDA.*onnxruntime-gpu\[cuda,cudnn\]"):
        OnnxRuntimeCudaEngine(tiny_model(), SHAPES).open()


def test_a_silent_fall_back_to_the_cpu_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As onnxruntime-gpu does it where CUDA can't run: the provider is listed, asked for, and not there."""
    real, asked = ort.InferenceSession, []

    def fall_back(model: bytes, options: Any, providers: Any) -> Any:
        asked.extend(providers)
        return real(model, options, providers=[CPU])

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["TensorrtExecutionProvider", CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"), raising=False)
    monkeypatch.setattr(ort, "InferenceSession", fall_back)
    engine = OnnxRuntimeCudaEngine(tiny_model(), SHAPES, device=1)
    with pytest.raises(EngineError, match=r"on GPU 1, and ONNX Runtime fell back to CPUExecutionProvider without"):
        engine.open()
    assert not engine.is_open
    assert asked == [(CUDA, {"device_id": "1", "use_tf32": "0"})]
    assert capsys.readouterr().out == ""


def test_the_row_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> Driver:
        raise DriverError("there is no NVIDIA driver")

    monkeypatch.setattr(select, "find_driver", no_driver)
    if row().version is None:
        assert "onnxruntime-gpu is not installed" in row().reason
    installed(monkeypatch)
    assert (row().usable, row().reason) == (False, "there is no NVIDIA driver")


def test_the_row_names_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    monkeypatch.setattr(select, "find_driver", lambda: Driver("13.0", ("GPU A", "GPU B")))
    assert row().usable
    assert row().reason == "runs on the GPU in float32 (0: GPU A, 1: GPU B; the driver has CUDA 13.0)"
    assert row().device == "GPU A"
