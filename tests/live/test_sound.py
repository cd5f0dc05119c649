"""Sound in a live output: it stays with its pictures and has no holes, and what is reported of that is true."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import av
import pytest

from streamer.frame import Frame
from streamer.notes import Notes
from streamer.sinks.codecs import EncoderSettings
from streamer.sinks.companions import Companions
from streamer.sinks.outputs import Carrier, Output, output_for
from streamer.sinks.segments import SegmentedSink
from streamer.sinks.silence import SilentAac
from streamer.sinks.sound import Sounds
from streamer.sinks.stream import StreamSink
from streamer.stage import Media
from streamer.sync import SyncMeter
from tests.clips import make_frame, times
from tests.live.clapper import HOLE_S, INTERVAL_S, begin_of, claps, holes, loudest, pairs

TOLERANCE_S = 0.02
LATE_S = Fraction(48, 100)
"""Hardly less than what is waited for."""
CLAP_S = 38 * INTERVAL_S


def joined(frames: Sequence[Frame], packets: Sequence[Any], late_s: Fraction = Fraction(0)) -> list[Frame]:
    """Every packet rides on the first frame that is at least `late_s` later."""
    waiting, found = list(packets), []
    for frame in frames:
        ready = [packet for packet in waiting if begin_of(packet) + late_s <= frame.time]
        waiting = waiting[len(ready) :]
        found.append(replace(frame, packets=tuple(ready)))
    return found


def sent(
    path: Path, frames: Sequence[Frame], stream: Any, *, sounds: frozenset[str] | None = frozenset(), live: bool = True
) -> SyncMeter:
    """Sends it all into a file; sound is encoded anew unless `sounds` has its codec."""
    meter = SyncMeter()
    muxer = "mpegts" if path.suffix == ".ts" else "matroska"
    output = Output(str(path), muxer, Carrier.FILES, sounds=sounds)
    sink = StreamSink("test", output, EncoderSettings(), Notes("test"), meter)
    sink.open(frames[0].format, Media(companions=(stream,), live=live))
    for frame in frames:
        sink.write(frame)
    sink.close()
    return meter


@pytest.mark.parametrize(
    ("codec", "rate", "late_s"),
    [
        ("flac", 48000, LATE_S),
        ("pcm_mulaw", 8000, Fraction(0)),
        pytest.param("flac", 48000, Fraction(0), marks=pytest.mark.slow),
        pytest.param("flac", 44100, LATE_S, marks=pytest.mark.slow),
        pytest.param("pcm_mulaw", 8000, LATE_S, marks=pytest.mark.slow),
    ],
)
def test_outages_become_silence_and_nothing_moves(tmp_path: Path, codec: str, rate: int, late_s: Fraction) -> None:
    """Sound that begins 0.6 s after the pictures, is away for 2 s, and comes up to half a second after its picture."""
    frames, stream, packets = claps(225, CLAP_S, codec, rate)
    heard = [packet for packet in packets if begin_of(packet) >= 0.6 and not 3.1 <= begin_of(packet) < 5.1]
    meter = sent(tmp_path / "out.mkv", joined(frames, heard, late_s), stream)
    assert max(holes(tmp_path / "out.mkv")) < HOLE_S
    found = pairs(tmp_path / "out.mkv")
    assert len(found) == 5
    assert max(map(abs, found)) <= TOLERANCE_S
    assert meter.av_sync is not None
    assert abs(meter.av_sync.worst_ms) <= 1


@pytest.mark.parametrize(
    ("rate", "layout", "muxer", "late_s"),
    [
        (48000, "mono", "nut", LATE_S),
        (48000, "stereo", "mpegts", Fraction(0)),
        pytest.param(44100, "stereo", "nut", Fraction(0), marks=pytest.mark.slow),
        pytest.param(16000, "mono", "nut", LATE_S, marks=pytest.mark.slow),
        pytest.param(48000, "stereo", "mpegts", LATE_S, marks=pytest.mark.slow),
    ],
)
def test_outages_of_copied_aac_become_silence(
    tmp_path: Path, rate: int, layout: str, muxer: str, late_s: Fraction
) -> None:
    """As in RTMP, with one description, and as in transport streams, with a header on each packet."""
    frames, stream, packets = claps(225, CLAP_S, "aac", rate, layout, muxer)
    assert bool(stream.codec_context.extradata) == (muxer == "nut")
    heard = [packet for packet in packets if begin_of(packet) >= 0.6 and not 3.1 <= begin_of(packet) < 5.1]
    out = tmp_path / ("out.ts" if muxer == "mpegts" else "out.mkv")
    meter = sent(out, joined(frames, heard, late_s), stream, sounds=None)
    assert max(holes(out)[1:]) < HOLE_S
    found = pairs(out)
    assert len(found) == 5
    assert max(map(abs, found)) <= TOLERANCE_S
    assert loudest(out, 3.2, 5.0) < 0.001 < loudest(out, 5.1, 5.5)
    assert meter.av_sync is not None
    assert abs(meter.av_sync.worst_ms) <= 1


@pytest.mark.parametrize(
    "given",
    [
        {"name": "mp3"},
        {"layout": av.AudioLayout("5.1")},
        {"sample_rate": 12345},
        {"extradata": bytes.fromhex("118856e580")},  # with spectral band replication
        {"extradata": bytes.fromhex("2b118800")},  # with it, said in another way
        {"extradata": bytes.fromhex("1190")},  # of two channels
        {"extradata": bytes.fromhex("118c")},  # of 960 samples
    ],
)
def test_what_isnt_certain_to_be_the_same_gets_no_silence(given: dict[str, Any]) -> None:
    sure = {"name": "aac", "layout": av.AudioLayout("mono"), "sample_rate": 48000, "extradata": bytes.fromhex("1188")}
    assert SilentAac.like(SimpleNamespace(codec_context=SimpleNamespace(**sure))) is not None
    assert SilentAac.like(SimpleNamespace(codec_context=SimpleNamespace(**{**sure, **given}))) is None


def test_a_header_of_another_rate_gets_no_silence() -> None:
    """Of a stream whose real rate is twice what its headers say, because of spectral band replication."""
    _, stream, packets = claps(5, CLAP_S, "aac", 48000, "mono", "mpegts")
    _, _, others = claps(5, CLAP_S, "aac", 24000, "mono", "mpegts")
    silent = SilentAac.like(stream)
    assert silent is not None
    assert not silent.is_ready
    silent.learn(others[0])
    assert not silent.is_ready
    silent.learn(packets[0])
    assert silent.is_ready


@pytest.mark.parametrize("codec", ["mp2", "ac3"])
def test_other_copied_sound_keeps_its_holes(tmp_path: Path, codec: str) -> None:
    frames, stream, packets = claps(150, CLAP_S, codec)
    heard = [packet for packet in packets if not 2.0 <= begin_of(packet) < 4.0]
    sent(tmp_path / "out.mkv", joined(frames, heard), stream, sounds=None)
    assert max(holes(tmp_path / "out.mkv")) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("sounds", [None, frozenset()], ids=["copied", "encoded"])
def test_what_is_reported_is_what_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sounds: frozenset[str] | None
) -> None:
    """An output that moves its sound by 70 ms more than its pictures."""
    wrong_s = Fraction(7, 100)

    def moved(container: Any, media: Media, output: Output, shift_s: Fraction, *others: Any) -> Sounds:
        return Sounds(container, media, output, shift_s + wrong_s, *others)

    monkeypatch.setattr("streamer.sinks.stream.Sounds", moved)
    frames, stream, packets = claps(125, CLAP_S)
    meter = sent(tmp_path / "out.mkv", joined(frames, packets), stream, sounds=sounds)
    found = pairs(tmp_path / "out.mkv")
    assert len(found) == 3
    assert meter.av_sync is not None
    assert meter.av_sync.offset_ms == pytest.approx(-1000 * float(wrong_s), abs=1)
    assert meter.av_sync.offset_ms == pytest.approx(-1000 * median(found), abs=2)
    assert meter.av_sync.worst_ms == pytest.approx(meter.av_sync.offset_ms, abs=1)


def test_sound_that_comes_later_than_is_waited_for_gets_the_time_it_takes(tmp_path: Path) -> None:
    """After 0.9 s nothing is lost; after 2 s what had become silence before the first sound came, but nothing later."""
    frames, stream, packets = claps(225, CLAP_S)
    for late_s, found in ((Fraction(9, 10), 5), (Fraction(2), 4)):
        meter = sent(tmp_path / "out.mkv", joined(frames, packets, late_s), stream)
        assert len(pairs(tmp_path / "out.mkv")) == found
        assert max(map(abs, pairs(tmp_path / "out.mkv"))) <= TOLERANCE_S
        assert max(holes(tmp_path / "out.mkv")) < HOLE_S
        assert meter.av_sync is not None
        assert abs(meter.av_sync.worst_ms) <= 1


@pytest.mark.parametrize("late_s", [Fraction(0), Fraction(2, 5)])
def test_the_skew_is_how_late_sound_is_sent(tmp_path: Path, late_s: Fraction) -> None:
    frames, stream, packets = claps(50, CLAP_S)
    meter = sent(tmp_path / "out.mkv", joined(frames, packets, late_s), stream, sounds=None)
    assert meter.av_sync is not None
    packet_ms = 1000 * float(packets[1].pts * packets[1].time_base)
    assert -1000 * late_s - packet_ms <= meter.av_sync.skew_ms <= -1000 * late_s
    assert meter.av_sync.offset_ms == pytest.approx(0, abs=1)


def test_a_recording_in_segments_measures_itself_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment moves its sound and pictures by the same, here but for 30 ms in the second one."""

    def moved(container: Any, streams: Any, shift_s: Fraction, *others: Any) -> Companions:
        return Companions(container, streams, shift_s + (Fraction(3, 100) if shift_s < -1 else 0), *others)

    monkeypatch.setattr("streamer.sinks.media.Companions", moved)
    frames, stream, packets = claps(75, CLAP_S)
    sink = SegmentedSink(str(tmp_path / "out-%d.mkv"), EncoderSettings("ffv1"), Fraction(2))
    sink.open(frames[0].format, Media(companions=(stream,)))
    offsets_ms = set()
    for frame in joined(frames, packets):
        sink.write(frame)
        offsets_ms.add(None if sink.av_sync is None else round(sink.av_sync.offset_ms / 10) * 10)
    sink.close()
    assert offsets_ms == {None, 0, -30}
    assert sink.av_sync is not None
    assert sink.av_sync.worst_ms == pytest.approx(-30, abs=1)


