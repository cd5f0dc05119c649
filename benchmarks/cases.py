"""The pieces of work that `speed` compares: each reads the same clip with the same network and encoder settings."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

import engines
from benchmarks.clip import stamped
from benchmarks.machine import Usage
from onnx_models.cards import ModelCard, load_card
from streamer import EncoderSettings, EnhanceStage, Frame, Pipeline
from streamer.color import ChromaScaler
from streamer.sinks.media import MediaSink
from streamer.sources.media import MediaSource
from streamer.stabiliser import StabiliseStage
from streamer.stage import Media, Stage

MODEL = "upscale-x2-nano"
CRF, PRESET = 18, "ultrafast"
KEPT_FRAMES = 109
"""Frames held in memory for the cases that must not decode. Played to and fro, they are the clip's whole content: its
recording has as many."""

_WARM_UP_FRAMES = 16
_RATE = Fraction(30)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a case works on: the clip, its number of frames, and a folder for what it writes."""

    clip: Path
    frames: int
    folder: Path


class Window:
    """Usage between two moments of a steady run, one short of either end.

    A frame counts when it is finished. What is under way at the first moment and what is at the second cancel out, so
    neither opening nor flushing is in the figures, and a pipeline doesn't gain by the frames that it holds.
    """

    def __init__(self, frames: int) -> None:
        margin = min(_WARM_UP_FRAMES, frames // 4)
        self.frames = frames - 2 * margin
        self._marks = {margin, frames - margin}
        self._count = 0
        self._usages: list[Usage] = []

    def tick(self, _frame: Frame | None = None) -> None:
        """Called whenever a frame is finished."""
        self._count += 1
        if self._count in self._marks:
            self._usages.append(Usage.now())

    @property
    def usage(self) -> Usage:
        first, last = self._usages
        return last.since(first)


def decode(setup: Setup, window: Window) -> None:
    """Our source alone."""
    for _ in _frames(setup):
        window.tick()


def network(setup: Setup, window: Window) -> None:
    """The engine alone, as many pictures in flight as it has slots, results not copied."""
    frames = list(islice(_frames(setup), KEPT_FRAMES))
    height, width = frames[0].planes[0].shape
    controls = _controls()
    flying: deque[engines.Ticket] = deque()
    with engines.open_engine(engines.EngineRequest(_card().path, width, height)) as engine:
        for frame in islice(cycle(frames), setup.frames):
            if len(flying) == engine.slots:
                engine.collect(flying.popleft())
                window.tick()
            flying.append(engine.submit({"luma": frame.planes[0][None, None], **controls}))
        while flying:
            engine.collect(flying.popleft())
            window.tick()


def chroma(setup: Setup, window: Window) -> None:
    """The interpolation of both chroma planes alone."""
    cv2.setNumThreads(1)  # as the enhance stage does
    frames = list(islice(_frames(setup), KEPT_FRAMES))
    first = frames[0]
    scale = _card().scale
    scaler = ChromaScaler(first.format.layout, first.format.color, scale)
    targets = [np.empty([side * scale for side in plane.shape], plane.dtype) for plane in first.planes[1:]]
    for frame in islice(cycle(frames), setup.frames):
        for plane, target in zip(frame.planes[1:], targets, strict=True):
            scaler.resample(plane, target)
        window.tick()


def encode(setup: Setup, window: Window) -> None:
    """Our sink alone, on frames enhanced beforehand."""
    sink = _sink(setup)
    enhanced = _enhanced(setup)
    sink.open(enhanced[0].format, Media())
    for frame in stamped(enhanced, setup.frames):
        sink.write(frame)
        window.tick()
    sink.close()


def pipeline(setup: Setup, window: Window) -> None:
    """File to file through streamer's pipeline."""
    with Pipeline(_source(setup), [EnhanceStage(_card())], [_sink(setup)], on_frame=window.tick):
        pass


def pipeline_stabilised(setup: Setup, window: Window) -> None:
    """The same with the stabiliser, as jobs run by default."""
    stabiliser = StabiliseStage()
    stages: list[Stage] = [EnhanceStage(_card(), keeps_source=True, stabiliser=stabiliser), stabiliser]
    with Pipeline(_source(setup), stages, [_sink(setup)], on_frame=window.tick):
        pass


def plain_x264(setup: Setup, window: Window) -> None:
    """The usual loop, written to H.264 with the pipeline's settings."""
    with av.open(str(setup.folder / "plain.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=_RATE, options={"crf": str(CRF), "preset": PRESET})
        for picture in _plain_loop(setup):
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            window.tick()
        container.mux(stream.encode(None))


def plain_writer(setup: Setup, window: Window) -> None:
    """The usual loop, written by OpenCV's own writer, which has no x264: MPEG-4 part 2."""
    writer: Any = None
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    for picture in _plain_loop(setup):
        if writer is None:
            size = (picture.shape[1], picture.shape[0])
            writer = cv2.VideoWriter(str(setup.folder / "writer.mp4"), fourcc, float(_RATE), size)
        writer.write(picture)
        window.tick()
    writer.release()


Case = Callable[[Setup, Window], None]

CASES: dict[str, Case] = {
    "decode": decode,
    "network": network,
    "encode": encode,
    "chroma": chroma,
    "pipeline": pipeline,
    "pipeline, stabilised": pipeline_stabilised,
    "plain loop, x264": plain_x264,
    "plain loop, VideoWriter": plain_writer,
}
"""All cases, in the order in which a round runs them."""


def measure(name: str, setup: Setup) -> tuple[Usage, int]:
    """Runs one case; returns what it used and for how many frames."""
    window = Window(setup.frames)
    CASES[name](setup, window)
    return window.usage, window.frames


def _plain_loop(setup: Setup) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames [height, width, BGR] of the loop that people write: OpenCV in, NumPy float32, ONNX Runtime as it comes.

    The same network on luma. Its 16-bit form takes and gives float32, like networks without pixels in their graph.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(engines.for_bits(_card().path, 16))
    controls = _controls()
    capture = cv2.VideoCapture(str(setup.clip))
    while True:
        found, picture = capture.read()
        if not found:
            break
        luma, *colors = cv2.split(cv2.cvtColor(picture, cv2.COLOR_BGR2YCrCb))
        feed = luma.astype(np.float32)[None, None] * 256
        (result,) = session.run(None, {"luma": feed, **controls})
        enhanced = np.clip(np.rint(result[0, 0] / 256), 0, 255).astype(np.uint8)
        size = (enhanced.shape[1], enhanced.shape[0])
        colors = [cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC) for plane in colors]
        yield np.asarray(cv2.cvtColor(cv2.merge([enhanced, *colors]), cv2.COLOR_YCrCb2BGR), np.uint8)
    capture.release()


def _card() -> ModelCard:
    return load_card(MODEL)


def _controls() -> dict[str, npt.NDArray[np.float32]]:
    """What the network takes beside the picture."""
    levels = {"level": 0.5, "noise": 0.0} if _card().conditioned else {}
    return {name: np.array([value], np.float32) for name, value in {"strength": 1.0, **levels}.items()}


def _source(setup: Setup) -> MediaSource:
    return MediaSource(str(setup.clip))


def _sink(setup: Setup) -> MediaSink:
    return MediaSink(str(setup.folder / "enhanced.mp4"), EncoderSettings("h264", CRF, PRESET), force=True)


def _frames(setup: Setup) -> Iterator[Frame]:
    source = _source(setup)
    source.open()
    try:
        while (frame := source.read()) is not None:
            yield frame
    finally:
        source.close()


def _enhanced(setup: Setup) -> list[Frame]:
    stage = EnhanceStage(_card())
    frames = list(islice(_frames(setup), KEPT_FRAMES))
    stage.open(frames[0].format)
    try:
        return [*(done for frame in frames for done in stage.process(frame)), *stage.flush()]
    finally:
        stage.close()
