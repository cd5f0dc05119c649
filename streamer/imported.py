"""Models of others: an ONNX network from picture to picture becomes one that can be named like a shipped one.

Little is written in such a file, so the network is asked: it runs on a few pictures, on the CPU, and shows what it
calls white, which picture sizes it takes, and how far it sees.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

import engines
from onnx_models.cards import (
    ZOO,
    ModelCard,
    imported_folder,
    load_card,
    model_names,
    publish,
    read_card,
    verify,
)
from streamer.errors import EnhanceError, UsageError, reason_of
from streamer.fitting import MAX_TILE_PX, MIN_TILE_PX
from streamer.frame import Plane

SCALES = (2, 4, 1, 3)
"""That frames can be enlarged by, in the order in which a network that doesn't tell is tried."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""Of which the sides of a network's pictures may have to be."""

_SIDE_PX = 192
"""Of the pictures by which a network's reach is found; a multiple of MULTIPLES."""
_PATCH_PX = 16
"""What is changed in their middle."""
_FAR_PX = 64
"""A network that sees further sees the whole picture, or nearly."""
_CROP_PX, _CROP_EDGE_PX = 128, 24
"""Of crops that are compared, shifted; without what their edges change most."""
_FINER = 256
_SEEN_CODES = 0.02
"""Less is the order of sums, in 8-bit codes."""
_TILE_BYTES = 1 << 30
"""For the largest tensors of a tile, of which some are held at once."""
_TENSORS_HELD = 4
_VALUES_PX = 96
"""Of those by which its black and white are found."""
_ODD = (11, 9, 7, 5, 3, 1)
_BETTER_DB = {True: 0.1, False: 1.0}
"""By so much must a rarer meaning of black and white be better than a more usual one: where a network enlarges, and
where it mends. That says less: one for other damage than the picture's seems better where it does more, or less."""
_NEAR_DB = 2.0
"""What comes as near as this to the best is told."""
_NOISE, _JPEG_QUALITY = 8.0, 30
"""What a network that keeps the size has to mend there: with the wrong meaning most do nothing."""
_PSNR_MIN_DB = 18.0
"""To the picture it should give: below that, something is wrong with a network, or with what it is told."""
_CLEAN = re.compile(r"[^a-z0-9._]+")
_RESERVED = ("auto", "none")
_SEAMS = "what it makes of a place depends on the whole picture: where frames are cut into tiles, seams may show"


_Picture = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Imported:
    """A model that was imported, and what was found out about it."""

    card: ModelCard
    notes: tuple[str, ...]
    """For whoever imported it."""


def import_model(
    path: Path | str,
    name: str | None = None,
    *,
    values: tuple[float, float] | None = None,
    force: bool = False,
) -> Imported:
    """Makes an ONNX file a model of this user's, which `model=` and --model take by its name from then on.

    The file follows the contract of `engines.pixels` (then a card beside it is kept), or it is any network that takes
    one gray or RGB picture of floats and gives one, 1 to 4 times as large. Such a network works on luma here: one for
    RGB gets a gray picture.
    Takes some seconds, with large networks a minute or two. The file itself is not needed afterwards.

    Args:
        path: the file; weights in files beside it are taken, too.
        name: of the model; default: the file's.
        values: what the network calls black and white; default: that of `engines.VALUE_RANGES` with which it mends or
            enlarges a picture best.
        force: replace an imported model of that name.

    Raises:
        UsageError: the name is taken, or can't be one.
        EngineError: the file can't be read, isn't such a network, or can't run here.
        EnhanceError: what it makes of a picture is not that picture, or the model can't be stored.
    """
    path = Path(path)
    if not path.is_file():
        what = "it is a folder: name a file in it" if path.is_dir() else "there is no such file; check the path"
        raise UsageError(f"can't import {path}: {what}")
    name = _checked_name((name or _CLEAN.sub("-", path.stem.lower()).strip("-._")).lower(), force=force)
    if values is not None and not (all(map(math.isfinite, values)) and values[0] < values[1]):
        raise UsageError(f"black {values[0]:g} and white {values[1]:g} are no range: use such as 0 and 255")
    if _means_contract(path):
        card, content, notes = _by_contract(path, name)
    else:
        card, content, notes = _of_others(path, name, values)
    try:
        publish(card, content)
    except OSError as error:
        raise EnhanceError(f"can't store {name} in {card.path.parent}: {reason_of(error)}") from error
    return Imported(load_card(name), notes)