def test_a_file_that_is_played_keeps_the_holes_in_its_sound_silent_but_isnt_hurried(tmp_path: Path) -> None:
    """Its sound may come long after its pictures, as in files whose streams are loosely interleaved."""
    frames, stream, packets = claps(225, CLAP_S)
    heard = [packet for packet in packets if not 3.1 <= begin_of(packet) < 5.1]
    meter = sent(tmp_path / "out.mkv", joined(frames, heard, Fraction(2)), stream, live=False)
    assert max(holes(tmp_path / "out.mkv")) < HOLE_S
    assert len(pairs(tmp_path / "out.mkv")) == 4
    assert meter.av_sync is not None
    assert abs(meter.av_sync.worst_ms) <= 1


def test_an_absurd_time_isnt_filled_up(tmp_path: Path) -> None:
    frames, stream, packets = claps(50, CLAP_S)
    sending = joined(frames, packets[:20])
    packets[19].pts += int(3600 / packets[19].time_base)
    sent(tmp_path / "out.mkv", sending, stream, live=False)
    with av.open(str(tmp_path / "out.mkv")) as container:
        sounds: Any = container.decode(audio=0)
        assert sum(sound.samples for sound in sounds) < 3 * 48000


def test_pictures_of_a_playlist_keep_their_times(tmp_path: Path) -> None:
    """Times of a live stream are on no grid, and moving them to one would part them from their sound."""
    steps_ms = [40, 55, 40, 33, 47] * 5
    frames = [
        replace(make_frame(number=number), pts=sum(steps_ms[:number]), time_base=Fraction(1, 1000), duration=40)
        for number in range(len(steps_ms))
    ]
    sink = StreamSink("test", output_for(f"hls:{tmp_path}"), EncoderSettings(), Notes("test"), SyncMeter())
    sink.open(frames[0].format, Media())
    for frame in frames:
        sink.write(frame)
    sink.close()
    found = times(tmp_path / "index.m3u8")
    assert [round(1000 * (after - before)) for before, after in itertools.pairwise(found)] == steps_ms[:-1]
