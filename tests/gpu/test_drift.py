"""The stand-in for TensorRT must not drift: every name and parameter that it has, a real library has too."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import standin

REAL = ("tensorrt", "tensorrt_rtx", "tensorrt_bindings")
OWN = {
    "capturable",
    "size_of",
    "content",
    "layers",
    "session",
    "engine",
    "strongly_typed",
    "timing",
    "ranges",
    "cleared",
    "given",
}
"""What the stand-in needs for itself."""
RTX_ONLY = {
    "IRuntimeCache",
    "IRuntimeConfig",
    "DynamicShapesKernelSpecializationStrategy",
    "REQUIRE_USER_ALLOCATION",
}
ENUMS = {
    "DataType",
    "TensorIOMode",
    "LayerType",
    "MemoryPoolType",
    "BuilderFlag",
    "DynamicShapesKernelSpecializationStrategy",
    "NetworkDefinitionCreationFlag",
}
CLASSES = [
    kind
    for name, kind in vars(standin).items()
    if inspect.isclass(kind) and kind.__module__ == standin.__name__ and name not in ENUMS
]


@pytest.fixture(name="real", params=REAL, scope="module")
def _real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name = str(request.param)
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # bindings of hundreds of MB, of which one version at a time fits a machine
        pytest.skip(f"{name} is not installed")
    if name == "tensorrt_bindings" and importlib.util.find_spec("tensorrt_libs") is None:
        stub_libraries(Path(spec.origin).with_name("tensorrt.so"), tmp_path_factory.mktemp("stubs"))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported here: {error}")


def stub_libraries(bindings: Path, folder: Path) -> None:
    """The bindings come without TensorRT's libraries, of which importing them needs only that a few functions exist."""
    for tool in ("g++", "nm", "readelf"):
        if not shutil.which(tool):
            pytest.skip(f"making stub libraries for {bindings} needs {tool}")
    symbols = [line.split()[-1] for line in told("nm", "-D", "--undefined-only", bindings).splitlines()]
    functions = [name for name in symbols if re.fullmatch(r"(create|get|init)[A-Z]\w+", name)]
    source = folder / "stubs.cpp"
    source.write_text("".join(f'extern "C" void* {name}() {{ return nullptr; }}\n' for name in functions))
    for library in re.findall(r"\[(libnv\w+\.so[.\d]*)\]", told("readelf", "-d", bindings)):
        made = folder / library
        told("g++", "-shared", "-fPIC", f"-Wl,-soname,{library}", source, "-o", made)
        ctypes.CDLL(str(made), mode=ctypes.RTLD_GLOBAL)


def told(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


def parameters(doc: str) -> list[list[str]]:
    """The parameters' names of each overload in pybind11's first lines, without self."""
    overloads = []
    for given in re.findall(r"^\s*(?:\d+\. )?\w+\((.*)\) ->", doc, re.MULTILINE):
        flat = given
        while re.search(r"\[[^\[\]]*\]", flat):
            flat = re.sub(r"\[[^\[\]]*\]", "", flat)  # brackets belong to types
        names = [part.split(":")[0].split("=")[0].strip() for part in flat.split(",")]
        overloads.append([name for name in names if name.isidentifier() and name != "self"])
    return overloads


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_methods_and_parameters(real: Any, kind: type) -> None:
    if kind.__name__ in RTX_ONLY and real.__name__ != "tensorrt_rtx":
        pytest.skip("only TensorRT for RTX has it")
    actual = getattr(real, kind.__name__)
    for name, member in vars(kind).items():
        if name.startswith("_") or name in OWN or name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
            continue
        assert hasattr(actual, name), f"{kind.__name__}.{name} is not in {real.__name__}"
        if inspect.isfunction(member):
            mine = [parameter for parameter in inspect.signature(member).parameters if parameter != "self"]
            theirs = parameters(getattr(actual, name).__doc__ or "")
            assert any(mine == other[: len(mine)] for other in theirs), f"{kind.__name__}.{name}{mine}: {theirs}"


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_members(real: Any, name: str) -> None:
    if name in RTX_ONLY and real.__name__ != "tensorrt_rtx":
        pytest.skip("only TensorRT for RTX has it")
    actual = getattr(real, name)
    for member in getattr(standin, name):
        exempt = member.name == "OTHER" or (member.name in RTX_ONLY and real.__name__ != "tensorrt_rtx")
        assert exempt or hasattr(actual, member.name)


def test_severities_are_in_the_same_order(real: Any) -> None:
    logger = real.ILogger
    assert logger.INTERNAL_ERROR <= logger.ERROR < logger.WARNING < logger.INFO < logger.VERBOSE


def test_the_table_of_types(real: Any) -> None:
    for dtype in standin.DataType:
        assert real.nptype(getattr(real.DataType, dtype.name)) == standin.nptype(dtype)
