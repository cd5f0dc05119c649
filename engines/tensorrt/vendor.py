"""The two TensorRT libraries, which share one Python interface, and what they say while they work."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..base import EngineError
from .symptoms import explain

log = logging.getLogger(__name__)

_KEPT_LINES = 20


@dataclass(frozen=True, slots=True)
class Backend:
    """One of the two libraries."""

    name: str
    """As in the table of engines."""
    module: str
    distributions: tuple[str, ...]
    """What it may be called where it is installed, the usual one first."""
    install: str
    compiles_on_device: bool = False
    """Finishes a plan where it runs, and gives what it compiled to be kept."""


TENSORRT = Backend(
    "tensorrt",
    "tensorrt",
    ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "pip install 'streamer-enhancer[gpu]'",
)
TENSORRT_RTX = Backend(
    "tensorrt-rtx",
    "tensorrt_rtx",
    ("tensorrt-rtx-cu13", "tensorrt-rtx", "tensorrt-rtx-cu12"),
    "pip install 'streamer-enhancer[rtx]'",
    compiles_on_device=True,
)


def load_vendor(backend: Backend) -> Any:
    """The library's module.

    Raises:
        EngineError: not installed, incomplete, or without a library that it needs.
    """
    try:
        module: Any = importlib.import_module(backend.module)
    except (ImportError, OSError) as error:
        raise EngineError(f"cannot use the {backend.name} engine: {error}; run: {backend.install}") from error
    if not hasattr(module, "Builder"):
        raise EngineError(
            f"cannot use the {backend.name} engine: the installed {backend.module} has no Builder, so it is only a "
            f"stub for type checkers; run: pip uninstall tensorrt-stubs && {backend.install}"
        )
    return module


@dataclass
class Journal:
    """What the library said, newest last: its calls return None, and the reason is only here."""

    problems: list[str] = field(default_factory=list)

    def logger(self, vendor: Any) -> Any:
        """A logger that may be given to the library; keep it for as long as what it was given to."""
        journal = self

        class Logger(vendor.ILogger):  # type: ignore[misc]  # the base is known only here
            def __init__(self) -> None:
                vendor.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                journal.say(severity <= vendor.ILogger.ERROR, msg)

        return Logger()

    def say(self, is_problem: bool, message: str) -> None:
        """Keep a line; what is no problem only goes to the log, and only for debugging."""
        text = " ".join(message.split())
        log.debug("%s", text)
        if is_problem:
            self.problems = [*self.problems, text][-_KEPT_LINES:]

    def reason(self) -> str:
        """The problems said since the last time, as one line."""
        said, self.problems = self.problems, []
        return "; ".join(dict.fromkeys(said)) or "it gave no reason"


class NotStartedError(Exception):
    """The library is there and does not start; the message says why and what to do."""


def started(journal: Journal, make: Callable[[], Any]) -> Any:
    """What `make` makes of the library's: a Builder or Runtime, which start it.

    Raises:
        NotStartedError: the library gave null, as it does with an old driver or GPU.
    """
    try:
        return make()
    except TypeError as error:
        logged = "; ".join(journal.problems)
        meaning = explain(logged) or explain(str(error))
    raise NotStartedError(f"TensorRT does not start: {logged or 'it gave no reason'} - {meaning}")
