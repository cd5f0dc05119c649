"""Every test must end as it began: no error logged, no thread left behind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from tests.gpu.fixtures import simulated_gpu as simulated_gpu


@pytest.fixture(autouse=True, scope="session")
def no_models_but_the_shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever a developer has imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def nothing_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]
    for thread in left:
        thread.join(5.0)
    assert not [thread for thread in left if thread.is_alive()], f"threads left: {left}"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, f"errors logged: {[record.getMessage() for record in errors]}"
