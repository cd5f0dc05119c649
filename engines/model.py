"""The ONNX model: read from a file or from memory, checked, and given fixed shapes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import EngineError, vendor_reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto


_IR_VERSION = 4
"""The first in which weights need not be inputs."""


@dataclass(frozen=True, slots=True)
class FixedModel:
    """A model whose inputs have fixed shapes, and its names in its own order."""

    content: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def onnx_library() -> Any:
    """The onnx module, imported on first use, because importing engines must stay cheap."""
    return importlib.import_module("onnx")


def model_name(model: Path | bytes) -> str:
    """What messages call the model: its file name, or "the given model"."""
    return model.name if isinstance(model, Path) else "the given model"


def read_model(model: Path | bytes) -> bytes:
    """The content of a model file; bytes are content already.

    Raises:
        EngineError: the file can't be read.
    """
    if isinstance(model, bytes):
        return model
    try:
        return model.read_bytes()
    except OSError as error:
        raise EngineError(f"cannot read the model {model}: {error.strerror or error}; check the path") from None


def load_model(model: Path | bytes) -> ModelProto:
    """The parsed and checked model. It must hold its weights itself; inputs that have a weight's name are dropped.

    Raises:
        EngineError: unreadable, empty, truncated, not ONNX, invalid, or with external weights.
    """
    onnx = onnx_library()
    name = model_name(model)
    content = read_model(model)
    if not content:
        raise EngineError(f"cannot use {name}: it is empty; download or export it again")
    try:
        proto = onnx.load_model_from_string(content)
    except Exception:  # protobuf's own error type changes with its implementation
        raise EngineError(
            f"cannot use {name}: it is not an ONNX model, or only a part of one "
            f"({len(content)} bytes); download or export it again"
        ) from None
    _check_weights_inside(proto, name)
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise EngineError(
            f"cannot use {name}: it is not a valid ONNX model: {vendor_reason(error)}; export it again"
        ) from None
    _unlist_weights(proto)
    checked: ModelProto = proto
    return checked


def with_shapes(model: Path | bytes, shapes: Mapping[str, tuple[int, ...]]) -> FixedModel:
    """The model with its inputs fixed to `shapes`, so that every other shape can be inferred.

    Args:
        model: an ONNX file or its content.
        shapes: for each input with a dynamic dimension, its whole shape; others may be left out.

    Raises:
        EngineError: as `load_model`; an unknown input; a shape that contradicts the model, is
            not positive, or is missing for a dynamic input.
    """
    proto = load_model(model)
    name = model_name(model)
    inputs = {value.name: value for value in proto.graph.input}
    unknown = sorted(set(shapes) - set(inputs))
    if unknown:
        raise EngineError(f"cannot use {name}: it has no input {', '.join(unknown)}; it has {sorted(inputs)}")
    for key, value in inputs.items():
        dims = value.type.tensor_type.shape.dim
        shape = shapes.get(key) or tuple(dim.dim_value for dim in dims)
        if not _compatible(dims, shape):
            raise EngineError(
                f"cannot use {name}: its input {key} has the shape {_described(dims)}, which "
                f"cannot become {list(shape)}; give a picture size the model accepts"
            )
        for dim, size in zip(dims, shape, strict=True):
            dim.dim_value = size
    for value in proto.graph.output:  # stale symbols would hide the inferred shape
        value.type.tensor_type.ClearField("shape")
    content: bytes = proto.SerializeToString()
    return FixedModel(content, tuple(inputs), tuple(value.name for value in proto.graph.output))


def _check_weights_inside(proto: ModelProto, name: str) -> None:
    external = onnx_library().TensorProto.EXTERNAL
    for tensor in proto.graph.initializer:
        if tensor.data_location == external:
            raise EngineError(
                f"cannot use {name}: its weight {tensor.name} is in another file; "
                "save the model with its weights inside"
            )


def _unlist_weights(proto: ModelProto) -> None:
    """Files of IR version 3 must list their weights among the inputs, later ones may: as defaults to be overridden.

    Nobody here overrides them, and engines treat such inputs differently.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    fed = [value for value in proto.graph.input if value.name not in weights]
    if len(fed) < len(proto.graph.input):
        del proto.graph.input[:]
        proto.graph.input.extend(fed)
        proto.ir_version = max(proto.ir_version, _IR_VERSION)


def _compatible(dims: Any, shape: tuple[int, ...]) -> bool:
    return len(dims) == len(shape) and all(
        size > 0 and (not dim.HasField("dim_value") or dim.dim_value == size)
        for dim, size in zip(dims, shape, strict=True)
    )


def _described(dims: Any) -> str:
    sizes = (str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param for dim in dims)
    return f"[{', '.join(size or '?' for size in sizes)}]"
