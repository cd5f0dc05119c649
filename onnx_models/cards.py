"""Model cards: what a network is, measured, and allowed to be used for.

A card is `<name>.toml` beside `<name>.onnx`: of the shipped networks in the zoo, of those that a user imported in a
folder of the user's. Reading and writing cards needs only the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

ZOO = Path(__file__).parent / "zoo"
FLAVOURS = ("clean", "vivid")
TASKS = ("upscale", "restore")
COLORS = ("luma",)


class CardError(ValueError):
    """A card or its model cannot be used; the message says what, on what, why and what to do."""


@dataclass(frozen=True)
class Metric:
    """One measured figure."""

    name: str
    """What is measured, e.g. "PSNR-Y gain over lanczos"."""
    value: float
    unit: str
    """e.g. "dB"; empty for a pure number."""
    set: str
    """What it was measured on."""
    condition: str
    """What the pictures went through before, e.g. "CRF 23"."""
    protocol: str
    """How."""


@dataclass(frozen=True)
class ModelCard:
    """A network: contract, cost, figures, origin."""

    name: str
    task: str
    """"upscale" or "restore"."""
    scale: int
    """Output size over input size."""
    color: str
    """Planes the network works on: "luma"."""
    conditioned: bool
    """Whether it takes the inputs `level` and `noise` (see `onnx_models.level`)."""
    multiple_of: int
    """Input width and height must be multiples of this; callers pad."""
    halo_px: int
    """Input pixels around a tile that can change its output: tiles that overlap by this much,
    start at a multiple of `multiple_of` and are cropped give exactly the untiled result."""
    params: int
    macs_per_px: int
    """Multiply-accumulates per input pixel."""
    metrics: tuple[Metric, ...]
    train_data: str
    licence: str
    origin: str
    """How it was made, so that it can be made again."""
    curve: tuple[tuple[int, float], ...]
    """How it learnt: (steps, PSNR-Y gain in dB over the interpolation or the input, on its validation patches)."""
    sha256: str
    """Of the ONNX file, lower-case hexadecimal."""
    limits: str
    """What it is not good for."""
    path: Path
    """The ONNX file; not a key of the TOML."""
    tile_px_max: int = 0
    """On a CPU frames of more pixels are cut into tiles, for the sake of memory; 0, or no key: as usual."""

    @property
    def flavour(self) -> str:
        """ "" (faithful, for streams as they are), "clean" (faithful, for undamaged sources) or "vivid" (inventive)."""
        ending = self.name.rpartition("-")[2]
        return ending if ending in FLAVOURS else ""


def list_cards(folder: Path = ZOO) -> tuple[ModelCard, ...]:
    """Cards of every shipped model, or of those in another folder, sorted by name.

    Raises:
        CardError: a card is malformed.
    """
    return tuple(read_card(path) for path in _paths(folder))


def imported_folder() -> Path:
    """Where imported models lie: `streamer-enhancer/models` in the folder for a user's application data."""
    named = Path(os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_DATA_HOME", ""))
    folder = named if named.is_absolute() else Path.home() / ".local" / "share"  # XDG: relative ones don't count
    return folder / "streamer-enhancer" / "models"


def model_names(*folders: Path) -> tuple[str, ...]:
    """Of the models in these folders; without any, of the shipped ones, then of the imported ones."""
    return tuple(path.stem for folder in folders or (ZOO, imported_folder()) for path in _paths(folder))


def load_card(name: str) -> ModelCard:
    """The card of a shipped or imported model.

    Raises:
        CardError: no such model (the message names those there are), or its card is malformed.
    """
    for folder in (ZOO, imported_folder()):
        path = next((path for path in _paths(folder) if path.stem == name), None)
        if path is not None:
            return read_card(path)
    raise CardError(f"no model {name!r}; available: {', '.join(model_names()) or 'none'}")


def publish(card: ModelCard, content: bytes) -> None:
    """Write model and card beside each other; each is complete or untouched.

    Raises:
        CardError: they don't fit together, or the card couldn't be read again; nothing is written.
        OSError: they can't be written.
    """
    card_path, text = card.path.with_suffix(".toml"), _toml(card)
    _check_content(_parsed(text, card_path), content)
    card.path.parent.mkdir(parents=True, exist_ok=True)
    model_part = _write(card.path, content)
    card_part = _write(card_path, text.encode())
    model_part.replace(card.path)
    card_part.replace(card_path)


def verify(card: ModelCard) -> None:
    """Check the ONNX file against its card.

    Raises:
        CardError: the file is missing or its sha256 differs.
    """
    try:
        content = card.path.read_bytes()
    except OSError as error:
        raise CardError(f"model {card.name}: {card.path} cannot be read ({error}); {_fix(card)}") from error
    _check_content(card, content)


def _check_content(card: ModelCard, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise CardError(
            f"model {card.name}: {card.path} has sha256 {found}, its card says {card.sha256}; the "
            f"file is damaged or was changed: {_fix(card)}"
        )


def _fix(card: ModelCard) -> str:
    if card.path.parent == imported_folder():
        return f"import it again: streamer models import FILE --name {card.name} --force"
    return "install the package again, or export the model anew"


def read_card(path: Path) -> ModelCard:
    """Read one card.

    Raises:
        CardError: the file is missing or not TOML, or keys are missing, unknown or wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CardError(f"card {path} cannot be read ({error})") from error
    except UnicodeDecodeError as error:
        raise _not_toml(path, error) from error
    return _parsed(text, path)


def _not_toml(path: Path, error: ValueError) -> CardError:
    return CardError(f"card {path} is not TOML: {error}; correct or restore it")


def _parsed(text: str, path: Path) -> ModelCard:
    """The card that this text is at this path."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(path, error) from error
    where = f"card {path}"
    metrics = table.get("metrics", [])
    if not isinstance(metrics, list) or not all(isinstance(m, dict) for m in metrics):
        raise CardError(f"{where}: metrics must be an array of tables ([[metrics]])")
    measured = tuple(Metric(**_checked(m, Metric, f"{where} [[metrics]] {i + 1}")) for i, m in enumerate(metrics))
    values = _checked(table, ModelCard, where)
    curve = _curve(table["curve"], where)
    card = ModelCard(**values | {"metrics": measured, "curve": curve, "path": path.with_suffix(".onnx")})
    _check_values(card, where)
    return card


def _paths(folder: Path) -> list[Path]:
    """Of the cards."""
    return sorted(folder.glob("*.toml"), key=lambda path: path.stem)


def _write(path: Path, content: bytes) -> Path:
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_bytes(content)
    return partial


def _toml(card: ModelCard) -> str:
    """The card as TOML; JSON strings are TOML basic strings."""
    lines = []
    for f in fields(card):
        value = getattr(card, f.name)
        if f.name not in ("path", "metrics") and value != f.default:
            lines.append(f"{f.name} = {json.dumps(value, ensure_ascii=False)}")
    for metric in card.metrics:
        lines += ["", "[[metrics]]"]
        for f in fields(metric):
            lines.append(f"{f.name} = {json.dumps(getattr(metric, f.name), ensure_ascii=False)}")
    if not card.metrics:
        lines.insert(0, "metrics = []")
    return "\n".join(lines) + "\n"


def _checked(table: dict[str, Any], cls: type, where: str) -> dict[str, Any]:
    """The table, if it has exactly the keys of `cls` with values of their types."""
    types = {f.name: str(f.type) for f in fields(cls) if f.name != "path"}
    optional = {f.name for f in fields(cls) if f.default is not MISSING}
    unknown, missing = sorted(set(table) - set(types)), [k for k in types if k not in table and k not in optional]
    if unknown:
        raise CardError(f"{where} has unknown keys: {', '.join(unknown)}; remove or rename them")
    if missing:
        raise CardError(f"{where} lacks keys: {', '.join(missing)}; add them")
    allowed: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "float": (float, int), "bool": (bool,)}
    for key, value in table.items():
        kind = types[key]
        if kind in allowed and (not isinstance(value, allowed[kind]) or isinstance(value, bool) != (kind == "bool")):
            raise CardError(f"{where}: {key} is {value!r}; it must be of type {kind}")
    return table


def _curve(given: object, where: str) -> tuple[tuple[int, float], ...]:
    """Pairs in the order of their steps."""
    pairs: list[Any] = given if isinstance(given, list) else [given]
    try:
        points = tuple((int(step), float(gain)) for step, gain in pairs)
    except (TypeError, ValueError) as error:
        raise CardError(f"{where}: curve is {given!r}; it must be an array of [steps, gain in dB]") from error
    if [step for step, _ in points] != sorted({step for step, _ in points}):
        raise CardError(f"{where}: the steps of curve must rise")
    return points


def _check_values(card: ModelCard, where: str) -> None:
    for key, value, choices in (("task", card.task, TASKS), ("color", card.color, COLORS)):
        if value not in choices:
            raise CardError(f"{where}: {key} is {value!r}; allowed: {', '.join(choices)}")
    for key, lowest in (("scale", 1), ("multiple_of", 1), ("halo_px", 0), ("params", 0), ("tile_px_max", 0)):
        if getattr(card, key) < lowest:
            raise CardError(f"{where}: {key} is {getattr(card, key)}; must be at least {lowest}")
    if card.name != card.path.stem:
        raise CardError(f"{where}: name is {card.name!r}; it must be the file's: {card.path.stem}")
    if not re.fullmatch("[0-9a-f]{64}", card.sha256):
        raise CardError(f"{where}: sha256 {card.sha256!r} is not 64 lower-case hexadecimal digits")
