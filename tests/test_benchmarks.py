"""The benchmarks run and say what they should; no assertion on how fast."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import latency, level, memory, networks, quality, soak, speed, startup
from benchmarks.__main__ import app
from benchmarks.burnt_clock import BITS, UNIT_NS, age_ns, burn
from benchmarks.cases import CASES, Window
from benchmarks.errors import BenchmarkError
from benchmarks.latency import DIRECT, OUTPUTS, RELAY, Way
from benchmarks.machine import Usage, facts
from benchmarks.memory import marks
from benchmarks.report import table
from benchmarks.speed import Sample, ratios, summarise
from streamer.errors import UsageError
from tests.clips import Clip

if TYPE_CHECKING:
    from pathlib import Path

MACHINE_KEYS = {"cpu", "cpus", "system", "load", "python", "packages", "commit"}


def sample(wall_ms: float, cpu_ms: float) -> Sample:
    return Sample(wall_ms, cpu_ms, system_ms=0.5, page_faults=1, switches=2, others_cpus=0)


ROUND = {
    "decode": sample(1, 1),
    "network": sample(16, 32),
    "encode": sample(3, 7),
    "chroma": sample(1, 1),
    "pipeline": sample(22, 42),
    "plain loop, x264": sample(44, 80),
    "plain loop, VideoWriter": sample(50, 90),
}


def test_ratios_by_hand() -> None:
    assert ratios(ROUND, cpus=2) == {
        "cpu over parts": pytest.approx(42 / 40),
        "wall over ideal": pytest.approx(22 / 20),
        "speed over plain loop": pytest.approx(2.0),
    }
    assert ratios(ROUND, cpus=4)["wall over ideal"] == pytest.approx(22 / 10)


def test_ratios_are_taken_within_rounds() -> None:
    """A machine twice as slow in one round changes the times of that round, not its ratios."""
    slow = {name: sample(2 * one.wall_ms, 2 * one.cpu_ms) for name, one in ROUND.items()}
    worse = {**ROUND, "pipeline": sample(60, 60)}
    findings = summarise([ROUND, slow, worse], cpus=2)
    assert findings["ratios"]["cpu over parts"] == {
        "value": pytest.approx(1.05),
        "target": "<= 1.1",
        "met": True,
        "rounds": [pytest.approx(1.05), pytest.approx(1.05), pytest.approx(1.5)],
    }
    assert findings["cases"]["pipeline"]["wall_ms"] == 44
    assert findings["cases"]["pipeline"]["fps"] == pytest.approx(1000 / 44)
    missed = summarise([worse], cpus=2)["ratios"]
    assert not missed["cpu over parts"]["met"]
    assert not missed["speed over plain loop"]["met"]


def test_usage_is_a_difference_per_frame() -> None:
    first = Usage(wall_ns=1_000_000, cpu_ns=0, system_ns=0, page_faults=3, switches=0, others_ns=0)
    last = Usage(
        wall_ns=21_000_000, cpu_ns=30_000_000, system_ns=1_000_000, page_faults=13, switches=20, others_ns=5_000_000
    )
    assert Sample.of(last.since(first), frames=10) == Sample(2.0, 3.0, 0.1, 1.0, 2.0, 0.25)


@pytest.mark.parametrize(("frames", "measured"), [(332, 300), (16, 8)])
def test_window_leaves_out_both_ends(frames: int, measured: int) -> None:
    window = Window(frames)
    for _ in range(frames):
        window.tick()
    assert window.frames == measured
    assert window.usage.wall_ns >= 0


def test_marks_of_a_long_run() -> None:
    assert marks(5000) == [200, 1000, 2000, 3000, 4000, 5000]
    assert marks(40) == [10, 40]


def test_table_is_aligned() -> None:
    assert table(("a", "bb"), [("long", 1), ("x", 222)]) == "a      bb\nlong    1\nx     222"


def test_facts_name_the_machine() -> None:
    found = facts()
    assert found.keys() >= MACHINE_KEYS
    assert found["cpus"] >= 1
    assert found["packages"]["av"]


@pytest.mark.slow
def test_speed(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    outcome = CliRunner().invoke(app, ["speed", "--frames", "24", "--repeat", "1", "--json", str(path)])
    assert outcome.exit_code == 0, outcome.output
    assert "cpu over parts" in outcome.output
    found = json.loads(path.read_text())
    assert found.keys() == {"command", "date", "machine", "cases", "ratios", "settings"}
    assert found["cases"].keys() == CASES.keys()
    assert found["ratios"].keys() == speed.TARGETS.keys()
    for case in found["cases"].values():
        assert case["wall_ms"] > 0
        assert len(case["rounds"]) == 1


@pytest.mark.slow
def test_memory() -> None:
    report = memory.run(frames=24)
    assert report.findings["runs"].keys() == {"null:", "file"}
    for seen in report.findings["runs"].values():
        assert [mark["frame"] for mark in seen] == [6, 24]
        assert all(mark["resident_mib"] > 10 for mark in seen)
        assert all(1 <= mark["planes_allocated"] <= 16 for mark in seen)
    assert "growth" in str(report)


@pytest.mark.slow
def test_startup() -> None:
    report = startup.run(repeat=1)
    assert report.findings["commands"].keys() == startup.commands().keys()
    assert {"python -c pass", "python -m streamer --help"} <= report.findings["commands"].keys()
    assert all(entry["wall_ms"] > 0 for entry in report.findings["commands"].values())


@pytest.mark.slow
def test_networks() -> None:
    pytest.importorskip("torch", reason="the extra `train` (torch) is not installed")
    report = networks.run(["x1-w8d1u2-level"], frames=2, repeat=1, engine="auto")
    found = report.findings["networks"]
    assert {networks.REFERENCE, "x1-w8d1u2-level", "upscale-x2-nano"} <= found.keys()
    assert found[networks.REFERENCE]["over reference"] == 1
    assert all(one["ms"] > 0 for one in found.values())
    assert "1280x720" in str(report)


@pytest.mark.parametrize("name", ["w16d2u1", "x2-w16d2", "x2-w16d2u1-loud"])
def test_names_that_are_no_shapes(name: str) -> None:
    with pytest.raises(ValueError, match="is no shape"):
        networks.shape_of(name)


def looks(count: int) -> list[level.Look]:
    """Pictures whose first statistics are linear functions of their parameters, three a case, four cases a source."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        case = number // 3
        truth = (12.0 + case * 28 / (count // 3), 12.0 + case * 7 % 28)
        seen = rng.normal(0, 1, 70)
        seen[:2] = np.array(truth) / 10 + rng.normal(0, 0.02, 2)
        told = truth[0] if case % 2 else None
        found.append(level.Look(f"source {case // 4}", "h264", case, truth, told, seen.astype(np.float32)))
    return found


def test_weights_are_found_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level, "_STEPS", 1500)
    known = looks(480)
    weights = level.fit(known)
    estimates = weights(known)
    difference = np.abs(estimates - [one.truth for one in known])
    assert difference[[one.told is None for one in known], 0].mean() < 2
    assert difference[:, 1].mean() < 2
    weights.write(tmp_path / "written.py")
    written: dict[str, tuple[tuple[float, ...], ...]] = {}
    exec((tmp_path / "written.py").read_text(), written)
    read = level.Weights(np.array(written["HIDDEN"]), np.array(written["OUTPUT"]))
    assert np.abs(read(known) - estimates).max() < 0.2
    assert max(map(len, (tmp_path / "written.py").read_text().splitlines())) <= 120


def test_errors_by_hand() -> None:
    blank = np.zeros(70, np.float32)
    clean = ("clean", (-math.inf, -math.inf), None)
    compressed = [("h264", (qp, -math.inf), None) for qp in (26.0, 34.0)]
    noisy = ("noise, h264, told", (26.0, 18.0), 26.0)
    cases = [clean, *compressed, noisy]
    known = [
        level.Look("a", kind, case, truth, told, blank)
        for case, (kind, truth, told) in enumerate(cases)
        for _ in range(2)
    ]
    estimates = np.array([[10, 16.4, 26, 32.4, 26, 26, 6, 6], [6, 6, 10, 12, 10, 26, 22, 24.4]]).T
    compression, noise = (level.errors(known, estimates, output) for output in level.OUTPUTS)
    assert compression["clean"] == {
        "cases": 1, "error": pytest.approx(0.1), "bias": pytest.approx(0.1), "at 0": 0.0, "clean enough": 1.0,
    }  # fmt: skip
    assert compression["h264"]["error"] == pytest.approx((0.1 + 0.25) / 2)
    assert compression["h264"]["bias"] == pytest.approx((0.1 - 0.25) / 2)
    assert compression["  h264, 0.50-0.75"]["cases"] == 1
    assert compression["all that have some"]["cases"] == 2
    assert "noise, h264, told" not in compression
    assert noise["clean"]["at 0"] == 1
    assert noise["h264"]["at 0"] == 0.5
    assert noise["noise, h264, told"]["bias"] == pytest.approx(0.41 - 0.25, abs=0.01)
    assert noise["all that have none"]["cases"] == 3


@pytest.mark.slow
def test_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level, "_STEPS", 50)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        coarse = rng.integers(0, 255, (60, 80, 3), np.uint8)
        picture = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), picture)
    weights = tmp_path / "weights.py"
    for fit in ([], ["--fit", str(weights)]):
        outcome = CliRunner().invoke(app, ["level", "--data", str(tmp_path / "photos"), *fit])
        assert outcome.exit_code == 0, outcome.output
        assert "level of what" in outcome.output
        assert "noise of what" in outcome.output
    assert "HIDDEN" in weights.read_text()


