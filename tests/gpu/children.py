"""Child processes that build plans, held back until a test has seen what happens without them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engines import PlanBuild, background

if TYPE_CHECKING:
    from streamer.enhancer import EnhanceStage
    from tests.gpu.device import SimulatedGpu

PATIENCE_S = 120.0


class Gate:
    """Holds the child back until the test has seen what happens without it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._handle = os.open(path, os.O_RDWR)

    def open(self) -> None:
        """Lets one child go, also one that is still to come."""
        os.write(self._handle, b"!")

    def end(self, stage: EnhanceStage) -> None:
        """Lets the child go and waits for its end."""
        self.open()
        child_of(stage).wait(PATIENCE_S)

    def close(self) -> None:
        os.close(self._handle)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


@pytest.fixture
def real_child(
    simulated_gpu: SimulatedGpu, gate: Gate, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(request.config.cache.mkdir("simulated-gpu"))
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-m", "tests.gpu.builder", str(gate.path), folder))


def child_of(stage: EnhanceStage) -> PlanBuild:
    build = stage._runner._build
    assert build is not None
    return build
