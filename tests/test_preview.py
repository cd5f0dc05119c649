"""The preview: a real window on SDL's driver without a screen, real events, and what it then shows."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import streamer
from onnx_models.cards import load_card
from streamer.channel import Cancelled
from streamer.color import BT601, BT709
from streamer.convert import rgb_of
from streamer.enhancer import EnhanceStage
from streamer.errors import SinkError
from streamer.frame import FULL, LIMITED, ColorSpec, Frame, VideoFormat
from streamer.sinks import make_sink
from streamer.sinks.upright import displayed_size
from streamer.sinks.window import Window, columns
from streamer.stats import Stats
from streamer.switch import ModelSwitch
from tests.clips import decoded, make_frame

SIZE = (320, 180)


@pytest.fixture
def pygame(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    module = pytest.importorskip("pygame", reason="pygame-ce is the preview's window")
    yield module
    module.quit()


def flat_frame(luma: int, cb: int, cr: int, color: ColorSpec, size: tuple[int, int] = SIZE, **options: Any) -> Frame:
    format = VideoFormat(*size, "yuv420p", color, Fraction(1), Fraction(25), **options)
    shapes = format.layout.shapes(*size)
    planes = tuple(np.full(shape, code, np.uint8) for shape, code in zip(shapes, (luma, cb, cr), strict=True))
    return Frame(planes, format, 0, Fraction(1, 25), 1, 0, 0)


def reference_rgb(luma: int, cb: int, cr: int, color: ColorSpec) -> npt.NDArray[np.float64]:
    """By the equations of BT.601 and BT.709, in floating point."""
    kr, kb = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722)}[color.matrix]
    y, u, v = (luma - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    if color.range == FULL:
        y, u, v = luma / 255, (cb - 128) / 255, (cr - 128) / 255
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return 255 * np.clip([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue], 0, 1)


class Keys:
    """Controls that note what was asked of them."""

    model, strength, stabiliser = "upscale-x2-nano", 1.0, "adaptive"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def next_model(self) -> None:
        self.asked.append("model")

    def add_strength(self, step: float) -> None:
        self.asked.append(f"{step:+.1f}")

    def toggle_stabiliser(self) -> None:
        self.asked.append("stabiliser")


def press(pygame: Any, window: Window, *keys: str) -> bool:
    for key in keys:
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=getattr(pygame, f"K_{key}"), unicode="", mod=0))
    return window.attend()


def move_mouse(pygame: Any, window: Window, x: int) -> None:
    pygame.event.post(pygame.event.Event(pygame.MOUSEMOTION, pos=(x, 50), rel=(0, 0), buttons=(0, 0, 0)))
    window.attend()


class TestWindow:
    @pytest.mark.parametrize("matrix", [BT601, BT709])
    @pytest.mark.parametrize("code_range", [LIMITED, FULL])
    def test_colours_are_those_of_the_frame(self, pygame: Any, matrix: int, code_range: int) -> None:
        color = ColorSpec(matrix=matrix, range=code_range)
        with Window(flat_frame(120, 90, 180, color), None, Stats([])) as window:
            shown = window.picture[100, 200]
        assert np.abs(shown - reference_rgb(120, 90, 180, color)).max() <= 1

    def test_the_split_follows_the_mouse(self, pygame: Any) -> None:
        color = ColorSpec(matrix=BT709, range=LIMITED)
        before = flat_frame(60, 128, 128, color, (160, 90))
        frame = replace(flat_frame(180, 128, 128, color), source=before)
        dark, light = (reference_rgb(luma, 128, 128, color)[0] for luma in (60, 180))
        with Window(frame, None, Stats([])) as window:
            for x in (80, 250, 0, 319):
                move_mouse(pygame, window, x)
                row = window.picture[100, :, 0].astype(float)
                assert np.abs(row[: max(0, x - 1)] - dark).max(initial=0) <= 1
                assert np.abs(row[x + 2 :] - light).max(initial=0) <= 1

    def test_each_side_is_the_picture_itself(self, pygame: Any) -> None:
        enhanced, before = make_frame("yuv420p", *SIZE, number=3), make_frame("yuv420p", 160, 90, number=9)
        with Window(replace(enhanced, source=before), None, Stats([])) as window:
            move_mouse(pygame, window, 131)
            shown = window.picture
        expected = [rgb_of(frame.planes, frame.format, *SIZE) for frame in (before, enhanced)]
        assert np.abs(shown[40:, :130].astype(int) - expected[0][40:, :130]).max() <= 1
        assert np.abs(shown[40:, 133:].astype(int) - expected[1][40:, 133:]).max() <= 1

    def test_keys(self, pygame: Any) -> None:
        keys = Keys()
        with Window(make_frame("yuv420p", *SIZE), keys, Stats([])) as window:
            assert press(pygame, window, "UP", "DOWN", "m", "s", "x")
            assert keys.asked == ["+0.1", "-0.1", "model", "stabiliser"]
            plain = window.picture
            press(pygame, window, "h")
            assert not np.array_equal(window.picture, plain), "the keys are listed"
            assert not press(pygame, window, "q")

    def test_freezing_keeps_the_picture(self, pygame: Any) -> None:
        with Window(make_frame("yuv420p", *SIZE), None, Stats([])) as window:
            press(pygame, window, "SPACE")
            frozen = window.picture
            assert "frozen" in window.status
            window.show(make_frame("yuv420p", *SIZE, number=5))
            assert np.array_equal(window.picture, frozen)
            press(pygame, window, "SPACE")
            window.show(make_frame("yuv420p", *SIZE, number=5))
            assert not np.array_equal(window.picture[60:], frozen[60:])

    def test_full_screen_keeps_the_shape(self, pygame: Any) -> None:
        with Window(flat_frame(180, 128, 128, ColorSpec(range=LIMITED)), None, Stats([])) as window:
            assert window.picture.shape == (180, 320, 3)
            press(pygame, window, "f")
            shown = window.picture
            height, width = shown.shape[:2]
            assert (width, height) == pygame.display.get_desktop_sizes()[0]
            inner = width * 9 // 16
            lit = np.flatnonzero(shown[:, width // 2, 0])
            assert (lit[0], lit[-1]) == ((height - inner) // 2, (height - inner) // 2 + inner - 1)
            press(pygame, window, "f")
            assert window.picture.shape == (180, 320, 3)

    def test_the_line_on_the_picture(self, pygame: Any) -> None:
        stats = Stats([])
        stats.dropped = 7
        frame = make_frame("yuv420p", *SIZE)
        with Window(frame, Keys(), stats) as window:
            window.show(frame)
            assert "7 dropped   upscale-x2-nano   strength 1.0" in window.status
            assert "frames/s" in window.status
            assert window.picture[:20, :20].min() < 20 < 200 < window.picture[:20].max()

    @pytest.mark.parametrize(
        "pix_fmt",
        [
            *("yuv420p", "yuv422p", "yuv440p", "yuv444p", "gray", "yuv420p10le"),
            *("yuv422p9le", "yuv422p10le", "yuv422p14le", "yuv422p16le"),
        ],
    )
    @pytest.mark.parametrize("rotation", [0, 90, 180, 270])
    def test_pictures_stand_upright(self, pix_fmt: str, rotation: int) -> None:
        frame = make_frame(pix_fmt, 48, 32)
        turned = replace(frame, format=replace(frame.format, rotation=rotation))
        size = displayed_size(turned.format)
        part, offset = columns(turned, frame.format.color, size, 0, size[0])
        assert offset == 0
        expected = np.rot90(rgb_of(frame.planes, frame.format, 48, 32), rotation // 90)
        error = np.abs(part.astype(int) - expected)
        assert error.mean() < 3, "but for the siting of chroma"

    def test_without_a_screen(self, monkeypatch: pytest.MonkeyPatch, pygame: Any) -> None:
        for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(SinkError, match="a preview needs a display"), Window(make_frame(), None, Stats([])):
            pass


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SinkError, match=r"pip install 'streamer-enhancer\[preview\]'"):
        make_sink("preview:")


def test_a_job_with_a_preview_ends_with_its_input(pygame: Any) -> None:
    progress: list[int] = []
    summary = streamer.enhance(
        "test:64x48@50,25",
        ["preview:", "null:"],
        model="upscale-x2-nano",
        on_progress=lambda p: progress.append(p.frames),
    )
    assert summary.frames == len(progress) > 0
    assert summary.skipped == {}, "what a window has no time for is no loss"
    assert not pygame.display.get_init()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_photograph_stays_until_the_window_is_closed_or_the_job_stopped(
    pygame: Any, tmp_path: Path, stopped: bool
) -> None:
    pipelines: list[streamer.Pipeline] = []
    attend, attended = Window.attend, 0

    def close_later(window: Window) -> bool:
        nonlocal attended
        attended += 1
        if (tmp_path / "out.png").exists():  # the rest of the job is done
            if stopped:
                pipelines[0].stop()
            else:
                pygame.event.post(pygame.event.Event(pygame.QUIT))
        return attend(window)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Window, "attend", close_later)
        outputs = ["preview:", str(tmp_path / "out.png")]
        summary = streamer.enhance("test:64x48@25,1", outputs, model="none", live=False, on_start=pipelines.append)
    assert (summary.frames, attended > 0, summary.interrupted) == (1, True, False)
    assert not pygame.display.get_init()


def test_a_failure_behind_a_photograph_closes_the_window(pygame: Any, tmp_path: Path) -> None:
    def fail(progress: streamer.Progress) -> None:
        raise LookupError("in the callback")

    with pytest.raises(LookupError, match="in the callback"):
        streamer.enhance("test:64x48@25,1", "preview:", model="none", live=False, on_progress=fail)
    assert not pygame.display.get_init()


def test_quitting_the_window_ends_the_job(pygame: Any) -> None:
    def quit_soon(progress: streamer.Progress) -> None:
        if progress.frames >= 10 and pygame.display.get_init():
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    summary = streamer.enhance("test:64x48@50,100000", "preview:", model="upscale-x2-nano", on_progress=quit_soon)
    assert 10 <= summary.frames < 1000


def test_the_stabiliser_key_switches_it_off_and_on_between_two_frames() -> None:
    stage = streamer.StabiliseStage("adaptive")
    switch = ModelSwitch([load_card("upscale-x2-nano")], EnhanceStage, stage)
    format = replace(make_frame().format, width=64, height=48, pix_fmt="gray")
    frames = [
        replace(make_frame(), planes=(np.full((48, 64), code, np.uint8),), format=format, index=number)
        for number, code in enumerate((90, 92))
    ]
    stage.open(format)
    seen = []
    for mode in ("adaptive", "off", "adaptive"):
        assert switch.stabiliser == stage.mode == mode
        seen.append([int(out.planes[0][0, 0]) for frame in frames for out in stage.process(frame)])
        switch.toggle_stabiliser()
    assert seen[1] == [90, 92]
    assert seen[0] == seen[2], "what was seen before it was off is forgotten"


def test_the_model_key_changes_the_model_between_two_frames() -> None:
    cards = [load_card("upscale-x2-nano"), load_card("upscale-x2-nano-clean")]
    switch = ModelSwitch(cards, partial(EnhanceStage, keeps_source=True))
    frames = [make_frame("yuv420p", 32, 24, number=number) for number in range(12)]
    switch.open(frames[0].format)
    out: list[Frame] = []
    switch.add_strength(-0.5)
    for number, frame in enumerate(frames):
        if number == 6:
            switch.next_model()
        out += switch.process(frame)
    out += switch.flush()
    switch.close()
    assert [frame.pts for frame in out] == [frame.pts for frame in frames]
    assert [frame.source.pts for frame in out if frame.source is not None] == [frame.pts for frame in frames]
    assert [frame.pts for frame in out if frame.discontinuity] == [frames[6].pts], "history is the other model's"
    assert switch.card.name == "upscale-x2-nano-clean"
    assert (switch.model, switch.strength, switch.counts["model changes"]) == ("upscale-x2-nano-clean", 0.5, 1)
    for card, part in zip(cards, (slice(0, 6), slice(6, 12)), strict=True):
        stage = EnhanceStage(card, strength=0.5)
        stage.open(frames[0].format)
        alone = [made for frame in frames[part] for made in stage.process(frame)] + list(stage.flush())
        stage.close()
        for mine, theirs in zip(out[part], alone, strict=True):
            assert np.abs(mine.planes[0].astype(int) - theirs.planes[0]).max() <= 2


def test_a_model_that_cannot_be_opened_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    card = load_card("upscale-x2-nano")
    broken = replace(card, name="broken", sha256="0" * 64)
    switch = ModelSwitch([card, broken], EnhanceStage)
    frame = make_frame("yuv420p", 32, 24)
    switch.open(frame.format)
    switch.next_model()
    assert len([*switch.process(frame), *switch.flush()]) == 1
    switch.close()
    assert switch.model == "upscale-x2-nano"
    assert "broken can't be opened" in caplog.text


def test_who_waits_for_the_next_models_plan_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in waits as the building of a plan does."""
    opening, interrupted = threading.Event(), threading.Event()

    class Waiting(EnhanceStage):
        def open(self, format: VideoFormat) -> VideoFormat:
            opening.set()
            assert interrupted.wait(20)
            raise Cancelled("a test")

        def interrupt(self) -> None:
            interrupted.set()

    nano, small = load_card("upscale-x2-nano"), load_card("upscale-x2-small")
    switch = ModelSwitch([nano, small], lambda card: Waiting(card) if card is small else EnhanceStage(card))
    frame = make_frame("yuv420p", 32, 24)
    switch.open(frame.format)
    switch.next_model()
    with ThreadPoolExecutor(1) as thread:
        changing = thread.submit(lambda: list(switch.process(frame)))
        assert opening.wait(20)
        switch.interrupt()
        with pytest.raises(Cancelled):
            changing.result()
    switch.close()