@pytest.mark.slow
def test_quality(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Clip(128, 96, frames=4, codec="ffv1", options={}).write(tmp_path / "in" / "clip.mkv")
    models = ["upscale-x2-nano", "upscale-x2-small"]
    report = quality.run([tmp_path / "in"], models, [20, 35], frames=3, sheet=tmp_path / "sheet.png")
    scores = report.findings["scores"]
    assert [(score["crf"], score["method"]) for score in scores] == [
        (crf, method) for crf in (20, 35) for method in ("bicubic", "lanczos", *models)
    ]
    for name, better in (("psnr_db", 1), ("difference_error", -1)):
        assert all(better * scores[i][name] > better * scores[i + 4][name] for i in range(4))
    assert "mean" in str(report)
    sheet = cv2.imread(str(tmp_path / "sheet.png"), cv2.IMREAD_GRAYSCALE)
    assert sheet is not None
    bicubic, *enhanced, original = np.hsplit(sheet.astype(float), 4)
    errors = [np.abs(shown - original).mean() for shown in (bicubic, *enhanced, original)]
    assert errors[-1] == 0 < min(errors[:-1])


@pytest.mark.slow
def test_quality_measures_all_of_a_clip_of_any_even_size(tmp_path: Path) -> None:
    """50 rows are 25 of chroma, and more frames than `read_clip` takes by itself."""
    (tmp_path / "in").mkdir()
    Clip(104, 100, frames=302, options={"crf": "30", "preset": "ultrafast"}).write(tmp_path / "in" / "clip.mkv")
    report = quality.run([tmp_path / "in"], ["upscale-x2-nano"], [35], frames=302, sheet=None)
    assert [score["method"] for score in report.findings["scores"]] == ["bicubic", "lanczos", "upscale-x2-nano"]


def test_quality_compares_models_of_one_scale(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\[2, 3\]"):
        quality.run([tmp_path], ["upscale-x2-nano", "upscale-x3-nano"], [20], frames=3, sheet=None)


@pytest.mark.parametrize("size", [(360, 640), (720, 1280), (90, 160)])
def test_the_burnt_clock_is_read_back(size: tuple[int, int]) -> None:
    luma = np.random.default_rng(1).integers(0, 256, (360, 640), np.uint8)
    now_ns = 123_456_789_000_000
    burn(luma, now_ns)
    seen = cv2.resize(luma, size[::-1], interpolation=cv2.INTER_AREA)
    assert age_ns(np.asarray(seen, np.uint8), now_ns + 70 * 10**6) == 70 * 10**6
    around = (1 << BITS) * UNIT_NS
    assert age_ns(np.asarray(seen, np.uint8), now_ns + around + UNIT_NS) == UNIT_NS


def test_a_picture_without_a_clock_has_no_age() -> None:
    assert age_ns(np.full((360, 640), 100, np.uint8), 0) is None
    assert age_ns(np.random.default_rng(1).integers(0, 256, (360, 640), np.uint8), 0) is None


def test_ages_become_percentiles_in_frames() -> None:
    way = Way(tuple(float(age) for age in range(101)), {"p95": 3.0}, 1, 2)
    found = way.as_dict()
    assert (found["p50_ms"], found["p95_ms"], found["p99_ms"]) == (50, 95, 99)
    assert found["p50_frames"] == 1.5
    assert (found["pictures"], found["dropped"], found["lagged"]) == (101, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
def test_latency(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_UP_S", 0.5)
    if output == "srt":
        pytest.importorskip("imageio_ffmpeg", reason="SRT goes through imageio-ffmpeg")
    path = tmp_path / "latency.json"
    outcome = CliRunner().invoke(app, ["latency", "--seconds", "1", "--output", output, "--json", str(path)])
    assert outcome.exit_code == 0, outcome.output
    ways = json.loads(path.read_text())["ways"]
    assert len(ways) == 3
    assert all(0 < way["p50_ms"] <= way["p99_ms"] for way in ways.values())
    assert ways[RELAY]["p50_ms"] > ways[DIRECT]["p50_ms"]


def test_a_folder_for_figures_is_looked_for_before_the_measurement(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["memory", "--json", str(tmp_path / "none" / "memory.json")])
    assert outcome.exit_code == 2
    assert "there is no folder" in outcome.output


def test_latency_refuses_an_output_that_it_cant_read() -> None:
    outcome = CliRunner().invoke(app, ["latency", "--output", "hls"])
    assert outcome.exit_code == 2
    assert "rtsp or udp or srt" in outcome.output


@pytest.mark.slow
def test_soak(tmp_path: Path) -> None:
    path = tmp_path / "soak.json"
    outcome = CliRunner().invoke(app, ["soak", "--seconds", "4", "--json", str(path)])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(path.read_text())
    assert 10 < found["fps"] < 40
    assert len(found["resident_mib"]) == len(found["seconds"]) == 4
    assert all(mib > 50 for mib in found["resident_mib"])
    assert found.keys() >= {"dropped", "dropped_first", "late"}


def told(time_s: float, frames: int) -> dict[str, Any]:
    return {"time_s": time_s, "frames": frames}


def test_a_soak_begins_after_its_first_second() -> None:
    seen = [told(0.5, 0), told(1.0, 10), told(1.999, 40), told(2.999, 70)]
    assert soak.warmed_up(seen) == told(1.0, 10)
    assert soak.warmed_up(seen[:1] + seen[2:]) == told(1.999, 40)


def test_a_soak_without_frames_to_count_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match=r"no frames between second 1 and 3\.0"):
        soak.warmed_up([told(1.0, 0), told(2.0, 0), told(3.0, 70)])


def few_frames(folder: Path) -> str:
    Clip(256, 256, frames=3).write(folder / "short.mp4")
    return str(folder)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["quality", "DIR/none"], 1, "data folder DIR/none does not exist"),
        (["quality", "DIR", "--model", "nope"], 1, "no model 'nope'"),
        (["level", "--data", "DIR"], 1, "clip DIR/short.mp4 has 3 frames, 12 are needed"),
        (["temporal", "DIR"], 1, "short has 3 frames, more than 4 are needed"),
        (["temporal", "DIR", "--damage", "noise 7"], 2, "there is no damage 'noise 7': use clean, noise 5, noise 10, "),
        (["latency", "--model", "nope"], 1, "no model 'nope'"),
        (["soak", "--model", "nope"], 1, "no model 'nope'"),
        pytest.param(["networks", "x2-w16"], 2, "'x2-w16' is no shape", marks=pytest.mark.slow),
        pytest.param(["networks", "x5-w16d2u1"], 2, "'x5-w16d2u1' is no shape: scale is 5", marks=pytest.mark.slow),
        pytest.param(["networks", "--engine", "nope"], 1, "there is no engine 'nope'", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_measured_is_said(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    if arguments[0] == "networks":
        pytest.importorskip("torch", reason="the extra `train` (torch) is not installed")
    folder = few_frames(tmp_path)
    outcome = CliRunner().invoke(app, [part.replace("DIR", folder) for part in arguments])
    assert outcome.exit_code == code, outcome.output
    assert f"error: {message.replace('DIR', folder)}" in outcome.stderr
