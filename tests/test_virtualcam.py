"""The virtual camera: the real pyvirtualcam, with a device in memory registered as one more of its backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import streamer
from streamer.color import BT601
from streamer.convert import rgb_of
from streamer.errors import SinkError
from streamer.frame import LIMITED, ColorSpec
from streamer.sinks import make_sink
from streamer.stage import Media
from tests.clips import make_frame

SD = ColorSpec(BT601, BT601, BT601, LIMITED, "left")


class Device:
    """What pyvirtualcam asks of a backend; `opened` are all so far."""

    opened: list[Device] = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str | None) -> None:
        if device not in (None, "Memory"):
            raise RuntimeError(f"no device {device}")
        self.size, self.fps, self.fourcc = (width, height), fps, fourcc
        self.frames: list[Any] = []
        self.closed = 0
        Device.opened.append(self)

    def send(self, frame: Any) -> None:
        self.frames.append(frame.copy())

    def close(self) -> None:
        self.closed += 1

    def device(self) -> str:
        return "Memory"

    def native_fourcc(self) -> None: ...


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Device]]:
    camera = pytest.importorskip("pyvirtualcam.camera", reason="pyvirtualcam makes virtual cameras")
    monkeypatch.setattr(camera, "BACKENDS", {})
    camera.register_backend("memory", Device)
    Device.opened = []
    yield Device.opened
    assert all(device.closed == 1 for device in Device.opened)


def test_what_programs_expect_passes_as_it_is(devices: list[Device]) -> None:
    frame = make_frame("yuv420p", 64, 48, color=SD)
    sink = make_sink("virtualcam:")
    sink.open(frame.format, Media())
    sink.write(frame)
    sink.close()
    sink.abort()
    (device,) = devices
    assert (device.size, device.fps) == ((64, 48), 25.0)
    assert np.array_equal(device.frames[0], np.concatenate([plane.ravel() for plane in frame.planes]))


@pytest.mark.parametrize(("pix_fmt", "size"), [("yuv420p", (64, 48)), ("yuv422p10le", (64, 48)), ("yuv444p", (63, 47))])
def test_other_pictures_become_rgb(devices: list[Device], pix_fmt: str, size: tuple[int, int]) -> None:
    frame = make_frame(pix_fmt, *size)
    sink = make_sink("virtualcam:Memory")
    sink.open(frame.format, Media())
    sink.write(frame)
    sink.close()
    (device,) = devices
    assert device.size == (size[0] & ~1, size[1] & ~1)
    assert np.array_equal(device.frames[0], rgb_of(frame.planes, frame.format, *device.size).ravel())


@pytest.mark.parametrize(("rotation", "sar"), [(90, 0), (180, 0), (270, 0), (0, Fraction(4, 3)), (90, Fraction(4, 3))])
def test_pictures_stand_upright_in_square_pixels(devices: list[Device], rotation: int, sar: Fraction) -> None:
    frame = make_frame("yuv420p", 64, 48, color=SD)
    frame = replace(frame, format=replace(frame.format, rotation=rotation, sar=Fraction(sar)))
    sink = make_sink("virtualcam:")
    sink.open(frame.format, Media())
    sink.write(frame)
    sink.close()
    (device,) = devices
    width = 84 if sar else 64  # 85 and a third, made even
    expected = np.rot90(rgb_of(frame.planes, frame.format, width, 48), rotation // 90)
    assert device.size == (expected.shape[1], expected.shape[0])
    shown = device.frames[0].reshape(expected.shape)
    assert np.abs(shown.astype(int) - expected).mean() < 3, "but for the siting of chroma"


def test_a_job(devices: list[Device]) -> None:
    summary = streamer.enhance("test:64x48@50,10", ["virtualcam:", "null:"], model="none", live=False)
    assert len(devices[0].frames) == summary.frames == 10


def test_no_such_device(devices: list[Device]) -> None:
    with pytest.raises(SinkError, match=r"can't open virtualcam:/dev/video9: .*no device.*modprobe v4l2loopback"):
        streamer.enhance("test:64x48@50,10", "virtualcam:/dev/video9", model="none")


def test_without_a_loopback_device() -> None:
    pytest.importorskip("pyvirtualcam", reason="pyvirtualcam makes virtual cameras")
    sink = make_sink("virtualcam:/dev/video79")
    with pytest.raises(SinkError, match=r"can't open virtualcam:/dev/video79: .*modprobe v4l2loopback"):
        sink.open(make_frame().format, Media())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SinkError, match=r"pip install 'streamer-enhancer\[virtualcam\]'"):
        make_sink("virtualcam:")
