"""What goes along with the pictures: sound, subtitles, attachments, cover art, tags."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.stream
import numpy as np
import numpy.typing as npt
import pytest

import streamer
from tests.clips import SUBTITLES, Clip, chapter_starts, copied_packets, times
from tests.test_media import transcode


class TestCompanions:
    """Everything beside the picture is copied bit for bit, or its loss is said."""

    def test_sound_is_copied_in_sync_with_its_tags(self, tmp_path: Path) -> None:
        clip = Clip(
            frames=25, audio="aac", audio_languages=("deu", "fra"), metadata={"title": "A title"}, chapters=True
        )
        source, target = clip.write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
        streamer.enhance(source, target)
        assert copied_packets(target, "audio") == copied_packets(source, "audio")
        with av.open(str(source)) as before, av.open(str(target)) as after:
            assert [s.language for s in after.streams.audio] == ["deu", "fra"]
            assert [int(s.disposition) for s in after.streams] == [int(s.disposition) for s in before.streams]
            assert after.metadata["title"] == "A title"
            assert [c["metadata"]["title"] for c in after.chapters()] == ["one", "two"]
            assert chapter_starts(after) == chapter_starts(before)

    def test_subtitles_attachments_and_two_sounds_in_matroska(self, tmp_path: Path) -> None:
        (tmp_path / "s.srt").write_text(SUBTITLES)
        plain = Clip(frames=25, audio="libopus", attachment=b"not really a font").write(tmp_path / "plain.mkv")
        source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
        _add_subtitles(plain, tmp_path / "s.srt", source)
        transcode(source, target)
        for kind in ("audio", "subtitle"):
            assert copied_packets(target, kind) == copied_packets(source, kind)
            assert copied_packets(target, kind)[0]
        with av.open(str(target)) as container:
            (attachment,) = (s for s in container.streams if isinstance(s, av.stream.AttachmentStream))
            assert attachment.data == b"not really a font"
            assert attachment.metadata["mimetype"] == "application/x-truetype-font"

    def test_what_a_container_cannot_hold_is_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "s.srt").write_text(SUBTITLES)
        plain = Clip(attachment=b"font", metadata={"MOOD": "gay"}).write(tmp_path / "plain.mkv")
        source = tmp_path / "in.mkv"
        _add_subtitles(plain, tmp_path / "s.srt", source)
        summary = transcode(source, tmp_path / "out.mp4", codec="h264")
        notes = " ".join(summary.notes)
        assert "stream #1 (srt)" in notes
        assert "attachment" in notes
        assert "MOOD" in notes

    def test_cover_art_is_kept_and_not_enhanced(self, tmp_path: Path) -> None:
        picture = Clip(20, 20, frames=1, codec="png", pix_fmt="rgb24", options={}).write(tmp_path / "cover.png")
        video = Clip(frames=5).write(tmp_path / "video.mp4")
        source = tmp_path / "in.mp4"
        with av.open(str(video)) as a, av.open(str(picture)) as b, av.open(str(source), "w") as out:
            copies = [out.add_stream_from_template(c.streams.video[0], opaque=True) for c in (b, a)]
            copies[0].disposition = av.stream.Disposition.attached_pic
            for container, copy in zip((b, a), copies, strict=True):
                for packet in container.demux(video=0):
                    if packet.size:
                        packet.stream = copy
                        out.mux(packet)
        summary = streamer.enhance(source, tmp_path / "out.mp4")
        assert (summary.frames, summary.source_size) == (5, "64x48")
        with av.open(str(tmp_path / "out.mp4")) as container:
            covers = [s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic]
            assert [(s.width, s.codec_context.name) for s in covers] == [(20, "png")]

    def test_two_outputs_get_the_same(self, tmp_path: Path) -> None:
        source = Clip(frames=12, audio="aac").write(tmp_path / "in.mp4")
        targets = [tmp_path / "a.mp4", tmp_path / "b.mkv"]
        streamer.enhance(source, targets)
        assert copied_packets(targets[0], "audio") == copied_packets(source, "audio")
        assert [data for data, _ in copied_packets(targets[1], "audio")[0]] == [
            data for data, _ in copied_packets(source, "audio")[0]
        ]
        assert times(targets[0]) == times(source)
        shift = times(targets[1])[0]  # Matroska has no time before zero: the sound's lead-in moves everything
        assert [time - shift for time in times(targets[1])] == times(source)


def test_streams_that_a_container_keeps_as_something_else_are_said(tmp_path: Path) -> None:
    (tmp_path / "s.srt").write_text(SUBTITLES)
    _add_subtitles(Clip().write(tmp_path / "plain.mkv"), tmp_path / "s.srt", tmp_path / "in.mkv")
    summary = transcode(tmp_path / "in.mkv", tmp_path / "out.ts", codec="h264")
    assert any("subtitle" in note or "srt" in note for note in summary.notes)


def test_sound_beyond_the_duration_is_left_out(tmp_path: Path) -> None:
    source = Clip(frames=50, audio="pcm_s16le").write(tmp_path / "in.mkv")
    transcode(source, tmp_path / "out.mkv", duration=0.4)
    (sound,) = copied_packets(tmp_path / "out.mkv", "audio")
    assert all(when is not None and when < Fraction(4, 10) for _, when in sound)
    assert len(sound) > 10


def test_sound_that_a_container_cannot_hold_is_encoded(tmp_path: Path) -> None:
    """G.711, as cameras have it, without loss in Matroska, and in the container's own codec elsewhere."""
    source = Clip(frames=50, audio="pcm_alaw").write(tmp_path / "in.mov")
    for name, codec in (("out.mkv", "flac"), ("out.webm", "opus"), ("out.mp4", "aac")):
        summary = streamer.enhance(source, tmp_path / name, model="none")
        assert any(f"(pcm_alaw); it is encoded as {codec}" in note.replace("libopus", "opus") for note in summary.notes)
        assert not any("didn't keep" in note for note in summary.notes)
        heard, begin_s = samples(tmp_path / name)
        wanted, _ = samples(source)
        assert begin_s == pytest.approx(0, abs=0.03)
        assert len(heard) == pytest.approx(len(wanted), abs=2048)
    exact, _ = samples(tmp_path / "out.mkv")
    np.testing.assert_array_equal(exact, wanted)


