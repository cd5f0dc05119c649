"""A file of streams in TOML: what `streamer run` reads, checked before anything starts.

    [defaults]                       # for all streams; may be left out
    preset = "ultrafast"

    [streams.door]
    input = "rtsp://camera/stream"
    outputs = ["rtsp://server/door", "door.mkv"]
    model = "upscale-x2-nano"

Keys are the keywords of `streamer.enhance`.
"""

from __future__ import annotations

import difflib
import inspect
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from streamer.errors import UsageError, public_url
from streamer.job import enhance
from streamer.sinks.outputs import place_of

DEFAULTS, STREAMS = "defaults", "streams"
_INPUT, _OUTPUTS = "input", "outputs"


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of the file: `settings` are keywords of `streamer.enhance`, those of the defaults included."""

    name: str
    input: str
    outputs: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def load_streams(path: str | os.PathLike[str]) -> tuple[Stream, ...]:
    """The streams that the file at `path` describes, in its order; paths in it are relative to the current folder.

    Raises UsageError, naming stream and key, for what can't be read, an unknown key, a value of another type, a stream
    without input or outputs, and for standard input or an output that two streams would use.
    """
    try:
        with Path(path).open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {path}: it isn't TOML: {error}") from error
    try:
        return _streams(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _streams(content: dict[str, Any]) -> tuple[Stream, ...]:
    for key in content:
        _check_key("the file", key, (DEFAULTS, STREAMS))
    types = _setting_types()
    defaults = _table(f"[{DEFAULTS}]", content.get(DEFAULTS, {}))
    _check_settings(f"[{DEFAULTS}]", defaults, types)
    tables = _table(f"[{STREAMS}]", content.get(STREAMS, {}))
    if not tables:
        raise UsageError(f"it has no stream: begin one with a line such as [{STREAMS}.door]")
    streams = tuple(_stream(name, table, defaults, types) for name, table in tables.items())
    _check_input(streams)
    _check_outputs(streams)
    return streams


def _stream(name: str, content: Any, defaults: dict[str, Any], types: dict[str, Any]) -> Stream:
    where = f"stream {name!r}"
    table = _table(where, content)
    _check_settings(where, table, {_INPUT: str, _OUTPUTS: str | list, **types})
    for key in (_INPUT, _OUTPUTS):
        if not table.get(key):
            raise UsageError(f"{where} has no {key}: give it {key} = …")
    given = table[_OUTPUTS]
    outputs = [given] if isinstance(given, str) else given
    if not all(isinstance(output, str) for output in outputs):
        raise UsageError(f"{where}: {_OUTPUTS} must be one text or a list of texts")
    settings = {key: value for key, value in {**defaults, **table}.items() if key in types}
    return Stream(name, table[_INPUT], tuple(outputs), settings)


def _setting_types() -> dict[str, Any]:
    """The keywords of `enhance` that a file can hold, with their types. Metrics are served for all streams at once."""
    hints = get_type_hints(enhance)
    names = [name for name in inspect.signature(enhance).parameters if not name.startswith("on_")]
    return {name: hints[name] for name in names if name not in (_INPUT, _OUTPUTS, "metrics")}


def _table(where: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UsageError(f"{where} must be a table of keys and values, not {content!r}")
    return content


def _check_key(where: str, key: str, allowed: Iterable[str]) -> None:
    if key not in allowed:
        near = difflib.get_close_matches(key, allowed, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(sorted(allowed))}"
        raise UsageError(f"{where} has an unknown key {key!r}: {hint}")


def _check_settings(where: str, table: dict[str, Any], types: dict[str, Any]) -> None:
    for key, value in table.items():
        _check_key(where, key, types)
        if not _fits(value, types[key]):
            raise UsageError(f"{where}: {key} = {value!r} must be {_spoken(types[key])}")


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value out of a TOML file is of the type that an annotation says."""
    if get_origin(wanted) is Literal:
        return value in get_args(wanted)
    if get_args(wanted):
        return any(_fits(value, part) for part in get_args(wanted))
    if isinstance(value, bool) or wanted is bool:
        return isinstance(value, bool) and wanted is bool
    return isinstance(value, (int, float)) if wanted is float else isinstance(value, wanted)


def _spoken(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return " or ".join(repr(value) for value in get_args(wanted))
    if get_args(wanted):
        return " or ".join(_spoken(part) for part in get_args(wanted) if part is not type(None))
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}
    return names[wanted]


def _check_input(streams: tuple[Stream, ...]) -> None:
    readers = [stream.name for stream in streams if stream.input == "-"]
    if len(readers) > 1:
        raise UsageError(f"streams {readers[0]!r} and {readers[1]!r} both read standard input: only one can")


def _check_outputs(streams: tuple[Stream, ...]) -> None:
    owners: dict[str, str] = {}
    for stream in streams:
        for output in stream.outputs:
            if output == "null:":
                continue
            place = place_of(output)
            if place in owners:
                raise UsageError(
                    f"streams {owners[place]!r} and {stream.name!r} both write {public_url(output)}: "
                    "give every output its own name"
                )
            owners[place] = stream.name