@pytest.mark.slow
def test_control_c_ends_the_window_and_finishes_the_file(pygame: Any, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "streamer",
        "enhance",
        "test:320x180@50,100000",
        "preview:",
        str(tmp_path / "a.mp4"),
    ]
    command += ["--model", "none", "--crf", "0", "--preset", "ultrafast"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        while not any(part.stat().st_size > 5000 for part in tmp_path.glob(".*part*")):
            assert running.poll() is None
            os.sched_yield()
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert len(decoded(tmp_path / "a.mp4")) > 3


def test_control_c_that_a_library_swallows_ends_the_window(pygame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an exception is that Python raises where a library calls it back."""
    attend = Window.attend

    def deaf(self: Window) -> bool:
        with contextlib.suppress(KeyboardInterrupt):
            _thread.interrupt_main()
            os.sched_yield()  # the handler runs before this returns
        return attend(self)

    monkeypatch.setattr(Window, "attend", deaf)
    with pytest.raises(KeyboardInterrupt) as caught:
        streamer.enhance("test:64x48@50,100000", "preview:", model="none")
    assert caught.value.summary.interrupted  # type: ignore[attr-defined]  # as `streamer.enhance` says
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_the_command_says_that_there_is_no_camera() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamer", "preview", "camera:79"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "error: can't connect to camera:79" in done.stderr
