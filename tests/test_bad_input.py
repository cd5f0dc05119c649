"""Bad input gets one clear message, and nothing of the user's is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

import streamer
from engines import EngineError
from streamer.errors import SinkError, SourceError, StreamerError, UsageError, public_url
from streamer.frame import Frame
from streamer.sources.media import MediaSource
from tests.clips import Clip, decoded, times


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return Clip(128, 96, frames=60, options={"crf": "20", "g": "12"}, audio="aac").write(folder / "clip.mp4")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """An output in a folder that must not hold anything but finished files afterwards."""
    folder = tmp_path / "results"
    folder.mkdir()
    yield folder / "out.mp4"
    left = [path.name for path in folder.iterdir() if ".part" in path.name]
    assert not left, f"leftover files: {left}"


def refuse(error: type[Exception], match: str, source: object, target: object, **options: object) -> None:
    with pytest.raises(error, match=match):
        streamer.enhance(source, target, **options)  # type: ignore[arg-type]  # wrong on purpose


class TestInputs:
    def test_missing(self, target: Path) -> None:
        refuse(SourceError, "no such file; check the path", "nowhere.mp4", target)

    def test_empty(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "empty.mp4").touch()
        refuse(SourceError, "the file is empty", tmp_path / "empty.mp4", target)

    def test_a_folder(self, tmp_path: Path, target: Path) -> None:
        refuse(SourceError, "it is a folder; for a numbered sequence", tmp_path, target)

    def test_not_a_video(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "text.mp4").write_text("this is not a video" * 100)
        refuse(SourceError, "isn't a video or image", tmp_path / "text.mp4", target)

    def test_audio_only(self, tmp_path: Path, target: Path) -> None:
        with av.open(str(tmp_path / "sound.wav"), "w") as out:
            stream = out.add_stream("pcm_s16le", rate=48000)
            frame = av.AudioFrame(format="s16", layout="stereo", samples=4800)
            frame.sample_rate = 48000
            out.mux(stream.encode(frame))
        refuse(SourceError, "it has no video, only audio", tmp_path / "sound.wav", target)

    def test_a_sequence_that_matches_nothing(self, tmp_path: Path, target: Path) -> None:
        refuse(SourceError, "no picture matches it", tmp_path / "frame-%04d.png", target)

    def test_a_sequence_with_two_numbers(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "f1-1.png").touch()
        refuse(SourceError, "pictures have one number", tmp_path / "f%d-%d.png", target)

    def test_truncated_without_its_index(self, clip: Path, tmp_path: Path, target: Path) -> None:
        (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:3000])
        refuse(SourceError, "index is missing because the recording was cut off", tmp_path / "cut.mp4", target)

    def test_truncated_with_its_index(self, tmp_path: Path, target: Path) -> None:
        whole = Clip(128, 96, frames=60, container_options={"movflags": "faststart"}).write(tmp_path / "whole.mp4")
        (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
        summary = streamer.enhance(tmp_path / "cut.mp4", target)
        assert 0 < summary.frames < 60
        assert len(decoded(target)) == summary.frames
        assert any("ended early" in note for note in summary.notes)

    def test_corrupt_packets_are_skipped_and_counted(self, clip: Path, tmp_path: Path, target: Path) -> None:
        content = bytearray(clip.read_bytes())
        with av.open(str(clip)) as container:
            spots = [p.pos for p in container.demux(video=0) if p.size and p.pos and not p.is_keyframe][10:20:3]
        for spot in spots:
            content[spot : spot + 60] = b"\xff" * 60
        (tmp_path / "damaged.mp4").write_bytes(content)
        summary = streamer.enhance(tmp_path / "damaged.mp4", target)
        assert summary.stats["events"]["corrupt packets"] >= 1
        assert any("corrupt packets" in note for note in summary.notes)
        assert 40 <= summary.frames == len(decoded(target))
        assert times(target) == sorted(set(times(target)))

    def test_a_truncated_picture(self, tmp_path: Path, target: Path) -> None:
        whole = Clip(64, 64, frames=1, codec="png", pix_fmt="rgb24", options={}).write(tmp_path / "whole.png")
        (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:40])
        refuse(SourceError, "can't decode|isn't a video", tmp_path / "cut.png", target)

    def test_absurd_dimensions(self, tmp_path: Path, target: Path) -> None:
        header = b"P5 60000 60000 255\n"
        (tmp_path / "huge.pgm").write_bytes(header + bytes(1000))
        refuse(SourceError, "huge.pgm", tmp_path / "huge.pgm", target)

    def test_a_start_behind_the_end(self, clip: Path, target: Path) -> None:
        refuse(SourceError, "lower --start", clip, target, start=100)
        refuse(SourceError, "no frame in the part asked for", "test:64x64@30,10", target, start=5)

    def test_a_rate_that_is_none(self, target: Path) -> None:
        refuse(UsageError, "out of range", "test:64x64@30/0", target)

    def test_an_address_that_is_longer_than_any_file_name(self, target: Path) -> None:
        refuse(SourceError, "can't read http.*: connection refused", f"http://127.0.0.1:1/a?{'x' * 5000}", target)

    def test_a_live_input_that_is_not_there_keeps_its_credentials_secret(self, target: Path) -> None:
        url = "rtsp://me:secret@127.0.0.1:1/x"
        refuse(SourceError, r"rtsp://\*\*\*@127.*: connection refused", url, target, reconnect_limit=0)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"model": "nope"}, "unknown model 'nope': choose one of"),
            ({"scale": 7}, "no model enlarges by 7: --scale can be"),
            ({"model": "upscale-x2-nano", "scale": 3}, "enlarges by 2, not by 3"),
            ({"model": "none", "scale": 2}, "keeps the size"),
            ({"strength": -1.0}, "strength -1.0 is out of range"),
            ({"strength": float("nan")}, "strength nan is out of range"),
            ({"level": 1.2}, r"level 1.2 is out of range: 0 \(clean\) to 1"),
            ({"level": "high"}, r"level high is out of range: 0 \(clean\) to 1"),
            ({"strength": "high"}, "strength high is out of range"),
            ({"level": float("nan")}, "level nan is out of range"),
            ({"level": 0.5, "model": "none"}, "model none takes no level"),
            ({"noise": -0.1}, "noise -0.1 is out of range"),
            ({"noise": 0.5, "model": "none"}, "model none takes no noise: leave out --noise"),
            ({"codec": "betamax"}, "unknown codec 'betamax': choose one of h264"),
            ({"crf": 99}, "--crf 99 is out of range: libx264 takes 0 to 51"),
            ({"crf": float("nan")}, "out of range"),
            ({"codec": "ffv1", "crf": 3}, "--crf doesn't apply to ffv1"),
            ({"codec": "ffv1", "preset": "slow"}, "--preset doesn't apply to ffv1"),
            ({"pix_fmt": "rgb24"}, "libx264 can't store 'rgb24'"),
            ({"preset": "warp"}, "unknown preset 'warp': libx264 takes ultrafast"),
            ({"engine": "warp"}, "there is no engine 'warp': use one of auto"),
            ({"codec": ""}, "unknown codec ''"),
            ({"model": "none", "strength": 9.0}, "strength 9.0 is out of range"),
            ({"start": 1e300}, r"--start 1e\+300 is not a number that makes sense"),
            ({"duration": 1e300}, r"--duration 1e\+300 is not a number that makes sense"),
            ({"start": float("nan")}, "--start nan is not a number"),
            ({"duration": float("inf")}, "--duration inf is not a number"),
            ({"fps": 10}, "--fps is for numbered sequences"),
            ({"fps": 0}, "--fps must be more than 0"),
            ({"start": -1}, "--start must be 0 or more"),
            ({"duration": 0}, "--duration more than 0"),
        ],
    )
    def test_refused(self, clip: Path, target: Path, options: dict[str, object], match: str) -> None:
        refuse(UsageError, match, clip, target, **options)
        assert not target.exists()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"engine": "warp"}, "there is no engine 'warp': use one of auto"),
            ({"precision": "f8"}, "there is no precision 'f8': use one of auto, f32, f16, int8"),
            ({"rtsp_transport": "mail"}, "unknown RTSP transport 'mail': choose tcp or udp"),
            ({"stabilise": "warp"}, "'warp'"),
            ({"codec": "betamax"}, "unknown codec 'betamax': choose one of h264"),
            ({"crf": float("nan")}, "--crf nan is out of range"),
            ({"crf": -1}, "--crf -1 is out of range"),
            ({"pix_fmt": "yuv421p"}, "unknown pixel format 'yuv421p'"),
        ],
    )
    def test_what_does_not_exist_is_refused_where_it_has_no_use_too(
        self, options: dict[str, object], match: str
    ) -> None:
        refuse(UsageError, match, "test:64x48@25,1", "null:", model="none", **options)

    def test_what_exists_may_have_no_use(self) -> None:
        options: dict[str, Any] = {"engine": "openvino", "precision": "f32", "rtsp_transport": "udp", "codec": "hevc"}
        options |= {"crf": 20, "pix_fmt": "yuv420p", "preset": "slow"}
        assert streamer.enhance("test:64x48@25,1", "null:", model="none", **options).frames == 1

    def test_an_engine_that_cannot_run(self, clip: Path, target: Path) -> None:
        refuse(EngineError, "tensorrt engine was asked for and cannot run", clip, target, engine="tensorrt")

    def test_nvenc_without_a_gpu(self, clip: Path, target: Path) -> None:
        if os.path.exists("/dev/nvidia0"):
            pytest.skip("this machine may have NVENC")
        refuse(SinkError, "NVENC needs an NVIDIA GPU and its driver: try --codec h264", clip, target, codec="nvenc")


class TestOutputs:
    def test_the_input_itself(self, clip: Path) -> None:
        before = clip.read_bytes()
        refuse(UsageError, "is the input: write to another file", clip, clip, force=True)
        link = clip.with_name("link.mp4")
        link.symlink_to(clip)
        refuse(UsageError, "is the input", clip, link, force=True)
        assert clip.read_bytes() == before

    def test_an_existing_file_needs_force(self, clip: Path, target: Path) -> None:
        target.write_text("precious")
        refuse(UsageError, "exists already: give another name, or --force", clip, target)
        assert target.read_text() == "precious"
        streamer.enhance(clip, target, duration=0.2, force=True)
        assert len(decoded(target)) == 5

    def test_a_failure_leaves_the_existing_file_alone(self, clip: Path, target: Path) -> None:
        def fail(progress: object) -> None:
            raise LookupError("in the callback")

        target.write_text("precious")
        refuse(LookupError, "in the callback", clip, target, force=True, on_progress=fail)
        assert target.read_text() == "precious"

    @pytest.mark.parametrize("folder_goes", [False, True])
    def test_what_became_of_the_output_of_an_input_that_fails(
        self,
        clip: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        folder_goes: bool,
    ) -> None:
        folder = tmp_path / "results"
        folder.mkdir()
        read = MediaSource.read

        def fail_late(source: MediaSource) -> Frame | None:
            frame = read(source)
            if frame is not None and frame.index < 5:
                return frame
            if folder_goes:
                shutil.rmtree(folder)
            raise SourceError("the disk is gone")

        monkeypatch.setattr(MediaSource, "read", fail_late)
        refuse(SourceError, "the disk is gone", clip, folder / "out.mp4", model="none")
        said = (
            "not every output could be finished: can't finish" if folder_goes else "finished with the 5 frames before"
        )
        assert [said in message for message in caplog.messages] == [True]
        assert (folder / "out.mp4").exists() is not folder_goes

    def test_no_picture_of_a_sequence_is_replaced_without_force(self, clip: Path, tmp_path: Path) -> None:
        (tmp_path / "f0002.png").write_text("precious")
        refuse(UsageError, "f0002.png exists already", clip, tmp_path / "f%04d.png")
        assert (tmp_path / "f0002.png").read_text() == "precious"

    def test_a_sequence_does_not_overwrite_its_own_input(self, clip: Path, tmp_path: Path) -> None:
        streamer.enhance(clip, tmp_path / "f%04d.png", model="none", duration=0.1)
        before = (tmp_path / "f0001.png").read_bytes()
        for source in ("f0001.png", "f%04d.png"):
            refuse(UsageError, "is the input", tmp_path / source, tmp_path / "f%04d.png", force=True)
        assert (tmp_path / "f0001.png").read_bytes() == before

    @pytest.mark.parametrize(
        ("source", "output"),
        [("f%d.png", "f2.png"), ("f%d.png", "f%1d.png"), ("f%d.png", "g%d.png"), ("h2-2.png", "h%d-%d.png")],
    )
    def test_a_picture_of_the_input_is_not_overwritten(
        self, clip: Path, tmp_path: Path, source: str, output: str
    ) -> None:
        streamer.enhance(clip, tmp_path / "f%d.png", model="none", duration=0.1)
        (tmp_path / "g1.png").symlink_to(tmp_path / "f2.png")
        shutil.copy(tmp_path / "f2.png", tmp_path / "h2-2.png")
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        refuse(UsageError, "is the input", tmp_path / source, tmp_path / output, force=True)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_other_numbers_beside_the_input(self, clip: Path, tmp_path: Path) -> None:
        streamer.enhance(clip, tmp_path / "f%d.png", model="none", duration=0.1)
        streamer.enhance(tmp_path / "f%d.png", tmp_path / "f%03d.png", model="none")
        assert {path.name for path in tmp_path.iterdir()} == {
            *("f1.png", "f2.png", "f3.png"),
            *("f001.png", "f002.png", "f003.png"),
        }

    def test_a_job_that_fails_leaves_an_existing_picture_alone(self, clip: Path, tmp_path: Path) -> None:
        old = tmp_path / "old.png"
        old.write_text("precious")
        refuse(UsageError, "holds one picture", clip, old, model="none", force=True)
        assert (old.read_text(), os.listdir(tmp_path)) == ("precious", ["old.png"])

    def test_a_finished_picture_stays_when_another_output_fails(self, clip: Path, tmp_path: Path) -> None:
        old = tmp_path / "old.png"
        old.write_text("replaced")
        outputs = [old, "udp://nobody.invalid:9"]
        refuse(SinkError, "nobody.invalid", clip, outputs, model="none", duration=0.01, live=False, force=True)
        assert (len(decoded(old)), os.listdir(tmp_path)) == (1, ["old.png"])

    def test_many_files_are_not_one(self, clip: Path, tmp_path: Path) -> None:
        for name in ("a.mpd", "a.m3u8"):
            refuse(UsageError, "is many files", clip, tmp_path / name)
        assert not list(tmp_path.iterdir())

    def test_a_container_for_sound(self, clip: Path, tmp_path: Path) -> None:
        refuse(UsageError, "is for sound", clip, tmp_path / "a.mp3")

    def test_a_link_is_followed(self, clip: Path, target: Path) -> None:
        link = target.with_name("link.mp4")
        link.symlink_to(target)
        streamer.enhance(clip, link, model="none")
        assert link.is_symlink()
        assert len(decoded(target)) == 60
        refuse(UsageError, "exists already", clip, link)

    def test_no_such_folder(self, clip: Path, tmp_path: Path) -> None:
        refuse(SinkError, "there is no folder .*; create it first", clip, tmp_path / "no" / "out.mp4")

    def test_no_ending(self, clip: Path, tmp_path: Path) -> None:
        refuse(UsageError, "its ending says the format", clip, tmp_path / "out")

    def test_an_unknown_ending(self, clip: Path, tmp_path: Path) -> None:
        refuse(UsageError, "no container format ends in .xyz", clip, tmp_path / "out.xyz")

    def test_a_folder(self, clip: Path, tmp_path: Path) -> None:
        refuse(UsageError, "it is a folder; add a file name", clip, tmp_path)

    def test_named_twice(self, clip: Path, target: Path) -> None:
        refuse(UsageError, "an output is named twice", clip, [target, target])
        refuse(UsageError, "an output is named twice", clip, [target, target.parent / "." / target.name])

    def test_a_playlist_named_twice(self, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        refuse(UsageError, "an output is named twice", clip, ["hls:a", "hls:./a/"])
        assert not list(tmp_path.iterdir())

    def test_one_picture_for_a_video(self, clip: Path, tmp_path: Path) -> None:
        refuse(UsageError, "holds one picture but the input has more", clip, tmp_path / "out.png")
        assert not list(tmp_path.glob("*.png"))

    def test_a_codec_that_the_container_does_not_take(self, clip: Path, tmp_path: Path) -> None:
        refuse(StreamerError, "can't create .*out.webm", clip, tmp_path / "out.webm", codec="ffv1")


def test_credentials_never_show() -> None:
    assert public_url("rtsp://me:pass@host:554/a?b=c") == "rtsp://***@host:554/a?b=c"
    assert public_url("rtsp://me:p@ss@word@host:554/a@b") == "rtsp://***@host:554/a@b"
    assert public_url("rtsp://me:p/a?s#s@host/a") == "rtsp://***@host/a"
    assert public_url("can't open 'rtsp://me:p@ss@host/a' at all") == "can't open 'rtsp://***@host/a' at all"
    assert public_url("http://host:8080/@me/a.m3u8") == "http://host:8080/@me/a.m3u8"
    assert public_url("http://[::1]:8080/@me/a.m3u8") == "http://[::1]:8080/@me/a.m3u8"
    assert public_url("http://host/@me:x") == "http://host/@me:x"
    assert public_url("srt://host:9?passphrase=secret&mode=caller") == "srt://host:9?passphrase=***&mode=caller"
    assert public_url("srt://host:9?streamid=publish:me:secret&mode=caller") == "srt://host:9?streamid=***&mode=caller"
    assert public_url("https://host/a.m3u8?sig=secret&auth=secret#x") == "https://host/a.m3u8?sig=***&auth=***"
    assert public_url("rtmps://live.example/app/s3cret?a=b") == "rtmps://live.example/app/***?a=b"
    assert public_url("rtmp://live.example/app") == "rtmp://live.example/app"
    assert public_url("/plain/path@home.mp4") == "/plain/path@home.mp4"
