"""What goes in comes out: time, colour, sound, tags; a file through source and sink, with and without a model."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import av.stream
import numpy as np
import pytest

import streamer
from streamer.convert import chroma_location, mastering_of, picture_color
from streamer.frame import FULL, HLG, LIMITED, PQ, ColorSpec
from streamer.stage import Media
from tests.clips import (
    Clip,
    copied_packets,
    decoded,
    delayed_sound,
    luma,
    make_frame,
    palette_picture,
    planes,
    stream_seconds,
    times,
    write_picture,
)

BT2020 = 9
MASTERING = (
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400:"
    "log-level=error"
)


def transcode(source: Path, target: Path, **options: object) -> streamer.Summary:
    return streamer.enhance(source, target, **{"model": "none", "codec": "ffv1", **options})  # type: ignore[arg-type]  # of many types


class TestTime:
    """Timestamps are exact wherever the container can hold them."""

    @pytest.mark.parametrize(
        "clip",
        [
            pytest.param(Clip(), id="constant"),
            pytest.param(Clip(rate=Fraction(30000, 1001)), id="ntsc"),
            pytest.param(Clip(time_base=Fraction(1, 90000), pts=[0, 3003, 6000, 9100, 30000, 30017]), id="vfr-gap"),
            pytest.param(Clip(time_base=Fraction(1, 90000), pts=[7000 + 3600 * k for k in range(8)]), id="late-start"),
            pytest.param(Clip(time_base=Fraction(1, 12345), pts=[0, 499, 1001, 1400]), id="odd-time-base"),
            pytest.param(Clip(frames=40, options={"crf": "20", "bf": "3", "g": "12"}), id="b-frames"),
            pytest.param(Clip(frames=1), id="one-frame"),
        ],
    )
    def test_every_frame_keeps_its_time(self, tmp_path: Path, clip: Clip) -> None:
        source = clip.write(tmp_path / "in.mp4")
        target = tmp_path / "out.mp4"
        summary = streamer.enhance(source, target, model="none", preset="ultrafast")
        assert times(target) == times(source)
        assert len(times(source)) == summary.frames == (clip.frames if clip.pts is None else len(clip.pts))

    def test_durations_of_a_variable_rate_are_kept(self, tmp_path: Path) -> None:
        clip = Clip(time_base=Fraction(1, 1000), pts=[0, 10, 500, 520, 1000])
        source, target = clip.write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
        transcode(source, target, codec="h264")
        with av.open(str(target)) as a, av.open(str(source)) as b:
            assert stream_seconds(a.streams.video[0]) == stream_seconds(b.streams.video[0])

    def test_a_negative_start_is_shifted(self, tmp_path: Path) -> None:
        target = tmp_path / "out.mp4"
        sink = streamer.make_sink(str(target))
        frames = [replace(make_frame(number=k), pts=k - 2) for k in range(6)]
        sink.open(frames[0].format, Media(start=frames[0].time))
        for frame in frames:
            sink.write(frame)
        sink.close()
        assert times(target) == [Fraction(k, 25) for k in range(6)]

    def test_an_edit_list_is_obeyed(self, tmp_path: Path) -> None:
        whole = Clip(frames=30, options={"crf": "10", "g": "30", "bf": "0"}).write(tmp_path / "whole.mp4")
        cut = tmp_path / "cut.mp4"
        with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
            copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
            for packet in source.demux(video=0):
                if packet.size and packet.pts is not None and packet.dts is not None:
                    packet.pts -= 5 * 512  # five frames before zero: an edit list hides them
                    packet.dts -= 5 * 512
                    packet.stream = copy
                    target.mux(packet)
        result = tmp_path / "out.mp4"
        transcode(cut, result, codec="h264")
        assert times(result) == times(cut)
        assert times(result)[0] >= 0

    @pytest.mark.parametrize("start", [0.52, 3, 9])
    @pytest.mark.parametrize("name", ["in.ts", "in.mp4", "in.mkv"])
    def test_a_start_between_keyframes_is_exact(self, tmp_path: Path, name: str, start: float) -> None:
        options = {"crf": "10", "g": "100", "keyint_min": "100", "sc_threshold": "0"}
        source = Clip(frames=300, audio="aac", options=options).write(tmp_path / name)
        summary = transcode(source, tmp_path / "out.mkv", start=start, duration=0.4)
        assert summary.frames == 10
        expected = decoded(source)[round(start * 25)]
        assert np.array_equal(luma(decoded(tmp_path / "out.mkv")[0]), luma(expected))

    def test_a_clock_that_jumps_is_joined_for_sound_and_picture(self, tmp_path: Path) -> None:
        part = Clip(frames=50, audio="aac").write(tmp_path / "a.ts").read_bytes()
        (tmp_path / "twice.ts").write_bytes(part + part)
        summary = transcode(tmp_path / "twice.ts", tmp_path / "out.mp4", codec="h264")
        found = times(tmp_path / "out.mp4")
        assert len(found) == summary.frames == 100
        steps = [after - before for before, after in itertools.pairwise(found)]
        assert all(Fraction(20, 1000) < step < Fraction(200, 1000) for step in steps)
        (before,), (after,) = (copied_packets(tmp_path / name, "audio") for name in ("twice.ts", "out.mp4"))
        assert len(after) >= len(before) - 1
        assert summary.stats["events"]["jumps in time"] >= 1

    def test_pictures_reordered_in_avi_keep_their_times(self, tmp_path: Path) -> None:
        source = Clip(frames=30, options={"crf": "10", "bf": "3"}).write(tmp_path / "in.avi")
        transcode(source, tmp_path / "out.mkv")
        found = times(tmp_path / "out.mkv")
        assert found[10:] == [found[10] + Fraction(k, 25) for k in range(20)]

    @pytest.mark.slow
    def test_a_stream_that_begins_later_is_left_out(self, tmp_path: Path) -> None:
        plain = Clip(640, 480, frames=300, options={"crf": "1", "preset": "ultrafast"}).write(tmp_path / "plain.ts")
        sound = Clip(640, 480, frames=20, audio="aac", options={"crf": "1"}).write(tmp_path / "sound.ts")
        (tmp_path / "both.ts").write_bytes(plain.read_bytes() + sound.read_bytes() + plain.read_bytes())
        assert streamer.enhance(tmp_path / "both.ts", "null:", model="none").frames >= 600

    def test_missing_timestamps_are_filled_in_and_counted(self, tmp_path: Path) -> None:
        with av.open(str(Clip(frames=12).write(tmp_path / "in.mp4"))) as source:
            stream = (tmp_path / "raw.h264").open("wb")
            with stream, av.open(stream, "w", format="h264") as target:
                copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = copy
                        target.mux(packet)
        result = tmp_path / "out.mkv"
        transcode(tmp_path / "raw.h264", result)
        found = times(result)
        assert len(found) == 12
        assert found == sorted(set(found))

    def test_start_and_duration_cut_exactly(self, tmp_path: Path) -> None:
        clip = Clip(frames=50, audio="pcm_s16le", options={"crf": "10", "g": "20"})
        source, target = clip.write(tmp_path / "in.mkv"), tmp_path / "out.mkv"
        summary = transcode(source, target, start=0.48, duration=0.8)
        assert summary.frames == 20
        assert times(target)[0] == 0
        assert np.array_equal(luma(decoded(target)[0]), luma(decoded(source)[12]))

    def test_sound_that_lies_behind_its_picture_in_the_file_isnt_cut_off(self, tmp_path: Path) -> None:
        plain = Clip(frames=75, audio="mp2", options={"bf": "0"}).write(tmp_path / "plain.ts")
        source, target = delayed_sound(plain, tmp_path / "in.ts", Fraction(7, 10)), tmp_path / "out.mkv"
        summary = transcode(source, target, start=0.4, duration=1)
        assert summary.frames == 25
        (packets,) = copied_packets(target, "audio")
        ends = [when for _, when in packets if when is not None]
        assert 0.95 < max(ends) - times(target)[0] < 1
        assert len(packets) >= 40

    def test_speed_of_an_image_sequence_does_not_lose_pictures(self, tmp_path: Path) -> None:
        source = Clip(frames=7).write(tmp_path / "in.mp4")
        summary = transcode(source, tmp_path / "picture-%03d.png", codec=None)
        assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"picture-{k:03d}.png" for k in range(1, 8)]
        for path in tmp_path.glob("picture-00[123].png"):
            path.unlink()
        again = transcode(tmp_path / "picture-%03d.png", tmp_path / "out.mkv")
        assert (summary.frames, again.frames) == (7, 4)

    def test_a_percent_sign_beside_the_number_of_a_sequence_means_itself(self, tmp_path: Path) -> None:
        folder = tmp_path / "50%"
        folder.mkdir()
        source = Clip(frames=3).write(tmp_path / "in.mp4")
        transcode(source, folder / "100%_%03d.png", codec=None)
        assert sorted(path.name for path in folder.iterdir()) == [f"100%_00{k}.png" for k in (1, 2, 3)]
        assert transcode(folder / "100%_%03d.png", tmp_path / "out.mkv").frames == 3


class TestPixels:
    """Without a stage the decoder's planes arrive bit for bit; with one, format and colour stay."""

    @pytest.mark.parametrize(
        "pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray", "gray10le"]
    )
    @pytest.mark.parametrize("size", [(64, 48), (63, 47)])
    def test_planes_pass_bit_for_bit(self, tmp_path: Path, pix_fmt: str, size: tuple[int, int]) -> None:
        clip = Clip(*size, frames=3, codec="ffv1", pix_fmt=pix_fmt, options={})
        source, target = clip.write(tmp_path / "in.mkv"), tmp_path / "out.mkv"
        transcode(source, target)
        for before, after in zip(decoded(source), decoded(target), strict=True):
            assert after.format.name == before.format.name == pix_fmt
            assert all(np.array_equal(a, b) for a, b in zip(planes(after), planes(before), strict=True))

    @pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le", "gray"])
    @pytest.mark.parametrize("size", [(64, 48), (63, 47)])
    def test_enhanced_frames_keep_format_and_levels(self, tmp_path: Path, pix_fmt: str, size: tuple[int, int]) -> None:
        clip = Clip(*size, frames=3, codec="ffv1", pix_fmt=pix_fmt, options={})
        source, target = clip.write(tmp_path / "in.mkv"), tmp_path / "out.mkv"
        streamer.enhance(source, target, codec="ffv1")
        before, after = decoded(source), decoded(target)
        assert [picture.format.name for picture in after] == [pix_fmt] * 3
        assert (after[0].width, after[0].height) == (2 * size[0], 2 * size[1])
        step = 1 << (av.VideoFormat(pix_fmt).components[0].bits - 8)
        for a, b in zip(after, before, strict=True):
            for enhanced, original in zip(planes(a), planes(b), strict=True):
                assert abs(enhanced.mean() - original.mean()) < step

    def test_an_even_size_is_made_where_the_encoder_needs_one(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = Clip(63, 47, frames=2, codec="ffv1", options={}).write(tmp_path / "in.mkv")
        target = tmp_path / "out.mp4"
        transcode(source, target, codec="h264", crf=1)
        picture = decoded(target)[0]
        assert (picture.width, picture.height) == (64, 48)
        assert "padded to 64x48" in caplog.text
        assert np.abs(luma(picture)[:47, :63].astype(int) - luma(decoded(source)[0])).max() <= 3

    @pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv422p"])
    def test_an_even_size_is_padded_also_where_the_pixel_format_changes(self, tmp_path: Path, pix_fmt: str) -> None:
        source = Clip(63, 47, frames=1, codec="ffv1", options={}, pix_fmt=pix_fmt).write(tmp_path / "in.mkv")
        target = tmp_path / "out.mp4"
        transcode(source, target, codec="h264", crf=0, pix_fmt="yuv420p")
        (picture,) = decoded(target)
        assert (picture.width, picture.height, picture.format.name) == (64, 48, "yuv420p")
        padded = np.pad(luma(decoded(source)[0]), ((0, 1), (0, 1)), mode="edge")
        np.testing.assert_array_equal(luma(picture), padded)

    def test_a_change_of_size_and_format_keeps_the_first(self, tmp_path: Path) -> None:
        target = tmp_path / "changing.ts"
        parts = [
            Clip(64, 48, frames=5, options={"crf": "1"}).write(tmp_path / "a.ts"),
            Clip(96, 32, frames=5, options={"crf": "1"}, pix_fmt="yuv422p").write(tmp_path / "b.ts"),
        ]
        target.write_bytes(b"".join(part.read_bytes() for part in parts))
        summary = transcode(target, tmp_path / "out.mkv")
        pictures = decoded(tmp_path / "out.mkv")
        assert len(pictures) == summary.frames == 10
        assert {(p.width, p.height, p.format.name) for p in pictures} == {(64, 48, "yuv420p")}
        assert summary.stats["events"]["format changes"] == 5

    def test_interlaced_pictures_are_deinterlaced_and_it_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        clip = Clip(frames=12, interlaced=True, options={"crf": "1", "flags": "+ildct+ilme"})
        source, target = clip.write(tmp_path / "in.mkv"), tmp_path / "out.mkv"
        assert decoded(source)[0].interlaced_frame
        transcode(source, target)
        assert "deinterlacing with bwdif" in caplog.text
        assert times(target) == times(source)
        assert not decoded(target)[0].interlaced_frame

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
    def test_still_images(self, tmp_path: Path, suffix: str) -> None:
        clip = Clip(40, 30, frames=1, codec="png", pix_fmt="rgb24", options={}, color=ColorSpec(matrix=0))
        source = clip.write(tmp_path / "in.png")
        target = tmp_path / f"out{suffix}"
        streamer.enhance(source, target, strength=0)
        before, after = decoded(source)[0], decoded(target)[0]
        assert (after.width, after.height) == (80, 60)
        smaller = after.reformat(40, 30, "rgb24", interpolation="AREA").to_ndarray().astype(int)
        assert np.abs(smaller - before.to_ndarray(format="rgb24")).mean() < (6 if suffix == ".webp" else 3)

    @pytest.mark.parametrize("pix_fmt", ["rgba", "pal8", "gray", "rgb48be", "ya8"])
    def test_kinds_of_png(self, tmp_path: Path, pix_fmt: str, caplog: pytest.LogCaptureFixture) -> None:
        source = tmp_path / "in.png"
        picture = Clip(40, 30, pix_fmt="rgb24")._picture(0, 0)
        if pix_fmt == "pal8":
            grays = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
            picture = palette_picture(np.asarray(picture.reformat(format="gray").to_ndarray(), np.uint8), grays)
        write_picture(source, picture.reformat(format=pix_fmt))
        streamer.enhance(source, tmp_path / "out.png")
        assert decoded(tmp_path / "out.png")[0].width == 80
        assert ("alpha" in caplog.text) == (pix_fmt in ("rgba", "ya8"))

    def test_nv12_and_packed_yuv_are_rearranged_losslessly(self, tmp_path: Path) -> None:
        clip = Clip(codec="rawvideo", pix_fmt="nv12", frames=2, options={})
        source = clip.write(tmp_path / "in.nut")
        transcode(source, tmp_path / "out.mkv")
        for before, after in zip(decoded(source), decoded(tmp_path / "out.mkv"), strict=True):
            assert after.format.name == "yuv420p"
            assert np.array_equal(after.to_ndarray(), before.reformat(format="yuv420p").to_ndarray())


class TestColor:
    @pytest.mark.parametrize(
        "color",
        [
            ColorSpec(1, 1, 1, LIMITED, "left"),
            ColorSpec(1, 1, 1, FULL, "left"),
            ColorSpec(6, 6, 6, LIMITED, "center"),
            ColorSpec(BT2020, 14, BT2020, LIMITED, "topleft"),
            ColorSpec(),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("codec", ["libx264", "libx265", "ffv1", "libsvtav1"])
    def test_tags_in_are_tags_out(self, tmp_path: Path, color: ColorSpec, codec: str) -> None:
        source = Clip(frames=2, codec="ffv1", color=color, options={}).write(tmp_path / "in.mkv")
        target = tmp_path / "out.mkv"
        transcode(
            source, target, codec=codec, preset=None if codec == "ffv1" else "12" if "av1" in codec else "veryfast"
        )
        with av.open(str(target)) as container:
            location = chroma_location(container, 0)
        found = picture_color(decoded(target)[0], location)
        if codec == "libsvtav1" and color.chroma_location == "center":
            found = ColorSpec(found.primaries, found.transfer, found.matrix, found.range, "center")  # AV1 has no centre
        expected = color if color.range else ColorSpec(*(2, 2, 2), found.range, found.chroma_location)
        assert found == expected
        assert found.range in (0, LIMITED) or color.range == FULL

    @pytest.mark.parametrize("transfer", [PQ, HLG])
    def test_hdr_becomes_hevc_with_its_metadata(self, tmp_path: Path, transfer: int) -> None:
        clip = Clip(
            frames=3,
            codec="libx265",
            pix_fmt="yuv420p10le",
            color=ColorSpec(BT2020, transfer, BT2020, LIMITED, "topleft"),
            options={"x265-params": MASTERING},
        )
        source, target = clip.write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
        streamer.enhance(source, target, preset="ultrafast")
        before, after = decoded(source)[0], decoded(target)[0]
        assert after.format.name == "yuv420p10le"
        assert after.color_trc == transfer
        assert mastering_of(after) == mastering_of(before) is not None
        with av.open(str(target)) as container:
            assert container.streams.video[0].codec_context.name == "hevc"

    def test_metadata_that_an_encoder_cannot_carry_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        clip = Clip(
            frames=2,
            codec="libx265",
            pix_fmt="yuv420p10le",
            color=ColorSpec(BT2020, PQ, BT2020, LIMITED),
            options={"x265-params": MASTERING},
        )
        transcode(clip.write(tmp_path / "in.mp4"), tmp_path / "out.mkv", codec="ffv1")
        assert "HDR mastering metadata" in caplog.text

    @pytest.mark.parametrize("rotation", [90, 180, -90])
    def test_rotation_and_aspect_ratio_are_kept(self, tmp_path: Path, rotation: int) -> None:
        clip = Clip(rotation=rotation, sar=Fraction(4, 3), frames=2)
        source, target = clip.write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
        streamer.enhance(source, target)
        assert decoded(target)[0].rotation == decoded(source)[0].rotation
        with av.open(str(target)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_interlaced_streams_may_change_in_the_middle(tmp_path: Path) -> None:
    options = {"crf": "5", "flags": "+ildct+ilme"}
    parts = [
        Clip(64, 64, frames=6, interlaced=True, options=options).write(tmp_path / "a.ts"),
        Clip(96, 96, frames=6, interlaced=True, options=options).write(tmp_path / "b.ts"),
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert transcode(tmp_path / "both.ts", tmp_path / "out.mkv").frames == 12


def test_a_hole_in_a_sequence_is_said(tmp_path: Path) -> None:
    streamer.enhance(Clip(frames=6).write(tmp_path / "in.mp4"), tmp_path / "g%d.png", model="none")
    (tmp_path / "g3.png").unlink()
    summary = transcode(tmp_path / "g%d.png", tmp_path / "out.mkv")
    assert summary.frames == 2
    assert any("number 3 is missing" in note for note in summary.notes)


def test_a_photo_with_exif(tmp_path: Path) -> None:
    source = Clip(32, 32, frames=1, codec="mjpeg", pix_fmt="yuvj420p", options={}).write(tmp_path / "plain.jpg")
    jpeg = source.read_bytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6
    exif = b"Exif\0\0" + tiff
    (tmp_path / "photo.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + jpeg[2:])
    streamer.enhance(tmp_path / "photo.jpg", tmp_path / "out.png")
    assert decoded(tmp_path / "out.png")[0].width == 64


def test_a_sequence_has_the_rate_asked_for(tmp_path: Path) -> None:
    streamer.enhance(Clip(frames=4).write(tmp_path / "in.mp4"), tmp_path / "g%d.png", model="none")
    transcode(tmp_path / "g%d.png", tmp_path / "out.mkv", fps=10)
    assert times(tmp_path / "out.mkv") == [Fraction(k, 10) for k in range(4)]
