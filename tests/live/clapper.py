"""Flashes and beeps at the same moments: made, sent, and found again in what came out."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from streamer.clock import fraction
from streamer.detached import detached_packet, detached_streams
from streamer.frame import Frame
from tests.clips import make_frame
from tests.live.peers import ffmpeg

INTERVAL_S = Fraction(1, 25)
HOLE_S = 0.1
"""Longer ones in the sound are too long."""


def clapper(*output: str) -> list[str]:
    """The command of an FFmpeg that sends a white flash and a beep, both of 80 ms, every three seconds."""
    flash = "color=c=black:s=160x96:r=25,drawbox=color=white:t=fill:enable='lt(mod(t,3),0.08)'"
    beep = "aevalsrc='sin(2*PI*1000*t)*lt(mod(t,3),0.08)':s=48000"
    inputs = [word for made in (flash, beep) for word in ("-re", "-f", "lavfi", "-i", made)]
    picture = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "12", "-pix_fmt", "yuv420p")
    return [ffmpeg(), "-nostdin", "-v", "error", *inputs, *picture, "-c:a", "aac", *output]


def flashes(path: Path) -> list[float]:
    """When the picture turns white, in seconds."""
    found, before = [], 255.0
    with av.open(str(path)) as container:
        frame: Any
        for frame in container.decode(video=0):
            light = float(frame.to_ndarray(format="gray").mean())
            if light > 128 > before:
                found.append(float(frame.pts * frame.time_base))
            before = light
    return found


def beeps(path: Path) -> list[float]:
    """When sound begins after a second of silence, in seconds."""
    found, heard = [], float("-inf")
    with av.open(str(path)) as container:
        sound: Any
        for sound in container.decode(audio=0):
            begins = float(sound.pts * sound.time_base)
            loud = begins + np.flatnonzero(np.abs(sound.to_ndarray()).max(axis=0) > 0.2) / sound.sample_rate
            if len(loud) and loud[0] - heard > 1:
                found.append(float(loud[0]))
            heard = float(loud[-1]) if len(loud) else heard
    return found


def pairs(path: Path) -> list[float]:
    """How much later than its flash every beep is, in seconds."""
    heard = beeps(path)
    return [beep - flash for flash in flashes(path) for beep in heard if abs(beep - flash) < 0.7]


def claps(
    frames: int, clap_s: Fraction, codec: str = "flac", rate: int = 48000, layout: str = "mono", muxer: str = "nut"
) -> tuple[list[Frame], Any, list[Any]]:
    """Frames at 25 Hz and packets of sound, both beginning at 0, and its stream (detached) as `muxer` has it.

    Every `clap_s` seconds, first after half of that, two frames are white, and the sound is loud for as long.
    """
    dark = make_frame()
    planes = tuple(np.full_like(plane, 128) for plane in dark.planes[1:])
    lights = {loud: (np.full_like(dark.planes[0], 235 if loud else 16), *planes) for loud in (False, True)}

    def loud(time_s: Fraction) -> bool:
        return (time_s + clap_s / 2) % clap_s < 2 * INTERVAL_S

    pictures = [
        replace(dark, planes=lights[loud(number * INTERVAL_S)], pts=number, index=number) for number in range(frames)
    ]
    times = np.arange(int(frames * INTERVAL_S * rate)) / rate
    tone = 0.5 * np.sin(2000 * np.pi * times) * ((times + float(clap_s) / 2) % float(clap_s) < float(2 * INTERVAL_S))
    memory = io.BytesIO()
    with av.open(memory, "w", format=muxer) as out:
        sound: Any = out.add_stream(codec, rate=rate, layout=layout)
        for start in range(0, len(tone), 960):
            samples = np.round(tone[start : start + 960] * 32767).astype(np.int16)[None]
            frame: Any = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    memory.seek(0)
    with av.open(memory, "r") as written:
        (stream,) = detached_streams(written.streams.audio)
        read = [packet for packet in written.demux(audio=0) if packet.size]
        priming_s = Fraction(1024, rate) if codec == "aac" else 0
        shift_s = -begin_of(read[0]) - priming_s
        packets = [detached_packet(packet, stream, shift_s) for packet in read]
    return pictures, stream, packets


def begin_of(packet: Any) -> Fraction:
    """The time of a packet, in seconds."""
    return Fraction(packet.pts * fraction(packet.time_base))


def loudest(path: Path, begin_s: float, end_s: float) -> float:
    """Of the sound between two times, 0 to 1."""
    found = 0.0
    with av.open(str(path)) as container:
        sound: Any
        for sound in container.decode(audio=0):
            if begin_s <= float(sound.pts * sound.time_base) < end_s:
                found = max(found, float(np.abs(sound.to_ndarray()).max()))
    return found


def holes(path: Path) -> list[float]:
    """How long nothing was heard: before the first sound, and between any two that were decoded, in seconds."""
    found, end = [], 0.0
    with av.open(str(path)) as container:
        sound: Any
        for sound in container.decode(audio=0):
            begins = float(sound.pts * sound.time_base)
            found.append(begins - end)
            end = begins + sound.samples / sound.sample_rate
    return found
