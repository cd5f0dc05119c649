"""A real X11 screen (Xvfb): the preview's window on it, and our own capture of what it shows."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from streamer.color import BT709
from streamer.convert import rgb_of
from streamer.errors import SourceError
from streamer.frame import LIMITED, ColorSpec
from streamer.sinks.window import Window
from streamer.sources import make_source
from streamer.stats import Stats
from tests.live.peers import LIMIT_S, Reader, process
from tests.test_preview import flat_frame, reference_rgb

pytestmark = pytest.mark.slow
WIDTH, HEIGHT = 640, 480


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a screen of its own."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    into, out = os.pipe()
    server = ["Xvfb", "-displayfd", str(out), "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-nolisten", "tcp"]
    with process(server, pass_fds=(out,), stderr=subprocess.DEVNULL) as running:
        os.close(out)
        with os.fdopen(into) as pipe:
            number = pipe.readline().strip()
        assert number, running.wait(LIMIT_S)
        monkeypatch.setenv("DISPLAY", f":{number}")
        yield f":{number}"


def captured(url: str) -> npt.NDArray[np.uint8]:
    """The screen, uint8 RGB [height, width, 3]."""
    source = make_source(url)
    with Reader(source) as reader:
        reader.wait_frames(3)
    frame = reader.frames[-1]
    return rgb_of(frame.planes, frame.format, frame.format.width, frame.format.height)


def test_the_preview_on_a_screen_and_its_capture(display: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame", reason="pygame-ce is the preview's window")
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    color = ColorSpec(matrix=BT709, range=LIMITED)
    with Window(flat_frame(120, 90, 180, color), None, Stats([])) as window:
        assert pygame.display.get_driver() == "x11"
        window.attend()
        whole = captured(f"screen:{display}@10")
        part = captured("screen:,320x240+160+120@10")
    assert (whole.shape, part.shape) == ((HEIGHT, WIDTH, 3), (240, 320, 3))
    alike = np.abs(whole - reference_rgb(120, 90, 180, color)).max(axis=2) <= 4
    assert alike.sum() > 0.8 * 320 * 180, "the window is there, in its colour"
    assert np.abs(whole[120:360, 160:480].astype(int) - part).max() <= 2


def test_a_screen_larger_than_there_is(display: str) -> None:
    with pytest.raises(SourceError, match=r"is there an X11 display of that name, and of that size"):
        make_source("screen:,9999x9999", reconnect_limit=0).open()
