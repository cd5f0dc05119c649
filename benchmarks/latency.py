"""`latency`: from glass to glass over loopback, through an RTSP server, the whole program, and back out.

A clock is burnt into every picture just before it is encoded and published; a reader decodes what comes out at the end
and looks how old it is. Three ways: the published stream read directly (encoder, server, decoder), through
`streamer --model none` (a bare relay: decode and encode once more), and through a model. Server and reader are threads
of this process, publisher and program are processes of their own; all of them share the machine. The latency that the
program itself reports, from the arrival of a decoded picture to the outputs, stands beside it.
"""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from benchmarks.burnt_clock import age_ns, burn
from benchmarks.clip import FORMAT, webcam_frames
from benchmarks.errors import BenchmarkError
from benchmarks.machine import facts
from benchmarks.relay import RtspRelay
from benchmarks.report import Report, table
from onnx_models.cards import load_card
from streamer.convert import fill_picture
from streamer.sources import make_source

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

OUTPUTS = ("rtsp", "udp", "srt")
DIRECT, RELAY = "published, read directly", "bare relay (--model none)"
WARM_UP_S = 3.0
"""After the first picture: connections deliver in a burst what a server kept."""
_LIMIT_S = 60.0
_RATE = 30


@dataclass(frozen=True, slots=True)
class Way:
    """What was seen at the end of one way: every picture's age, and what the program said of itself."""

    ages_ms: tuple[float, ...]
    pipeline_ms: dict[str, float]
    dropped: int
    lagged: int

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.ages_ms, percent))

    def as_dict(self) -> dict[str, Any]:
        ages = {f"p{p}_ms": round(self.percentile_ms(p), 1) for p in (50, 95, 99)}
        frames = {f"p{p}_frames": round(self.percentile_ms(p) * _RATE / 1000, 2) for p in (50, 95, 99)}
        return {
            **ages,
            **frames,
            "pictures": len(self.ages_ms),
            "pipeline_ms": self.pipeline_ms,
            "dropped": self.dropped,
            "lagged": self.lagged,
        }


