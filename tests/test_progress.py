"""What a terminal shows of running jobs."""

from __future__ import annotations

import sys

import pytest

from streamer.job import Progress
from streamer.progress import shown_progress, shown_streams
from streamer.stats import Stats

NAMES = ("rec[/b].mkv", "rtsp://[fe80::1]/x", "we[ir]d [/x]")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_markup(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "300")
    event = {
        "fps": 25.0,
        "latency_ms": {"p50": 1.0, "p95": 2.0},
        "dropped": {},
        "lagged": 0,
        "av_offset_ms": {name: 80.0},
        "status": {},
    }
    with shown_progress() as show:
        show.stats(event)
    assert f"sound 80 ms ahead of the picture in {name}" in capsys.readouterr().err
    with shown_streams([name], quiet=False, terminal=True) as update:
        update(name, Progress(5, 10, 1.0, 2.0, 1.0), Stats(["deliver"]))
    assert f"{name}: frame 5 of 10" in capsys.readouterr().err


def test_each_stream_has_a_line_of_its_own_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    stats = Stats(["deliver"])
    with shown_streams(["door", "desk"], quiet=False, terminal=False) as update:
        for name, elapsed_s in (("door", 4.9), ("door", 5.0), ("desk", 5.1), ("door", 9.9), ("door", 10.0)):
            update(name, Progress(10, None, 2.0, elapsed_s, 0.0), stats)
    names = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert names == ["door", "desk", "door"]
