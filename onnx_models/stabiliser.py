"""The stabiliser as an ONNX graph with state: what `streamer.gate` and `streamer.stabiliser` compute, for any engine.

    enhanced uint8 [1,1,s*h,s*w], luma uint8 [1,1,h,w]: a frame and its source
    strength float32 [1]: how much history counts, 0 to 1
    elapsed float32 [1]: frames since the last one
    first float32 [1]: 1 at the first frame of a scene, else 0; what the state holds does not count then
    learn float32 [1]: 0 if the frame is the last one again, else 1
    picture float32 [1,1,s*h,s*w], reference float32 [1,1,h/r,w/r], gain and pop float32 [1,1,h/4r,w/4r],
    levels float32 [2] (variance of the noise, -1 = unknown; of the pop on its way in): the state, finite numbers
 -> stabilised uint8 [1,1,s*h,s*w] and picture_next, reference_next, gain_next, pop_next, levels_next

r is 2 where s is 1, else 1; h and w are multiples of 4r. Two sets of state buffers in turn are all that a device needs.

With chroma, u_enhanced and v_enhanced (u and v where s is 1) go in and u_stabilised and v_stabilised come out: uint8
planes that are as large as the enhanced luma or half as high or wide; picture_u and picture_v are further state. They
follow with luma's gains and limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_models import gate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

OPSET = 17
IR_VERSION = 8
BISECTIONS = 14
"""Steps in which a quantile is found between 2^-20 and 2^17."""
CHROMA = ("u", "v")


class _Nodes:
    """Collects nodes; every method returns the name of its output. Plain numbers become float32 constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, value: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        name = f"constant{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def __call__(self, op: str, *inputs: str | float, out: str = "", **attributes: Any) -> str:
        names = [one if isinstance(one, str) else self.const(one) for one in inputs]
        output = out or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [output], name=output, **attributes))
        return output

    def square(self, x: str) -> str:
        return self("Mul", x, x)

    def pool(self, x: str, side: int) -> str:
        return self("AveragePool", x, kernel_shape=[side, side], strides=[side, side])

    def blur(self, x: str, side: int) -> str:
        padded = self._padded(x, side // 2, side // 2)
        return self("AveragePool", padded, kernel_shape=[side, side], strides=[1, 1])

    def filter(self, x: str, taps: tuple[float, ...], *, down: bool) -> str:
        kernel = np.array(taps, np.float32).reshape((1, 1, -1, 1) if down else (1, 1, 1, -1))
        reach = len(taps) // 2
        padded = self._padded(x, reach, 0) if down else self._padded(x, 0, reach)
        return self("Conv", padded, self.const(kernel), kernel_shape=list(kernel.shape[2:]))

    def enlarged(self, x: str, rows: int, columns: int) -> str:
        scales = self.const([1, 1, rows, columns])
        return self("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def floats(self, condition: str) -> str:
        return self("Cast", condition, to=TensorProto.FLOAT)

    def count(self, condition: str) -> str:
        return self("ReduceSum", self.floats(condition), keepdims=0)

    def quantile(self, values: str, among: str, share: float) -> str:
        """The value below which `share` of those `among` lie, by bisection of its logarithm."""
        place = self("Floor", self("Mul", self("Sub", self.count(among), 1.0), share))
        low, high = self.const(-20.0), self.const(17.0)
        for _ in range(BISECTIONS):
            middle = self("Mul", self("Add", low, high), 0.5)
            below = self("And", among, self("Less", values, self("Pow", 2.0, middle)))
            enough = self("Greater", self.count(below), place)
            high, low = self("Where", enough, middle, high), self("Where", enough, low, middle)
        return self("Pow", 2.0, high)

    def _padded(self, x: str, rows: int, columns: int) -> str:
        return self("Pad", x, self.const([0, 0, rows, columns] * 2, np.int64), mode="edge")


def build_stabiliser(scale: int, chroma: tuple[int, int] | None = None) -> onnx.ModelProto:
    """The graph above for frames `scale` times as large as their source.

    Args:
        scale: of the network in front.
        chroma: how much lower and narrower than luma chroma is, as powers of two, 0 or 1; None: there is none.

    Raises:
        ValueError: a scale below 1, or chroma that is smaller than half.
    """
    if scale < 1:
        raise ValueError(f"can't build a stabiliser for scale {scale}: it must be 1 or more")
    if chroma is not None and not set(chroma) <= {0, 1}:
        raise ValueError(f"can't build a stabiliser for chroma smaller by the powers {chroma} of two: use 0 or 1")
    reduce = 2 if scale == 1 else 1
    n = _Nodes()
    base = n("Cast", "luma", to=TensorProto.FLOAT)
    if reduce > 1:
        base = n("Floor", n("Add", n.pool(base, reduce), 0.5))  # as arithmetic in 8 bits rounds
    difference = n("Sub", base, "reference")
    energy = n.pool(n.square(difference), gate.CELL)
    doubt = n("Add", "gain", 1.0)
    last = n("Gather", "levels", n.const(0, np.int64), axis=0)
    seen = _Evidence(n, n.pool(difference, gate.CELL), energy, _variance(n, last))
    noise = _noise(n, base, n("Div", energy, doubt), last, seen.may_be_noise())
    expected = n("Mul", noise, doubt)
    accepted, pop, level = _accepted(n, seen, noise, expected)
    news = n("Where", accepted, gate.POP_NEWS, seen.news("pop", expected))
    stale = n("Add", n("Add", "gain", news), n("Mul", "elapsed", gate.PER_FRAME))
    stale = n("Add", stale, n("Mul", "first", 1e9))
    gain = n("Div", stale, n("Add", stale, 1.0), out="gain_next")
    kept = n("Sub", 1.0, gain)
    n("Mul", pop, n.square(kept), out="pop_next")
    n("Add", "reference", n("Mul", difference, n.enlarged(gain, gate.CELL, gate.CELL)), out="reference_next")
    limit = n("Mul", n("Sqrt", n("Add", noise, level)), gate.LIMIT * reduce)
    faded = n("Mul", level, n.square(n("Sub", 1.0, n("ReduceMin", gain, keepdims=0))))
    one = n.const([1], np.int64)
    n("Concat", n("Reshape", "variance_next", one), n("Reshape", faded, one), axis=0, out="levels_next")
    block = gate.CELL * reduce * scale
    kept = n("Mul", "strength", kept)
    _blend(n, n.enlarged(kept, block, block), limit, "enhanced", "picture", "stabilised")
    if chroma is not None:
        keep = n.enlarged(kept, block >> chroma[0], block >> chroma[1])
        for plane in CHROMA:
            _blend(n, keep, limit, _chroma_input(plane, scale), f"picture_{plane}", f"{plane}_stabilised")
    return _model(n, scale, reduce, chroma)


def _variance(n: _Nodes, measured: str) -> str:
    return n("Max", n("Mul", measured, gate.TO_MEAN), gate.FLOOR)


def _noise(n: _Nodes, base: str, energy: str, last: str, may_rise: str) -> str:
    """The variance to reckon with; `variance_next` is what was measured."""
    fine = n.filter(n.filter(base, gate.FINE, down=False), gate.FINE, down=True)
    step = n.const([gate.SAMPLE] * 2, np.int64)
    slices = (n.const([0, 0], np.int64), n.const([2**31 - 1] * 2, np.int64), n.const([2, 3], np.int64), step)
    cells, fine, energy = (n("Slice", x, *slices) for x in (n.pool(base, 4), n.pool(n.square(fine), 4), energy))
    useful = n("And", n("Greater", cells, gate.DARK), n("Less", cells, gate.LIGHT))
    spatial = n("Mul", n.quantile(fine, useful, gate.SPATIAL_QUANTILE), gate.SPATIAL_MAX)
    now = n("Min", n.quantile(energy, useful, gate.QUANTILE), spatial)
    unknown = n("Less", last, 0.0)
    before = n("Where", unknown, now, last)
    risen = n("Min", now, n("Mul", n("Max", before, gate.FLOOR), gate.RISE))
    fallen = n("Mul", n("Add", before, now), 0.5)
    risen = n("Where", may_rise, risen, last)
    measured = n("Where", n("Less", now, before), fallen, risen)
    enough = n("Greater", n.count(useful), gate.FEWEST_CELLS - 0.5)
    learns = n("And", enough, n("Greater", n("Squeeze", "learn"), 0.5))
    measured = n("Where", learns, measured, last)
    n("Where", n("Greater", n("Squeeze", "first"), 0.5), -1.0, measured, out="variance_next")
    return _variance(n, measured)


class _Evidence:
    """What the difference between source and reference shows, in cells; see the class of this name in `streamer`."""

    def __init__(self, n: _Nodes, means: str, energy: str, variance: str) -> None:
        self._n = n
        self._ridge = n("Mul", variance, gate.RIDGE_NOISE / gate.CELL**2)
        self.energy = n.blur(energy, gate.WINDOW)
        self._wide_energy = n.blur(energy, gate.WIDE)
        self._mean_energy = n.blur(n.square(means), gate.WIDE)
        self._light = n.square(n.blur(means, gate.WIDE))
        self._shift = self._explained(means)

    def may_be_noise(self) -> str:
        n = self._n
        moved = n("ReduceMean", n("Div", self._shift, n("Add", self._mean_energy, self._ridge)), keepdims=0)
        coarse = n("ReduceMean", n("Div", self._mean_energy, n("Add", self._wide_energy, self._ridge)), keepdims=0)
        return n("And", n("Less", moved, gate.MOVING), n("Less", coarse, gate.COARSE / gate.CELL**2))

    def news(self, pop: str, expected: str) -> str:
        n, count, pixels = self._n, float(gate.WIDE**2), float(gate.CELL**2)
        wide = n("Add", expected, n("Mul", pop, pixels))
        energy = n("Div", n("Sub", self.energy, n("Mul", pop, gate.POP_LEFT)), expected)
        news = n("Max", n("Sub", energy, 1 + gate.MARGIN), 0.0)
        for part in (self._shift, self._light):
            surplus = n("Sub", n("Div", n("Mul", part, count * pixels), wide), gate.EXPLAINED)
            news = n("Add", news, n("Div", n("Max", surplus, 0.0), count))
        return news

    def looks_like_a_pop(self, variance: str) -> tuple[str, str]:
        n = self._n
        still = n("Less", self._shift, n("Mul", n("Add", self._mean_energy, self._ridge), gate.POP_SHIFT))
        level = n("Mul", n("Add", self._wide_energy, variance), gate.POP_LIGHT)
        return still, n("Less", self._light, level)

    def _explained(self, means: str) -> str:
        n = self._n
        cells = n.pool("reference", gate.CELL)
        across, down = (n.filter(cells, gate.SLOPE, down=way) for way in (False, True))
        xx, yy, xy = (n.blur(n("Mul", a, b), gate.WIDE) for a, b in ((across, across), (down, down), (across, down)))
        x, y = (n.blur(n("Mul", slope, means), gate.WIDE) for slope in (across, down))
        ridge = n("Add", n("Mul", n("Add", xx, yy), gate.RIDGE), self._ridge)
        xx, yy = n("Add", xx, ridge), n("Add", yy, ridge)
        mixed = n("Mul", n("Mul", n("Mul", x, y), xy), 2.0)
        above = n("Sub", n("Add", n("Mul", yy, n.square(x)), n("Mul", xx, n.square(y))), mixed)
        return n("Div", above, n("Sub", n("Mul", xx, yy), n.square(xy)))


def _accepted(n: _Nodes, seen: _Evidence, variance: str, expected: str) -> tuple[str, str, str]:
    """Cells of a pop, their energy, and the level of the pop."""
    quiet = n("Less", "gain", gate.QUIET_GAIN)
    most = n("Add", n("Mul", expected, gate.POP_ENERGY), n("Mul", "pop", gate.POP_LEFT))
    changed = n("And", quiet, n("Greater", seen.energy, most))
    unmoved, unlit = (n("And", changed, which) for which in seen.looks_like_a_pop(variance))
    alike = n("And", unmoved, unlit)
    all_quiet, all_changed = n.count(quiet), n.count(changed)
    all_alike = n("Min", n.count(unmoved), n.count(unlit))
    size = n("Cast", n("Size", "gain"), to=TensorProto.FLOAT)
    found = n("Greater", all_quiet, n("Mul", size, gate.POP_QUIET))
    found = n("And", found, n("Greater", all_changed, n("Mul", all_quiet, gate.POP_CHANGED)))
    found = n("And", found, n("Greater", all_alike, n("Mul", all_changed, gate.POP_LIKE)))
    accepted = n("And", alike, found)
    pop = n("Where", accepted, seen.energy, "pop")
    old = n("Gather", "levels", n.const(1, np.int64), axis=0)
    level = n("Where", found, n.quantile(seen.energy, alike, gate.POP_QUANTILE), old)
    return accepted, pop, level


def _blend(n: _Nodes, keep: str, limit: str, plane: str, history: str, out: str) -> None:
    new = n("Cast", plane, to=TensorProto.FLOAT)
    pull = n("Mul", n("Sub", history, new), keep)
    pull = n("Max", n("Min", pull, limit), n("Neg", limit))
    picture = n("Add", new, pull, out=f"{history}_next")
    n("Cast", n("Clip", n("Round", picture), 0.0, 255.0), to=TensorProto.UINT8, out=out)


def _chroma_input(plane: str, scale: int) -> str:
    """A network that keeps the size leaves chroma as it is."""
    return plane if scale == 1 else f"{plane}_enhanced"


def _model(n: _Nodes, scale: int, reduce: int, chroma: tuple[int, int] | None) -> onnx.ModelProto:
    def pixels(name: str, times: int, down: int = 1, across: int = 1, dtype: int = TensorProto.FLOAT) -> Any:
        size = [_symbol(times, axis, by) for axis, by in (("height", down), ("width", across))]
        return helper.make_tensor_value_info(name, dtype, [1, 1, *size])

    def vector(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [size])

    def state(suffix: str = "") -> list[onnx.ValueInfoProto]:
        cell = gate.CELL * reduce
        pictures = {"picture": (1, 1)} | {f"picture_{plane}": sizes for plane in planes}
        return [
            *(pixels(f"{name}{suffix}", scale, *size) for name, size in pictures.items()),
            pixels(f"reference{suffix}", 1, reduce, reduce),
            *(pixels(f"{name}{suffix}", 1, cell, cell) for name in ("gain", "pop")),
            vector(f"levels{suffix}", 2),
        ]

    codes = TensorProto.UINT8
    planes = CHROMA if chroma is not None else ()
    sizes = (1 << chroma[0], 1 << chroma[1]) if chroma is not None else (1, 1)
    graph = helper.make_graph(
        n.nodes,
        f"stabilise-x{scale}",
        [
            pixels("enhanced", scale, dtype=codes),
            *(pixels(_chroma_input(plane, scale), scale, *sizes, dtype=codes) for plane in planes),
            pixels("luma", 1, dtype=codes),
            *(vector(name, 1) for name in ("strength", "elapsed", "first", "learn")),
            *state(),
        ],
        [
            pixels("stabilised", scale, dtype=codes),
            *(pixels(f"{plane}_stabilised", scale, *sizes, dtype=codes) for plane in planes),
            *state("_next"),
        ],
        n.weights,
    )
    model = helper.make_model(graph, producer_name="streamer-enhancer", opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _symbol(times: int, axis: str, by: int) -> str:
    """Such as "2*height", "width/4": what engines that put the graph behind a network work out."""
    return f"{f'{times}*' if times > 1 else ''}{axis}{f'/{by}' if by > 1 else ''}"
