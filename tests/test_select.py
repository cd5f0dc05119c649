"""The table of engines: what can run here, what is chosen and why; and what imports load."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import engines
from engines import (
    EngineError,
    EngineRequest,
    OnnxRuntimeEngine,
    OpenVINOEngine,
    available_engines,
    choose_engine,
    open_engine,
)
from tests.pixel_models import assert_close, expected, picture, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

HEIGHT, WIDTH = 18, 26
SHAPES = {"luma": (1, 1, HEIGHT, WIDTH)}
ONE = np.ones(1, np.float32)
USABLE = [row.name for row in available_engines() if row.usable]


def test_rows_come_in_order_with_a_reason() -> None:
    rows = available_engines()
    gpu, cpu = ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda"], ["openvino", "onnxruntime"]
    assert [row.name for row in rows] == [*gpu, *cpu, "onnxruntime-tensorrt"]
    assert all(row.reason for row in rows)
    assert all(row.version and row.device for row in rows if row.usable)


def test_auto_is_the_first_usable_row_and_says_why() -> None:
    choice = choose_engine()
    rows = available_engines()
    assert choice.row == next(row for row in rows if row.usable)
    assert len(choice.reasons) == rows.index(choice.row) + 1
    assert choice.reasons[-1].startswith(choice.row.name)


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(EngineError, match=r"use one of auto, tensorrt, .*onnxruntime"):
        choose_engine("cuda")


@pytest.mark.parametrize(("name", "fix"), [("openvino", "pip install openvino"), ("onnxruntime", r"enhancer\[ort\]")])
def test_a_named_engine_without_its_package_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, fix: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineError, match=f"{name} engine was asked for and cannot run.*{fix}"):
        choose_engine(name)
    engine = {"openvino": OpenVINOEngine, "onnxruntime": OnnxRuntimeEngine}[name](tiny_model(), SHAPES)
    with pytest.raises(EngineError, match=fix.replace("pip install ", "")):
        engine.open()
    assert choose_engine().row.name != name


def test_no_engine_at_all_gives_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in available_engines():
        monkeypatch.setitem(sys.modules, row.name.replace("-", "_"), None)
    with pytest.raises(EngineError, match=r"no engine can run here: tensorrt: .*onnxruntime: "):
        choose_engine()


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_gpu_rows_say_which_package_is_missing(monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    for module in ("pycuda", name.replace("-", "_")):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=rf"packages tensorrt.* and pycuda are not installed.*enhancer\[{extra}\]"):
        choose_engine(name)


@pytest.mark.parametrize("kind", USABLE)
def test_open_engine_opens_on_this_thread(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model())
    with open_engine(EngineRequest(path, WIDTH, HEIGHT, engine=kind), slots=1) as engine:
        assert (engine.name, engine.slots, engine.is_open) == (kind, 1, True)
        luma = picture(8, HEIGHT, WIDTH)
        ticket = engine.submit({"luma": luma, "strength": ONE})
        assert_close(engine.collect(ticket)["enhanced"], expected(luma, 1.0))


@pytest.mark.parametrize("kind", USABLE)
def test_open_engine_for_ten_bits(kind: str) -> None:
    luma = picture(4, HEIGHT, WIDTH, 10)
    with open_engine(EngineRequest(tiny_model(), WIDTH, HEIGHT, bits=10, engine=kind)) as engine:
        out = engine.collect(engine.submit({"luma": luma, "strength": ONE}))["enhanced"]
        assert_close(out, expected(luma, 1.0, 10))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"height": 0}, "sizes of 1 or more"),
        ({"device": 1}, "no device 1"),
        ({"bits": 17}, "8 to 16"),
        ({"engine": "tensorrt"}, "cannot run"),
        ({"engine": "openvino", "precision": "f16"}, "no precision f16: use f32 or int8, or auto"),
        ({"model": b"no model"}, "the given model"),
    ],
)
def test_open_engine_refuses_bad_requests(change: dict[str, Any], told: str) -> None:
    request: dict[str, Any] = {"model": tiny_model(), "height": HEIGHT, "width": WIDTH} | change
    with pytest.raises(EngineError, match=told):
        open_engine(EngineRequest(**request))


def run_python(script: str, home: Path | None = None) -> str:
    environment = {**os.environ, "HOME": str(home)} if home else None
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120)
    return done.stdout.strip()


def test_importing_and_probing_loads_no_vendor_library() -> None:
    script = (
        "import sys, threading, engines; engines.available_engines();"
        "print({'openvino', 'onnxruntime', 'onnx', 'torch'} & set(sys.modules),"
        " threading.active_count())"
    )
    assert run_python(script) == "set() 1"


def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    script = (
        "import sys, threading, engines; from tests.pixel_models import tiny_model;"
        "engines.open_engine(engines.EngineRequest(tiny_model(), 8, 8, engine='openvino')).close();"
        "print('openvino_telemetry' in sys.modules, threading.active_count())"
    )
    assert run_python(script, home=tmp_path) == "False 1"
    assert list(tmp_path.iterdir()) == []


def test_public_names_are_the_exported_ones() -> None:
    submodules = {
        "background",
        "base",
        "chroma",
        "cpu",
        "follower",
        "foreign",
        "int8",
        "model",
        "onnxruntime",
        "onnxruntime_cuda",
        "onnxruntime_tensorrt",
    }
    submodules |= {"opening", "openvino", "pixels", "plans", "request", "select", "tensorrt"}
    public = {name for name in vars(engines) if not name.startswith("_")} - submodules
    assert public == set(engines.__all__)
