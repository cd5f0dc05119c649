"""ONNX Runtime on a GPU, with CUDA and TensorRT: what is verified first. Its contract is in tests/test_engines.py."""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import (
    EngineError,
    EngineRequest,
    OnnxRuntimeCudaEngine,
    OnnxRuntimeTensorRTEngine,
    PlanCache,
    available_engines,
    for_bits,
    select,
)
from engines.onnxruntime_tensorrt import has_libraries
from engines.opening import make_engine
from engines.tensorrt import DriverError
from engines.tensorrt.driver import Driver
from tests.pixel_models import tiny_model

ort: Any = pytest.importorskip("onnxruntime", reason="the extra `ort` is not installed")
SHAPES = {"luma": (1, 1, 18, 26)}
TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"


def installed(patch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    patch.setattr(metadata, "version", lambda name: "1.31.1" if name == "onnxruntime-gpu" else real(name))


def row(name: str = "onnxruntime-cuda") -> Any:
    return next(row for row in available_engines() if row.name == name)


def test_a_package_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(EngineError, match=r"needs a package with CUDAExecutionProvider.*onnxruntime-gpu\[cuda,cudnn\]"):
        OnnxRuntimeCudaEngine(tiny_model(), SHAPES).open()


def test_a_silent_fall_back_to_the_cpu_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As onnxruntime-gpu does it where CUDA can't run: the provider is listed, asked for, and not there."""
    real, asked = ort.InferenceSession, []

    def fall_back(model: bytes, options: Any, providers: Any) -> Any:
        asked.extend(providers)
        return real(model, options, providers=[CPU])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"), raising=False)
    monkeypatch.setattr(ort, "InferenceSession", fall_back)
    engine = OnnxRuntimeCudaEngine(tiny_model(), SHAPES, device=1)
    with pytest.raises(EngineError, match=r"on GPU 1, and ONNX Runtime fell back to CPUExecutionProvider without"):
        engine.open()
    assert not engine.is_open
    assert asked == [(CUDA, {"device_id": "1", "use_tf32": "0"})]
    assert capsys.readouterr().out == ""


def test_looking_for_cuda_leaves_the_output_of_others_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading takes a second, in which other threads print, and a second engine may be opened."""

    def preload(cuda: bool = True, *, directory: str | None = None) -> None:
        assert cuda
        assert sys.stdout is real
        print("Failed to load libcudnn.so.9")
        sys.stdout.write("a picture of another job's\n")

    real = sys.stdout
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "preload_dlls", preload, raising=False)
    OnnxRuntimeCudaEngine(tiny_model(), SHAPES)._providers(ort)
    assert capsys.readouterr().out == "a picture of another job's\n"


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


# --- with TensorRT


def test_a_package_without_tensorrt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(EngineError, match=r"needs a package with TensorrtExecutionProvider.*tensorrt-cu12"):
        OnnxRuntimeTensorRTEngine(tiny_model(), SHAPES).open()


@pytest.mark.parametrize("precision", ["f16", "f32"])
@pytest.mark.parametrize("running", [[CUDA, CPU], [CPU]])
def test_another_provider_in_its_place_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, running: list[str], precision: str
) -> None:
    real, asked = ort.InferenceSession, []

    def fall_back(model: bytes, options: Any, providers: Any) -> Any:
        asked.extend(providers)
        session = real(model, options, providers=[CPU])
        monkeypatch.setattr(session, "get_providers", lambda: running)
        return session

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", fall_back)
    engine = OnnxRuntimeTensorRTEngine(tiny_model(), SHAPES, device=1)
    engine.precision = precision
    with pytest.raises(
        EngineError, match=rf"asked for {TENSORRT} on GPU 1, and ONNX Runtime fell back to {running[0]}"
    ):
        engine.open()
    (first, options), (second, _) = asked
    assert (first, second) == (TENSORRT, CUDA)
    assert options["trt_fp16_enable"] == {"f16": "1", "f32": "0"}[precision]
    assert options["trt_engine_cache_enable"] == "1"
    folder = PlanCache().folder / "onnxruntime"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    (folder / "some.engine").write_bytes(bytes(100))
    assert PlanCache().clear() == 100
    assert not list(folder.iterdir())


def test_every_model_and_size_has_its_own_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ONNX Runtime names an engine's file by names in the graph alone."""

    def prefix(model: bytes, height: int = 18) -> str:
        engine = OnnxRuntimeTensorRTEngine(model, {"luma": (1, 1, height, 26)})
        return engine._provider_options()["trt_engine_cache_prefix"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = tiny_model()
    monkeypatch.setattr("tests.pixel_models.KERNEL", np.zeros((4, 1, 3, 3), np.float32))
    retrained = tiny_model()
    found = [prefix(first), prefix(first, 20), prefix(retrained), prefix(for_bits(first, 10))]
    assert len(set(found)) == len(found)
    assert prefix(first) == found[0]


def test_deep_pixels_are_computed_in_float32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In float16, where TensorRT may hold code values, those above 2048 lose digits and those above 65504 overflow."""

    def precision(bits: int, **asked: Any) -> str:
        request = EngineRequest(tiny_model(), 26, 18, bits=bits, **asked)
        return make_engine(select.entry("onnxruntime-tensorrt"), request).precision

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [precision(bits) for bits in (8, 10, 12, 16)] == ["f16", "f16", "f32", "f32"]
    assert precision(12, islands=2, precision="f16") == "f32"
    with pytest.raises(EngineError, match=r"onnxruntime-tensorrt engine has float16 for up to 10 bits.*precision f32"):
        precision(12, precision="f16")


def test_engines_that_others_may_write_are_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = PlanCache().subfolder("onnxruntime")
    assert folder is not None
    engine = folder / "some.engine"
    engine.touch()
    engine.chmod(0o664)  # as ONNX Runtime leaves it where a group is each user's own
    options = OnnxRuntimeTensorRTEngine(tiny_model(), SHAPES)._provider_options
    assert options()["trt_engine_cache_path"] == str(folder), "nobody else comes into the folder"
    assert not caplog.text
    folder.chmod(0o755)
    assert options() == {"device_id": "0", "trt_fp16_enable": "0"}
    assert "nothing is kept in" in caplog.text


def test_stubs_for_type_checkers_are_no_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    if importlib.util.find_spec("tensorrt_libs") is None:
        assert not has_libraries()
    (tmp_path / "tensorrt" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert has_libraries()


def test_the_row_needs_the_package_the_libraries_and_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_libraries", lambda: False)
    installed(monkeypatch)
    assert "the package tensorrt is not installed" in row("onnxruntime-tensorrt").reason
    monkeypatch.setattr(select, "has_libraries", lambda: True)
    monkeypatch.setattr(select, "find_driver", lambda: Driver("13.0", ("GPU A",)))
    assert row("onnxruntime-tensorrt").reason.startswith("runs on the GPU in float16 (0: GPU A;")
    assert available_engines()[-1].name == "onnxruntime-tensorrt", "auto never waits for it"