def remove_model(name: str) -> None:
    """Deletes an imported model.

    Raises:
        UsageError: there is none of that name, or it is a shipped one.
    """
    names = model_names(imported_folder())
    if name not in names:
        raise UsageError(f"{name} is no imported model: those are {', '.join(names) or 'none'}")
    for ending in (".toml", ".onnx"):  # a model without a card is none
        (imported_folder() / f"{name}{ending}").unlink(missing_ok=True)


def export_model(name: str, folder: Path) -> Path:
    """Copies a model's ONNX file and its card into a folder, for use elsewhere; returns the file.

    Raises:
        CardError: there is no such model, or it is damaged.
        UsageError: they are there already.
        EnhanceError: they can't be written.
    """
    card = load_card(name)
    verify(card)
    target = folder / card.path.name
    for source in (card.path, card.path.with_suffix(".toml")):
        if (folder / source.name).exists():
            raise UsageError(f"{folder / source.name} exists: choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in (card.path, card.path.with_suffix(".toml")):
            shutil.copyfile(source, folder / source.name)
    except OSError as error:
        raise EnhanceError(f"can't write {target}: {reason_of(error)}") from error
    return target


def _checked_name(name: str, *, force: bool) -> str:
    if not name or _CLEAN.search(name.replace("-", "")) or name.startswith((".", "-")):
        raise UsageError(f"{name!r} can't name a model: give it a --name of letters, digits, '-', '_' and '.'")
    if name in _RESERVED:
        raise UsageError(f"{name} means something else where a model is asked for: choose another --name")
    if name in model_names(ZOO):
        raise UsageError(f"{name} is a shipped model: choose another --name")
    if name in model_names() and not force:
        raise UsageError(f"there is an imported model {name}: choose another --name, or --force to replace it")
    return name


def _means_contract(path: Path) -> bool:
    """Whether it takes luma by name; what can't be read here may have its weights beside it."""
    try:
        return "luma" in engines.input_names(path)
    except engines.EngineError:
        return False


def _by_contract(path: Path, name: str) -> tuple[ModelCard, bytes, tuple[str, ...]]:
    """A model that follows the contract stays as it is, and keeps its card if that lies beside it."""
    engines.check_contract(path)
    content = path.read_bytes()
    if path.with_suffix(".toml").exists():
        card = read_card(path.with_suffix(".toml"))
        verify(card)
        return replace(card, name=name, path=imported_folder() / f"{name}.onnx"), content, ()
    (made,) = _run(content, [_picture(_SIDE_PX)])
    scale = made.shape[0] // _SIDE_PX
    if scale not in SCALES:
        raise UsageError(f"can't import {path}: of 192x192 it makes {made.shape[1]}x{made.shape[0]}, not 1 to 4 times")
    multiple = _multiple_of(content, scale)
    halo, notes = _halo(content, scale, multiple)
    return _card(name, path.name, content, scale, multiple, halo), content, notes


def _of_others(path: Path, name: str, values: tuple[float, float] | None) -> tuple[ModelCard, bytes, tuple[str, ...]]:
    network = engines.read_foreign(path)
    scale, multiple = _fitting(network, path.name)
    values, told = _values(network, scale, multiple, path.name, values)
    content = engines.by_contract(network, scale, values)
    multiple, seams = _grid(content, scale, multiple)
    halo, notes = _halo(content, scale, multiple)
    cost = engines.cost_per_px(network)
    kind = "RGB" if network.channels > 1 else "gray"
    limit = "; here it gets luma alone, and colours are interpolated" if network.channels > 1 else ""
    takes = f"takes {kind} pictures of {values[0]:g} to {values[1]:g}{limit}"
    card = replace(
        _card(name, path.name, content, scale, multiple, halo),
        params=network.params,
        macs_per_px=max(1, cost.macs),
        tile_px_max=_tile_px(cost.values),
        limits=f"Imported: nothing of it was measured. It {takes}.",
    )
    size = f"{card.params} parameters, {'' if cost.is_whole else 'at least '}{card.macs_per_px} MAC/px"
    return card, content, (size, takes, *told, *(notes or seams))


def _tile_px(values: int) -> int:
    """How many pixels a tile may have, with so many values per pixel in the largest tensor; 0: as many as usual."""
    pixels = _TILE_BYTES // (4 * _TENSORS_HELD * max(1, values))
    return 0 if pixels >= MAX_TILE_PX else max(MIN_TILE_PX, pixels)


def _fitting(network: engines.ForeignNetwork, file: str) -> tuple[int, int]:
    """The scale, and the least that the sides have to be multiples of."""
    if network.scale is not None and network.scale not in SCALES:
        raise UsageError(f"can't import {file}: it enlarges by {network.scale}, and frames are enlarged by 1 to 4")
    reasons = []
    for scale in SCALES if network.scale is None else (network.scale,):
        content = engines.by_contract(network, scale)
        try:
            multiple = _multiple_of(content, scale)
            if network.exported_for is not None:
                height, width = (-(-side // multiple) * multiple for side in network.exported_for)
                _check_runs(content, height + 3 * multiple, width + 2 * multiple)
        except engines.EngineError as error:
            reasons.append(str(error))
        else:
            return scale, multiple
    only = "x".join(map(str, (network.exported_for or ())[::-1]))
    raise engines.EngineError(
        f"cannot import {file}: it runs on pictures of {f'{only} only' if only else 'no size that was tried'}: export "
        f"it with any height and width. What the engine says: {reasons[0]}"
    )


def _check_runs(content: bytes, height: int, width: int) -> None:
    """Raises EngineError if it doesn't."""
    _run(content, [np.full((height, width), 128, np.uint8)])


def _multiple_of(content: bytes, scale: int) -> int:
    """The first of MULTIPLES with which the model runs where the sides are odd multiples of it."""
    for multiple in MULTIPLES:
        height, width = (multiple * next(odd for odd in _ODD[skip:] if multiple * odd <= _SIDE_PX) for skip in (0, 1))
        try:
            (made,) = _run(content, [np.full((height, width), 128, np.uint8)])
        except engines.EngineError as error:
            problem = str(error)
        else:
            if made.shape == (scale * height, scale * width):
                return multiple
            problem = f"of {width}x{height} it makes {made.shape[1]}x{made.shape[0]}"
    raise engines.EngineError(problem)


def _values(
    network: engines.ForeignNetwork, scale: int, multiple: int, file: str, given: tuple[float, float] | None
) -> tuple[tuple[float, float], tuple[str, ...]]:
    """What the network calls black and white: that with which it makes most of a picture; and what to say of that."""
    side = _VALUES_PX // multiple * multiple or multiple
    whole = _picture(side * scale)
    small = _worn(whole) if scale == 1 else cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
    plain_db = _psnr(cv2.resize(small, (side * scale, side * scale), interpolation=cv2.INTER_CUBIC), whole)
    found = {}
    for values in (given,) if given else engines.VALUE_RANGES:
        (made,) = _run(engines.by_contract(network, scale, values), [small])
        found[values] = _psnr(made, whole)
    best = next(iter(found))
    for values, psnr_db in found.items():
        best = values if psnr_db > found[best] + _BETTER_DB[scale > 1] else best
    if found[best] < _PSNR_MIN_DB and given is None:
        tried = " or ".join(f"{black:g} to {white:g}" for black, white in found)
        raise EnhanceError(
            f"can't import {file}: what it makes of a picture is far from that picture ({found[best]:.1f} dB), with "
            f"values of {tried}. It may be for something else, or its values may be others: say which with --values"
        )
    before = "interpolated" if scale > 1 else "before"
    said = [f"one picture: {found[best]:.1f} dB ({before}: {plain_db:.1f} dB)"]
    if found[best] < plain_db:
        said.append("that is worse than nothing: is it trained, is it for something else, or made for the eye?")
    for values, psnr_db in found.items():
        if values != best and psnr_db > max(plain_db, found[best]) - _NEAR_DB:
            black, white = values
            said.append(f"if it looks wrong, try --values {black:g} {white:g} --force: {psnr_db:.1f} dB")
    return best, tuple(said)


def _worn(picture: Plane) -> Plane:
    """With noise and blocks, as a network that keeps the size expects."""
    noise = np.random.default_rng(0).normal(0, _NOISE, picture.shape)
    noisy = np.clip(picture + noise, 0, 255).round().astype(np.uint8)
    _, jpeg = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), np.uint8)


def _grid(content: bytes, scale: int, multiple: int) -> tuple[int, tuple[str, ...]]:
    """The steps in which a picture may be shifted without a change but the shift: networks that pad or split pictures
    for themselves take any size, but tiles have to begin where their blocks do. And what to say if there are none."""
    luma = _picture(_SIDE_PX)
    steps = [step for step in MULTIPLES if step % multiple == 0]
    crops = [luma[step : step + _CROP_PX, step : step + _CROP_PX] for step in (0, *steps)]
    first, *others = _run(content, crops)
    for step, other in zip(steps, others, strict=True):
        begin, end = (step + _CROP_EDGE_PX) * scale, (_CROP_PX - _CROP_EDGE_PX) * scale
        shift = step * scale
        apart = first[begin:end, begin:end] - other[begin - shift : end - shift, begin - shift : end - shift]
        if np.abs(apart).max() <= _SEEN_CODES:
            return step, ()
    return multiple, (_SEAMS,)


def _halo(content: bytes, scale: int, multiple: int) -> tuple[int, tuple[str, ...]]:
    """How far a model sees, by what changes around a changed patch; and what to say of it."""
    luma = _picture(_SIDE_PX)
    begin = (_SIDE_PX - _PATCH_PX) // 2
    end = begin + _PATCH_PX
    changed, noisy = luma.copy(), luma.copy()
    changed[begin:end, begin:end] = 255 - luma[begin:end, begin:end]
    noisy[begin:end, begin:end] = np.random.default_rng(0).integers(0, 256, (_PATCH_PX, _PATCH_PX), np.uint8)
    elsewhere, near = 255 - luma, slice(begin - _FAR_PX, end + _FAR_PX)
    elsewhere[near, near] = luma[near, near]
    before, *after, far = _run(content, [luma, changed, noisy, elsewhere])
    middle = slice(begin * scale, end * scale)
    sees_all = np.abs(far - before)[middle, middle].max() > _SEEN_CODES
    rows, columns = np.nonzero(np.any([np.abs(made - before) > _SEEN_CODES for made in after], axis=0))
    if not len(rows):
        raise EnhanceError("can't import a network whose output doesn't depend on its input: export it again")
    reach = max(
        0,
        *(begin - int(axis.min()) // scale for axis in (rows, columns)),
        *(int(axis.max()) // scale + 1 - end for axis in (rows, columns)),
    )
    return -(-reach // multiple) * multiple, (_SEAMS,) if sees_all else ()


def _run(content: bytes, pictures: Sequence[Plane]) -> list[_Picture]:
    """What a model makes of pictures of one size, at full strength, on a CPU: in 8-bit codes, but not rounded to them.

    It runs on 16 bits, because what a network does to a picture may show in one of many pixels only after rounding.
    """
    option = next((option for option in engines.engine_options() if not option.on_gpu), None)
    if option is None:
        raise engines.EngineError("cannot look at a model: no engine can run on the CPU here; pip install openvino")
    height, width = pictures[0].shape
    request = engines.EngineRequest(content, width, height, bits=16, engine=option.name, precision="f32")
    ones = np.ones(1, np.float32)
    made = []
    with engines.open_engine(request, slots=1) as engine:
        others = {spec.name: ones * (spec.name == "strength") for spec in engine.inputs if spec.name != "luma"}
        for picture in pictures:
            luma = picture[None, None].astype(np.float32) * _FINER
            found = engine.collect(engine.submit({"luma": luma, **others}))
            made.append(found["enhanced"][0, 0] / np.float32(_FINER))
    return made


@cache
def _picture(side: int) -> Plane:
    """side x side pixels of luma from the packaged clip, uint8, with some of everything: edges, text, skin."""
    with resources.as_file(resources.files("streamer") / "samples" / "book.mkv") as clip, av.open(str(clip)) as file:
        luma = next(file.decode(video=0)).to_ndarray(format="gray")
    height, width = luma.shape
    share = max(side / height, side / width, 0.5)
    reduced = cv2.resize(
        luma, (max(side, int(width * share)), max(side, int(height * share))), interpolation=cv2.INTER_AREA
    )
    top, left = ((have - side) // 2 for have in reduced.shape)
    return np.ascontiguousarray(reduced[top : top + side, left : left + side])


def _psnr(made: _Picture | Plane, wanted: Plane) -> float:
    error = float(np.square(made.astype(np.float64) - wanted).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def _card(name: str, file: str, content: bytes, scale: int, multiple: int, halo: int) -> ModelCard:
    return ModelCard(
        name=name,
        task="upscale" if scale > 1 else "restore",
        scale=scale,
        color="luma",
        conditioned="level" in engines.input_names(content),
        multiple_of=multiple,
        halo_px=halo,
        params=0,
        macs_per_px=0,
        metrics=(),
        train_data="not known: imported",
        licence="not known: imported; ask its authors",
        origin=f"Imported from {file}.",
        curve=(),
        sha256=hashlib.sha256(content).hexdigest(),
        limits="Imported: nothing of it was measured. It works on luma.",
        path=imported_folder() / f"{name}.onnx",
    )
