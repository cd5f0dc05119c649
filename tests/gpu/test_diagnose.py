"""What doctor says of each known symptom."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

import av
import av.error
import pytest

from engines import diagnose_gpu, explain
from streamer.doctor import report
from tests.gpu import standin

if TYPE_CHECKING:
    from tests.gpu.device import SimulatedGpu

SYMPTOMS = [
    ("ImportError: libcuda.so.1: cannot open shared object file: No such file or directory", "no NVIDIA driver"),
    ("RuntimeError: Failed to dlopen libcuda.so.1", "no NVIDIA driver"),
    ("RuntimeError: cuInit failed: no CUDA-capable device is detected", "driver but no GPU"),
    ("RuntimeError: cuInit failed: CUDA driver is a stub library", "toolkit's stub"),
    ("TypeError: pybind11::init(): factory function returned nullptr", "does not start"),
    (
        "Unable to initialize CUDA: cudaError 35; pybind11::init(): factory function returned nullptr",
        "update the driver",
    ),
    (
        "ImportError: libnvonnxparser.so.11: cannot open shared object file: No such file or directory",
        "without its lib",
    ),
    ("AttributeError: module 'tensorrt' has no attribute 'Builder'", "only tensorrt-stubs"),
    ("TensorRT does not load the plan: it gave no reason", "engines clear"),
    ("PermissionError: [Errno 1] Operation not permitted: 'avcodec_open2(\"h264_nvenc\", {})'", "NVENC cannot be used"),
]


@pytest.mark.parametrize(("said", "told"), SYMPTOMS)
def test_known_symptoms_are_explained(said: str, told: str) -> None:
    assert told in explain(said)


def test_an_unknown_one_is_not() -> None:
    assert explain("the sky is blue") == ""


def lines() -> dict[str, str]:
    return dict(line.split(": ", 1) for line in diagnose_gpu())


def test_everything_is_well(simulated_gpu: SimulatedGpu) -> None:
    found = lines()
    assert found["driver"] == "CUDA 13.0; 0: Simulated GPU"
    assert found["pycuda"].endswith("ok")
    assert found["tensorrt"] == "11.4.0, starts"
    assert "Simulated GPU" in report()


def test_a_driver_without_a_gpu(simulated_gpu: SimulatedGpu) -> None:
    simulated_gpu.reset(devices=0)
    assert "no GPU that it can use" in lines()["driver"]
    assert "there is a driver but no GPU" in lines()["pycuda"]


def test_a_library_that_does_not_start(simulated_gpu: SimulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, logger: standin.ILogger) -> None:
        logger.log(standin.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(standin.Builder, "__init__", refuse)
    assert "error: 35" in lines()["tensorrt"]
    assert "update the driver" in lines()["tensorrt"]


def test_stubs_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = types.ModuleType("tensorrt")
    empty.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "tensorrt", empty)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    found = lines()
    assert "uninstall tensorrt-stubs" in found["tensorrt"]
    assert "enhancer[rtx]" in found["tensorrt-rtx"]
    assert found["pycuda"].startswith("not installed")
    assert "pip install cuda-bindings" in found["cuda-bindings"]


@pytest.mark.parametrize("kind", [av.error.UnknownError, av.error.ExternalError, av.error.PermissionError])
def test_an_encoder_that_does_not_open_is_a_line_and_no_crash(
    monkeypatch: pytest.MonkeyPatch, kind: type[av.error.FFmpegError]
) -> None:
    def refuse() -> None:
        raise kind(1, "no capable devices")

    monkeypatch.setattr(av, "codecs_available", {"h264_nvenc"})
    encoder = types.SimpleNamespace(open=refuse)
    monkeypatch.setattr(av, "CodecContext", types.SimpleNamespace(create=lambda name, mode: encoder))
    assert "nvenc: h264_nvenc (not here: " in report()
