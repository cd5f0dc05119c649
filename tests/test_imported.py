"""Models of others: imported by a file, found out by trying, and used by their names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import streamer
from engines import EngineError, EngineRequest, engine_options, open_engine
from onnx_models.cards import CardError, ModelCard, load_card, model_names, publish, verify
from onnx_models.quality import bicubic
from streamer.convert import planes_of
from streamer.enhancer import EnhanceStage
from streamer.errors import EnhanceError, UsageError
from streamer.fitting import Fitter
from streamer.frame import Frame, VideoFormat, layout_of
from streamer.imported import _tile_px, export_model, import_model, remove_model
from tests.clips import Clip, decoded, make_frame
from tests.foreign import Foreign
from tests.pixel_models import SCALE, tiny_model

CODES = 1.0


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_DATA_HOME", str(tmp_path / "data"))


def luma(height: int = 36, width: int = 52) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(3).integers(0, 256, (height, width), np.uint8)


def run(name: str, picture: np.ndarray[Any, Any], strength: float = 1.0) -> np.ndarray[Any, Any]:
    request = EngineRequest(load_card(name).path, picture.shape[1], picture.shape[0], precision="f32")
    with open_engine(request, slots=1) as engine:
        feeds = {"luma": picture[None, None], "strength": np.array([strength], np.float32)}
        return np.asarray(engine.collect(engine.submit(feeds))["enhanced"][0, 0].copy())


KINDS = {
    "rgb": Foreign(),
    "gray": Foreign(channels=1),
    "white-is-255": Foreign(white=255.0),
    "black-is-minus-1": Foreign(black=-1.0),
    "same-size": Foreign(scale=1),
    "x3": Foreign(scale=3),
    "x4-blocks": Foreign(scale=4, block=4),
    "half": Foreign(half=True),
    "channels-last": Foreign(last=True, white=255.0),
    "opset-11": Foreign(opset=11, listed=True),
    "opset-20": Foreign(opset=20),
    "exported-for-one-size": Foreign(size=64),
    "weights-beside": Foreign(weights_beside=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_gives_what_it_gives_alone(kind: str, tmp_path: Path) -> None:
    foreign = KINDS[kind]
    imported = import_model(foreign.save(tmp_path / f"{kind}.onnx"))
    card = load_card(kind)
    assert imported.card == card
    verify(card)
    assert (card.scale, card.multiple_of, card.conditioned) == (foreign.scale, foreign.block, False)
    picture = luma()
    wanted = np.clip(replace(foreign, size=None).expected(picture), 0, 255)
    assert np.abs(run(kind, picture) - wanted).max() <= CODES
    plain = bicubic(picture, foreign.scale) if foreign.scale > 1 else picture
    assert np.abs(run(kind, picture, strength=0.0).astype(int) - plain).max() <= CODES


def test_what_the_values_mean_can_be_said(tmp_path: Path) -> None:
    path = Foreign(white=255.0, brighter=0.05).save(tmp_path / "a.onnx")
    assert "0 to 255" in import_model(path).notes[1]
    with pytest.raises(EnhanceError, match=r"far from that picture .* with values of 0 to 1 or .* --values"):
        import_model(Foreign(white=4.0, black=3.0).save(tmp_path / "b.onnx"))
    wrong = import_model(tmp_path / "b.onnx", "wrong", values=(1.0, 6.0))  # who says it knows
    assert any("worse than nothing" in note for note in wrong.notes)
    known = import_model(tmp_path / "b.onnx", values=(3.0, 4.0))
    assert "3 to 4" in known.notes[1]
    assert "3 to 4" in known.card.limits
    with pytest.raises(UsageError, match="are no range"):
        import_model(path, "c", values=(1.0, 1.0))


def test_its_reach_is_found(tmp_path: Path) -> None:
    """One pixel of the enlarged picture around each, which is half an input pixel."""
    assert import_model(Foreign().save(tmp_path / "near.onnx")).card.halo_px == 1
    proto = Foreign(scale=1).proto()
    graph = proto.graph
    graph.node[-1].input[0] = "level"
    graph.node.insert(2, helper.make_node("GlobalAveragePool", ["sharp"], ["mean"]))
    graph.node.insert(3, helper.make_node("Add", ["mean", "sharp"], ["sum"]))
    graph.node.insert(4, helper.make_node("Mul", ["sum", "part"], ["level"]))
    graph.initializer.append(numpy_helper.from_array(np.array(0.7, np.float32), "part"))
    onnx.save(proto, tmp_path / "far.onnx")
    assert any("whole picture" in note for note in import_model(tmp_path / "far.onnx").notes)


def in_blocks_of_4(proto: onnx.ModelProto) -> None:
    """Adds to each block its own mean, as networks do that pad pictures to whole windows for themselves."""
    make, graph = helper.make_node, proto.graph
    steps: dict[str, np.ndarray[Any, Any]] = {"four": np.array([1, 1, 4, 4], np.float32), "from": np.zeros(4, np.int64)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in steps.items())
    nearest: dict[str, Any] = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    pool: dict[str, Any] = {"kernel_shape": [4, 4], "strides": [4, 4], "ceil_mode": 1}
    graph.node.insert(0, make("AveragePool", ["in"], ["means"], **pool))
    graph.node.insert(1, make("Resize", ["means", "roi", "four"], ["blocks"], **nearest))
    graph.node.insert(2, make("Shape", ["in"], ["to"]))
    graph.node.insert(3, make("Slice", ["blocks", "from", "to"], ["cropped"]))
    graph.node.insert(4, make("Mean", ["in", "cropped"], ["mixed"]))
    graph.node[5].input[0] = "mixed"


def test_tiles_begin_where_the_networks_own_blocks_do(tmp_path: Path) -> None:
    proto = Foreign(scale=1).proto()
    in_blocks_of_4(proto)
    onnx.save(proto, tmp_path / "net.onnx")
    imported = import_model(tmp_path / "net.onnx", values=(0.0, 1.0))
    assert imported.card.multiple_of == 4
    assert not any("seams" in note for note in imported.notes)
    frame = replace(make_frame("gray", 200, 152), planes=(luma(152, 200),))
    whole, tiled = (_enhanced(imported.card, frame, max_tile_px) for max_tile_px in (None, 9000))
    assert np.abs(whole.astype(int) - tiled).max() <= CODES


def _enhanced(card: ModelCard, frame: Frame, max_tile_px: int | None) -> np.ndarray[Any, Any]:
    stage = EnhanceStage(card, max_tile_px=max_tile_px)
    stage.open(frame.format)
    (made,) = [*stage.process(frame), *stage.flush()]
    stage.close()
    return made.planes[0]


def test_a_network_with_large_tensors_gets_smaller_tiles(tmp_path: Path) -> None:
    card = import_model(Foreign(channels=1).save(tmp_path / "net.onnx")).card
    assert card.tile_px_max == 0
    assert "tile_px_max" not in card.path.with_suffix(".toml").read_text()
    assert _tile_px(1024) == 1 << 16  # such as four times 64 channels at four times the size
    publish(replace(card, tile_px_max=_tile_px(200)), card.path.read_bytes())
    (option,) = [option for option in engine_options("openvino", "f32") if option.name == "openvino"]
    format = VideoFormat(1280, 720, "gray")
    sides = [Fitter(each, format).fit(option).plan for each in (card, load_card("net"))]
    assert [len(plan.tiles) for plan in sides] == [1, 4]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_a_clip_is_enhanced_by_its_name(pix_fmt: str, tmp_path: Path) -> None:
    foreign = Foreign(channels=3, block=2)
    import_model(foreign.save(tmp_path / "Their Net (v2).onnx"))
    clip = Clip(50, 38, frames=3, pix_fmt=pix_fmt, codec="ffv1", options={}).write(tmp_path / "clip.mkv")
    summary = streamer.enhance(clip, tmp_path / "out.mkv", model="their-net-v2", codec="ffv1", stabilise="off")
    assert (summary.model, summary.frames) == ("their-net-v2", 3)
    layout = layout_of(pix_fmt)
    assert layout is not None
    quarter = 1 / 4 if "10" in pix_fmt else 1
    for before, after in zip(decoded(clip), decoded(tmp_path / "out.mkv"), strict=True):
        given, made = (planes_of(picture, layout)[0] for picture in (before, after))
        wanted = np.clip(foreign.expected(given * quarter), 0, 255.75)
        assert made.shape == (76, 100)
        assert np.abs(made * quarter - wanted).max() <= CODES * quarter


def test_a_model_by_the_contract_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model(conditioned=True))
    card = import_model(path, "mine").card
    assert (card.name, card.scale, card.conditioned) == ("mine", SCALE, True)
    assert card.path.read_bytes() == path.read_bytes()


def two_inputs(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("sigma", TensorProto.FLOAT, [1]))


def five_dimensions(proto: onnx.ModelProto) -> None:
    shape = proto.graph.input[0].type.tensor_type.shape
    shape.dim.add().dim_value = 5


def four_channels(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


def of_one_vendor(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))


def eight_times(proto: onnx.ModelProto) -> None:
    scales = next(tensor for tensor in proto.graph.initializer if tensor.name == "scales")
    scales.CopyFrom(numpy_helper.from_array(np.array([1, 1, 8, 8], np.float32), "scales"))


def half_as_large(proto: onnx.ModelProto) -> None:
    scales = next(tensor for tensor in proto.graph.initializer if tensor.name == "scales")
    scales.CopyFrom(numpy_helper.from_array(np.array([1, 1, 0.5, 0.5], np.float32), "scales"))


def gray_of_colours(proto: onnx.ModelProto) -> None:
    kernel = next(tensor for tensor in proto.graph.initializer if tensor.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(np.ones((1, 3, 3, 3), np.float32) / 27, "kernel"))
    bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.zeros(1, np.float32), "bias"))
    del proto.graph.output[0].type.tensor_type.shape.dim[1]


def for_one_size_inside(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 3, 64, 64]), "shape"))
    proto.graph.node.insert(0, helper.make_node("Reshape", ["in", "shape"], ["shaped"]))
    proto.graph.node[1].input[0] = "shaped"


def something_else(proto: onnx.ModelProto) -> None:
    proto.graph.node[-1].input[0] = "one"
    proto.graph.node.insert(2, helper.make_node("Sub", ["white", "sharp"], ["one"]))


def deaf(proto: onnx.ModelProto) -> None:
    proto.graph.node.insert(0, helper.make_node("Sub", ["in", "in"], ["nothing"]))
    proto.graph.node[1].input[0] = "nothing"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (two_inputs, "takes in, sigma and gives out, not one picture each"),
        (five_dimensions, r"input in is FLOAT \[.*5\], not one float picture of 1 or 3 channels"),
        (four_channels, r"\['\?', 4, '\?', '\?'\], not one float picture"),
        (of_one_vendor, "operators of com.example"),
        (eight_times, "enlarges by 8, and frames are enlarged by 1 to 4"),
        (for_one_size_inside, r"of 192x192 with 3 channels it makes \[1, 3, 128, 128\]"),
        (half_as_large, "not one a whole number of times as large"),
        (gray_of_colours, r"it makes \[1, 1, 384, 384\], not one .* with as many channels"),
        (something_else, "far from that picture"),
        (deaf, "far from that picture"),
    ],
)
def test_what_is_no_such_network_is_refused(
    change: Callable[[onnx.ModelProto], None], told: str, tmp_path: Path
) -> None:
    proto = Foreign().proto()
    change(proto)
    onnx.save(proto, tmp_path / "net.onnx")
    with pytest.raises((EngineError, EnhanceError, UsageError), match=told):
        import_model(tmp_path / "net.onnx")
    assert "net" not in model_names()


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        import_model(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(EngineError, match=r"text.onnx: it is no ONNX model"):
        import_model(tmp_path / "text.onnx")
    path = Foreign(weights_beside=True).save(tmp_path / "parted.onnx")
    (tmp_path / "parted.onnx.data").unlink()
    with pytest.raises(EngineError, match=r"parted.onnx.*beside it"):
        import_model(path)


def test_names(tmp_path: Path) -> None:
    path = Foreign(channels=1).save(tmp_path / "net.onnx")
    for name in ("auto", "none", "../net", "n\u00e4t", ".net", "upscale-x2-nano"):
        with pytest.raises(UsageError, match=r"name a model|shipped model|means something else"):
            import_model(path, name)
    with pytest.raises(UsageError, match="it is a folder"):
        import_model(tmp_path)
    assert import_model(path, "NET").card.name == "net"
    with pytest.raises(UsageError, match=r"unknown model 'nett': choose one of net, auto or none"):
        streamer.choose_model("nett")
    with pytest.raises(UsageError, match="--force"):
        import_model(path)
    import_model(Foreign(channels=1, scale=3).save(path), force=True)
    assert streamer.choose_model("net").scale == 3  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"import the file first: streamer models import net\.onnx"):
        streamer.choose_model("net.onnx")
    chosen = streamer.choose_model("auto", 3)
    assert chosen is not None
    assert chosen.name == "upscale-x3-nano"  # never one that somebody imported
    remove_model("net")
    with pytest.raises(CardError, match="no model 'net'"):
        load_card("net")
    for name in ("net", "upscale-x2-nano"):
        with pytest.raises(UsageError, match="no imported model"):
            remove_model(name)


def test_a_model_is_exported_and_imported_again(tmp_path: Path) -> None:
    file = export_model("upscale-x2-nano", tmp_path / "out")
    assert file.read_bytes() == load_card("upscale-x2-nano").path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        export_model("upscale-x2-nano", tmp_path / "out")
    shipped = load_card("upscale-x2-nano")
    card = import_model(file, "again").card
    assert card == replace(shipped, name="again", path=card.path)
    file.with_suffix(".toml").unlink()
    found = import_model(file, "asked").card
    assert (found.scale, found.conditioned, found.multiple_of) == (2, True, shipped.multiple_of)
    assert 0 < found.halo_px <= shipped.halo_px
    file.write_bytes(load_card("upscale-x2-small").path.read_bytes())
    file.with_suffix(".toml").write_bytes(shipped.path.with_suffix(".toml").read_bytes())
    with pytest.raises(CardError, match="sha256"):
        import_model(file, "mixed-up")
    found.path.write_bytes(b"damaged")
    with pytest.raises(CardError, match=r"streamer models import FILE --name asked --force"):
        export_model("asked", tmp_path / "other")


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        command = [sys.executable, "-m", "streamer", "models", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    Foreign().save(tmp_path / "net.onnx")
    assert "net: upscale x2" in said("import", str(tmp_path / "net.onnx"))
    assert "net: upscale x2" in said("import", str(tmp_path / "net.onnx"), "--force", "--values", "0", "1")
    assert "net  " in said("list")
    assert "Imported from net.onnx" in said("show", "net")
    assert "net: ok" in said("verify")
    assert said("export", "net", str(tmp_path / "out")).strip().endswith("net.onnx")
    assert (tmp_path / "out" / "net.toml").is_file()
    broken = tmp_path / "data" / "streamer-enhancer" / "models" / "broken.toml"
    broken.write_text("no = card")
    done = subprocess.run([sys.executable, "-m", "streamer", "models", "list"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "parameters  imported" in done.stdout
    assert done.stderr.startswith("broken: ")
    broken.unlink()
    assert said("remove", "net") == "removed net\n"
    assert "net  " not in said("list")
