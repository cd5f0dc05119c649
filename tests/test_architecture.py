"""Who may import whom, how large a file may grow, and that importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("streamer", "engines", "onnx_models", "benchmarks", "tests")
MAX_LINES = 600
MAX_FUNCTION_LINES = 60

LEVELS = (
    {"errors", "notes", "backoff", "child", "demux", "forward", "numbered", "query"},
    {"frame", "clock", "channel", "stats", "sync", "governor"},
    {"pool", "color", "stage", "tiling", "level", "level_weights", "timeline", "detached", "cuts", "motion", "ycbcr"},
    {"blend", "convert", "fitting", "gate", "guard", "runner", "network", "ladder"},
    {"sources", "sinks", "enhancer", "switch", "stabiliser", "device_stabiliser"},
    {"pipeline"},
    {"observer", "metrics"},
    {"job", "image", "progress", "compare", "flicker", "vmaf", "doctor", "demo", "plans", "imported"},
    {"config", "streams"},
    {"cli", "__main__"},
)
"""Rooms of `streamer`, lowest first: a module imports only from its own level or below."""

HEAVY = {"av", "cv2", "numpy", "openvino", "onnxruntime", "onnx", "prometheus_client", "torch", "typer", "rich"}


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Absolute names of everything imported in a file (relative ones resolved)."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    package = path.relative_to(ROOT).parent.parts
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names if not node.module)
    return found


def uses(names: set[str], prefix: str) -> set[str]:
    return {name for name in names if name == prefix or name.startswith(prefix + ".")}


@pytest.mark.parametrize("path", modules("streamer"), ids=lambda path: str(path.relative_to(ROOT)))
def test_streamer(path: Path) -> None:
    names = imports(path)
    assert not uses(names, "benchmarks") | uses(names, "tests")
    assert uses(names, "engines") <= {"engines"}
    light = {f"onnx_models.{name}" for name in ("cards", "gate", "level", "quantiser", "stabiliser")}
    assert uses(names, "onnx_models") <= light
    for vendor in ("openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "cuda", "onnx", "torch"):
        assert not uses(names, vendor)
    room = path.relative_to(ROOT / "streamer").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    level = next(index for index, rooms in enumerate(LEVELS) if room in rooms)
    allowed = set().union(*LEVELS[: level + 1])
    used = {name.split(".")[1] for name in uses(names, "streamer") if "." in name}
    assert used <= allowed, f"{room} reaches up to {used - allowed}"


@pytest.mark.parametrize("path", modules("engines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_engines(path: Path) -> None:
    names = imports(path)
    for package in ("streamer", "onnx_models", "benchmarks", "tests", "av", "cv2", "torch"):
        assert not uses(names, package)
    vendors = {"openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "cuda"}
    top = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not top & (vendors | {"onnx"}), "vendor libraries are imported lazily"
    own = {"tensorrt", "tensorrt_rtx", "pycuda", "cuda"} if path.parent.name == "tensorrt" else {path.stem}
    for vendor in vendors - own:
        assert not uses(names, vendor)


@pytest.mark.parametrize("path", modules("onnx_models"), ids=lambda path: str(path.relative_to(ROOT)))
def test_onnx_models(path: Path) -> None:
    names = imports(path)
    for package in ("streamer", "engines", "benchmarks", "tests"):
        assert not uses(names, package)
    if path.stem == "cards":
        assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_stay_small(package: str) -> None:
    for path in modules(package):
        text = path.read_text()
        assert text.count("\n") <= MAX_LINES, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert lines <= MAX_FUNCTION_LINES, f"{path}: {node.name} has {lines} lines"


@pytest.mark.parametrize("package", ["streamer", "engines", "onnx_models.cards"])
def test_importing_loads_nothing_heavy_and_starts_no_thread(package: str) -> None:
    code = (
        f"import sys, threading, {package}; heavy = {HEAVY - ({'numpy'} if package == 'engines' else set())!r};"
        "print(sorted(heavy & set(sys.modules)), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] 1"
