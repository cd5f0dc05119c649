"""A second model behind a network, in one graph: the pictures between them never leave the device.

What the follower calls `luma`, `u`, `v` or as an output of the network is just that. All else of it goes by its name
behind PREFIX, apart from the outputs that are no state, which take the place of the network's. It is added after a
conversion to float16, so all of it computes in the types that it says.

Its sizes follow from those of `luma`: they are numbers, or symbols such as `2*height` and `width/4`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from .base import EngineError, carried
from .chroma import U_ENHANCED, V_ENHANCED, U, V
from .model import load_model, onnx_library
from .pixels import ENHANCED, LUMA

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "stabilise/"
_GIVEN = frozenset((LUMA, ENHANCED, U_ENHANCED, V_ENHANCED))
"""By the network in front, or by the pictures that it gets."""
_SHARED = _GIVEN | {U, V}
_SYMBOL = re.compile(r"(?:(?P<times>\d+)\*)?(?P<axis>height|width)(?:/(?P<by>\d+))?")


def with_follower(model: Path | bytes, follower: bytes) -> bytes:
    """A model and the follower behind it as one, as an ONNX file's content.

    Args:
        model: an ONNX file or its content, by the pixel contract for 8 bits, with its chroma if that is wanted.
        follower: an ONNX file's content, of the same opset or an earlier one.

    Raises:
        EngineError: as `load_model`; the two don't fit together.
    """
    onnx = onnx_library()
    proto, behind = load_model(model), load_model(follower)
    wanted, given = ({op.version for op in each.opset_import} for each in (proto, behind))
    if max(wanted) > max(given):
        behind = onnx.version_converter.convert_version(behind, max(wanted))
    graph, added = proto.graph, behind.graph
    taken = {value.name for value in graph.input}
    made = {value.name for value in graph.output}
    missing = {value.name for value in added.input} & _GIVEN - taken - made
    if missing or max(wanted) < max(given):
        raise EngineError(
            f"cannot put {added.name} behind {graph.name}: it asks for {sorted(missing) or 'a later opset'}, "
            f"where that gives {sorted(made)}; build it for this network's scale and chroma"
        )
    state = set(carried([value.name for value in added.input], [value.name for value in added.output]).values())
    kept = _SHARED | {value.name for value in added.output if value.name not in state} | {""}
    codes = {name: _codes(graph, name) for name in made}
    _rename(added, lambda name: codes.get(name, name if name in kept else PREFIX + name))
    graph.node.extend(added.node)
    graph.initializer.extend(added.initializer)
    graph.input.extend(value for value in added.input if value.name not in taken | {*codes.values()})
    del graph.output[:]
    graph.output.extend(added.output)
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    return content


@cache
def _inputs(follower: bytes) -> tuple[tuple[str, tuple[int | str, ...]], ...]:
    """Names and dimensions of what the network doesn't give."""
    values = (value for value in load_model(follower).graph.input if value.name not in _GIVEN)
    return tuple(
        (value.name, tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim))
        for value in values
    )


def follower_shapes(follower: bytes, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what a follower adds to a model's inputs, for `luma` of `height` x `width`.

    Raises:
        EngineError: it doesn't take that size; the message says by what the sides must be divisible.
    """
    axes = {"height": height, "width": width}

    def sized(dim: int | str) -> int:
        if isinstance(dim, int):
            return dim
        found = _SYMBOL.fullmatch(dim)
        if found is None:
            raise EngineError(f"cannot use this follower: its size {dim} is not like 2*height or width/4")
        whole, rest = divmod(int(found["times"] or 1) * axes[found["axis"]], int(found["by"] or 1))
        if rest:
            raise EngineError(
                f"cannot put this follower behind a picture of {width}x{height}: {dim} must be a whole number; pad it"
            )
        return whole

    return {
        name if name in _SHARED else PREFIX + name: tuple(sized(dim) for dim in dims)
        for name, dims in _inputs(follower)
    }


def _codes(graph: Any, name: str) -> str:
    """What an output of the network is before its last cast, which goes: TensorRT has uint8 at its ends only."""
    last = next((node for node in graph.node if name in node.output), None)
    if last is None or last.op_type != "Cast":
        return name
    graph.node.remove(last)
    return str(last.input[0])


def _rename(graph: Any, renamed: Any) -> None:
    for node in graph.node:
        node.name = PREFIX + node.name
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    for named in (*graph.initializer, *graph.input, *graph.output):
        named.name = renamed(named.name)