class Publisher:
    """Publishes the test clip, with the clock burnt in, from a process of its own until the block ends.

    PyAV connects while it holds Python's lock, so in one process with the server it would wait for itself.
    """

    def __init__(self, url: str) -> None:
        context = get_context("spawn")
        self._ended = context.Event()
        self._process = context.Process(target=publish, args=(url, self._ended), daemon=True)

    def __enter__(self) -> Publisher:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._process.join(_LIMIT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def publish(url: str, ended: Event) -> None:
    """Encodes and publishes on an absolute grid until `ended` is set."""
    frames = webcam_frames()
    options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "23", "g": str(_RATE)}
    with av.open(url, "w", format="rtsp", options={"rtsp_transport": "tcp"}) as container:
        stream: Any = container.add_stream("libx264", rate=_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = FORMAT.width, FORMAT.height, "yuv420p"
        began_ns = time.monotonic_ns()
        number = 0
        while not ended.wait(max(0, began_ns + number * 10**9 // _RATE - time.monotonic_ns()) / 1e9):
            planes = [plane.copy() for plane in frames[number % len(frames)].planes]
            burn(planes[0], time.monotonic_ns())
            picture = av.VideoFrame(FORMAT.width, FORMAT.height, "yuv420p")
            fill_picture(picture, tuple(planes))
            picture.pts, picture.time_base = number, Fraction(1, _RATE)
            container.mux(stream.encode(picture))
            number += 1


def ages_at(url: str, seconds: float) -> tuple[float, ...]:
    """The ages in milliseconds of the pictures that come from `url` for so long, after the warm-up."""
    source = make_source(url, reconnect_limit=2)
    watchdog = threading.Timer(_LIMIT_S + seconds, source.interrupt)
    watchdog.start()
    ages: list[float] = []
    try:
        source.open()
        until_ns = time.monotonic_ns() + int((WARM_UP_S + seconds) * 1e9)
        from_ns = until_ns - int(seconds * 1e9)
        last: Any = None
        while time.monotonic_ns() < until_ns and (frame := source.read()) is not None:
            stands_in = last is not None and frame.planes is last
            last = frame.planes
            age = None if stands_in else age_ns(frame.planes[0], frame.captured_ns)
            if age is not None and frame.captured_ns >= from_ns:
                ages.append(age / 1e6)
    finally:
        watchdog.cancel()
        source.interrupt()
        source.close()
    return tuple(ages)


def run(seconds: float, model: str, output: str) -> Report:
    """Measures all three ways one after the other. Raises CardError, BenchmarkError."""
    load_card(model)
    machine = facts()
    ways: dict[str, Way] = {}
    with RtspRelay() as relay, Publisher(relay.url("in")):
        relay.wait_published("in")
        ways[DIRECT] = Way(ages_at(relay.url("in"), seconds), {}, 0, 0)
        for name, chosen in ((RELAY, "none"), (model, model)):
            ways[name] = through_streamer(relay, chosen, output, seconds)
    for name, way in ways.items():
        if not way.ages_ms:
            raise BenchmarkError(f"no picture with a clock came out of: {name}")
    findings = {
        "settings": {"model": model, "output": output, "seconds": seconds, "input": "640x360, 30 frames/s, RTSP"},
        "ways": {name: way.as_dict() for name, way in ways.items()},
    }
    return Report.of(findings, _text(findings, ways), machine)


def through_streamer(relay: RtspRelay, model: str, output: str, seconds: float) -> Way:
    """One run of the program between the server's path `in` and an output of that kind."""
    outward, reads = _ends(relay, output)
    command = [sys.executable, "-m", "streamer", "enhance", relay.url("in"), outward, "--model", model, "--json"]
    with subprocess.Popen([*command, "--preset", "ultrafast"], stdout=subprocess.PIPE, text=True) as program:
        lines: list[str] = []
        assert program.stdout is not None
        drain = threading.Thread(target=lines.extend, args=(program.stdout,), daemon=True)
        drain.start()
        try:
            if output == "rtsp":
                relay.wait_published("out")
            ages = ages_at(reads, seconds)
        finally:
            program.terminate()
            try:
                program.wait(_LIMIT_S)
            except subprocess.TimeoutExpired:
                program.kill()
            drain.join(_LIMIT_S)
    if not lines:
        raise BenchmarkError(f"{shlex.join(command)} ended without a summary: what it said stands above")
    summary = json.loads(lines[-1])
    stats = summary["stats"]
    return Way(ages, stats["latency_ms"], stats["dropped"], stats["lagged"])


def _ends(relay: RtspRelay, output: str) -> tuple[str, str]:
    """Where the program sends, and where the reader reads."""
    if output == "rtsp":
        return relay.url("out"), relay.url("out")
    port = _free_udp_port()
    if output == "udp":
        return f"udp://127.0.0.1:{port}", f"udp://127.0.0.1:{port}"
    return f"srt://127.0.0.1:{port}", f"srt://127.0.0.1:{port}?mode=listener"


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _text(findings: dict[str, Any], ways: dict[str, Way]) -> str:
    settings = findings["settings"]
    head = ("glass to glass", "p50 ms", "p95 ms", "p99 ms", "p50 frames", "p95 frames", "pipeline p95 ms", "lost")
    rows = [
        (
            name,
            *(f"{way.percentile_ms(p):.0f}" for p in (50, 95, 99)),
            *(f"{way.percentile_ms(p) * _RATE / 1000:.1f}" for p in (50, 95)),
            f"{way.pipeline_ms['p95']:.0f}" if way.pipeline_ms else "",
            way.dropped,
        )
        for name, way in ways.items()
    ]
    added = ways[settings["model"]].percentile_ms(50) - ways[RELAY].percentile_ms(50)
    return "\n".join(
        (
            f"{settings['input']} -> {settings['output']}, x264 ultrafast, {settings['seconds']:g} s each",
            "",
            table(head, rows),
            "",
            f"the model adds {added:.0f} ms ({added * _RATE / 1000:.1f} frames) to the bare relay, in the median",
        )
    )