@pytest.mark.parametrize("name", ["out.mkv", "out.webm", "out.mp4"])
def test_sound_that_is_announced_and_never_comes_leaves_the_pictures_alone(tmp_path: Path, name: str) -> None:
    source = Clip(audio="pcm_alaw", sound_s=Fraction(0)).write(tmp_path / "in.nut")
    summary = streamer.enhance(source, tmp_path / name, model="none")
    assert len(times(tmp_path / name)) == summary.frames == 10


@pytest.mark.parametrize(
    ("codec", "source", "target"),
    [
        ("aac", "in.mp4", "out.webm"),  # Opus has no 44.1 kHz
        ("wmav2", "in.asf", "out.mkv"),  # the decoder needs the bit rate and the blocks' size, and gives its last late
        ("adpcm_ima_wav", "in.avi", "out.mp4"),  # the decoder needs the blocks' size
        ("wmav2", "in.asf", "hls:"),
        ("adpcm_ima_qt", "in.mov", "hls:"),  # few containers hold it
    ],
)
def test_sound_of_every_kind_is_encoded_whole(tmp_path: Path, codec: str, source: str, target: str) -> None:
    clip = Clip(frames=20, audio=codec, audio_rate=44100).write(tmp_path / source)
    output, written = str(tmp_path / target), tmp_path / target
    if target == "hls:":
        output, written = f"hls:{tmp_path / 'hls'}", tmp_path / "hls" / "index.m3u8"
    summary = streamer.enhance(clip, output, model="none")
    assert not any("left out" in note or "damaged" in note for note in summary.notes)
    heard, heard_from_s = samples(written)
    wanted, wanted_from_s = samples(clip)
    assert np.std(heard[9600:-9600]) == pytest.approx(np.std(wanted[9600:-9600]), rel=0.15)
    assert len(heard) == pytest.approx(len(wanted), abs=7200)
    if target != "hls:":  # whose clock begins elsewhere
        end_s = wanted_from_s + len(wanted) / 48000
        assert heard_from_s + len(heard) / 48000 == pytest.approx(end_s, abs=0.03)


def test_a_track_that_cannot_be_decoded_at_all_is_said_to_be_missing(tmp_path: Path) -> None:
    whole, broken = Clip(audio="wmav2", audio_rate=44100).write(tmp_path / "whole.asf"), tmp_path / "in.asf"
    with av.open(str(whole)) as before, av.open(str(broken), "w") as out:
        copies = {stream: out.add_stream_from_template(stream, opaque=True) for stream in before.streams}
        for packet in before.demux():
            if packet.size:
                copy: Any = av.Packet(bytes(packet) if packet.stream.type == "video" else bytes(20))  # a cut block
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.stream, copy.is_keyframe = copies[packet.stream], packet.is_keyframe
                out.mux(copy)
    summary = streamer.enhance(broken, tmp_path / "out.mp4", model="none")
    assert any("nothing of its sound (wmav2) could be decoded" in note for note in summary.notes)
    assert len(times(tmp_path / "out.mp4")) == 10


def samples(path: Path) -> tuple[npt.NDArray[np.int16], float]:
    """The first stream of sound, decoded, and when it begins in seconds."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("s16", "mono", 48000)
        frames: list[Any] = list(container.decode(audio=0))
        begin_s = float(frames[0].pts * frames[0].time_base)
        pieces = [piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)]
    return np.concatenate(pieces), begin_s


def _add_subtitles(video: Path, subtitles: Path, target: Path) -> None:
    with av.open(str(video)) as a, av.open(str(subtitles)) as b, av.open(str(target), "w") as out:
        out.metadata.update(a.metadata)
        copies = {}
        for container in (a, b):
            for stream in container.streams:
                copy = out.add_stream_from_template(stream, opaque=True)
                copy.metadata.update(stream.metadata)
                copies[stream] = copy
        for container in (b, a):
            for packet in container.demux():
                if packet.size and packet.stream.type != "attachment":
                    packet.stream = copies[packet.stream]
                    out.mux(packet)
