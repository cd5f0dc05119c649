"""Several streams in one process: what the file may say, who falls with whom, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from engines import openvino
from onnx_models.cards import load_card
from streamer.config import Stream, load_streams
from streamer.errors import UsageError
from streamer.streams import Outcome, StreamRunner
from tests.clips import decoded, times
from tests.live.peers import free_port

LIMIT_S = 120


def write(folder: Path, text: str) -> Path:
    path = folder / "streams.toml"
    path.write_text(text)
    return path


def run(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamer", "run", str(path), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)


class TestFile:
    def test_settings_and_defaults(self, tmp_path: Path) -> None:
        path = write(
            tmp_path,
            """
            [defaults]
            preset = "ultrafast"
            crf = 30
            [streams.door]
            input = "rtsp://host/door"
            outputs = ["rtsp://host/out", "null:"]
            crf = 20.5
            level = "auto"
            [streams.yard]
            input = "test:"
            outputs = "null:"
            live = true
            """,
        )
        door, yard = load_streams(path)
        assert (door.name, door.input, door.outputs) == ("door", "rtsp://host/door", ("rtsp://host/out", "null:"))
        assert door.settings == {"preset": "ultrafast", "crf": 20.5, "level": "auto"}
        assert (yard.outputs, yard.settings) == (("null:",), {"preset": "ultrafast", "crf": 30, "live": True})

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (
                "[streams.a]\ninput='test:'\noutputs='null:'\nmodell='auto'",
                "stream 'a' has an unknown key 'modell'.*'m",
            ),
            ("[streams.a]\ninput='test:'\noutput='null:'", "unknown key 'output': did you mean 'outputs'"),
            ("[streams.a]\ninput='test:'\noutputs='null:'\non_progress='x'", "unknown key 'on_progress'"),
            ("[default]\ncrf=3", "the file has an unknown key 'default': did you mean 'defaults'"),
            ("[defaults]\ninput='a'\n", r"\[defaults\] has an unknown key 'input'"),
            ("[streams.a]\ninput='test:'\noutputs='null:'\ncrf='small'", "crf = 'small' must be a number"),
            ("[streams.a]\ninput='test:'\noutputs='null:'\ncrf=true", "crf = True must be a number"),
            ("[streams.a]\ninput='test:'\noutputs='null:'\nlive=1", "live = 1 must be true or false"),
            ("[streams.a]\ninput='test:'\noutputs='null:'\nlevel='low'", "level = 'low' must be a number or 'auto'"),
            ("[streams.a]\noutputs='null:'", "stream 'a' has no input"),
            ("[streams.a]\ninput='test:'\noutputs=[]", "stream 'a' has no outputs"),
            ("[streams.a]\ninput='test:'\noutputs=[1]", "must be one text or a list of texts"),
            ("[streams]\na=1", "stream 'a' must be a table"),
            ("", "it has no stream"),
            ("[streams", "it isn't TOML"),
        ],
    )
    def test_mistakes_name_stream_and_key(self, tmp_path: Path, text: str, why: str) -> None:
        with pytest.raises(UsageError, match=f"streams.toml: .*{why}"):
            load_streams(write(tmp_path, text))

    def test_two_streams_into_one_output(self, tmp_path: Path) -> None:
        one = f"input='test:'\noutputs=['null:', '{tmp_path}/a/../out.mp4']"
        two = f"input='test:'\noutputs=['null:', '{tmp_path}/out.mp4']"
        with pytest.raises(UsageError, match="streams 'one' and 'two' both write"):
            load_streams(write(tmp_path, f"[streams.one]\n{one}\n[streams.two]\n{two}"))
        one, two = ("input='test:'\noutputs='hls:" + folder for folder in ("a/b'", "a/./b/'"))
        with pytest.raises(UsageError, match="streams 'one' and 'two' both write"):
            load_streams(write(tmp_path, f"[streams.one]\n{one}\n[streams.two]\n{two}"))

    def test_two_streams_from_standard_input(self, tmp_path: Path) -> None:
        stream = "input='-'\noutputs='null:'"
        with pytest.raises(UsageError, match="streams 'one' and 'two' both read standard input"):
            load_streams(write(tmp_path, f"[streams.one]\n{stream}\n[streams.two]\n{stream}"))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"no-such\.toml: No such file"):
            load_streams(tmp_path / "no-such.toml")


def test_one_failure_leaves_the_others_running(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        [defaults]
        model = "upscale-x2-nano"
        preset = "ultrafast"
        [streams.good]
        input = "test:64x48@25,30"
        outputs = "{tmp_path}/good.mp4"
        [streams.bad]
        input = "{tmp_path}/missing.mp4"
        outputs = "{tmp_path}/bad.mp4"
        [streams.also-good]
        input = "test:64x48@25,20"
        outputs = ["{tmp_path}/also.mkv", "null:"]
        """,
    )
    done = run(path, "--json")
    assert done.returncode == 1
    assert re.search(r"error: stream bad: can't read .*missing.mp4: no such file", done.stderr)
    streams = json.loads(done.stdout.splitlines()[-1])["streams"]
    assert {name: summary.get("frames") for name, summary in streams.items()} == {
        "good": 30,
        "bad": None,
        "also-good": 20,
    }
    assert "no such file" in streams["bad"]["error"]
    assert (len(times(tmp_path / "good.mp4")), len(times(tmp_path / "also.mkv"))) == (30, 20)
    assert not (tmp_path / "bad.mp4").exists()


@pytest.mark.slow
def test_events_name_their_stream_and_metrics_have_all(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="metrics are prometheus-client's")
    port = free_port()
    seen: list[str] = []

    def look(name: str, event: dict[str, Any]) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT_S) as answer:
            seen.append(answer.read().decode())
        names.add(name)

    names: set[str] = set()
    settings = {"model": "none", "live": True}
    streams = [Stream(name, "test:64x48@25,40", ("null:",), settings) for name in ("one", "two")]
    outcomes = StreamRunner(streams, on_stats=look, metrics=f"127.0.0.1:{port}").run()
    assert all(outcome.error is None for outcome in outcomes)
    assert names == {"one", "two"}
    assert any('stream="one"' in text and 'stream="two"' in text for text in seen)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_end_that_cannot_be_told_is_an_end() -> None:
    """As where nobody reads what a program says any more."""

    def tell(outcome: Outcome) -> None:
        raise BrokenPipeError(outcome.name)

    streams = [Stream(name, "test:64x48@25,3", ("null:",), {"model": "none"}) for name in ("one", "two")]
    outcomes = StreamRunner(streams, on_end=tell).run()
    assert [(outcome.name, outcome.error) for outcome in outcomes] == [("one", None), ("two", None)]


def test_control_c_finishes_every_output(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        [defaults]
        model = "none"
        preset = "ultrafast"
        crf = 0
        live = true
        [streams.one]
        input = "test:320x180@25,100000"
        outputs = "{tmp_path}/one.mp4"
        [streams.two]
        input = "test:320x180@50,100000"
        outputs = "{tmp_path}/two.mp4"
        """,
    )
    command = [sys.executable, "-m", "streamer", "run", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while sum(part.stat().st_size > 5000 for part in tmp_path.glob(".*part*")) < 2:
            assert running.poll() is None
            os.sched_yield()
        running.send_signal(signal.SIGINT)
        output, errors = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 130, errors
    assert output.count("interrupted after") == 2
    assert len(decoded(tmp_path / "one.mp4")) > 3
    assert len(decoded(tmp_path / "two.mp4")) > 3


_OPEN_TOGETHER = """
import faulthandler, sys, threading
import engines
from onnx_models.cards import load_card

faulthandler.dump_traceback_later(20, exit=True)
sys.setswitchinterval(1e-6)
card, together, opened = load_card("upscale-x2-nano"), threading.Barrier(2), threading.Event()

def work():
    together.wait()
    engine = engines.open_engine(engines.EngineRequest(card.path, 16, 16, engine="openvino"))
    engine.close()

def disturb():  # Python's lock changes hands all the time
    while not opened.is_set():
        pass

threads = [threading.Thread(target=work) for _ in range(2)]
others = [threading.Thread(target=disturb) for _ in range(3)]
for thread in threads + others: thread.start()
for thread in threads: thread.join()
opened.set()
"""


@pytest.mark.slow
def test_engines_open_on_two_threads_at_once() -> None:
    for _ in range(4):  # only the first use in a process is delicate
        subprocess.run([sys.executable, "-c", _OPEN_TOGETHER], check=True, timeout=LIMIT_S)


def test_engines_of_one_network_share_its_compiled_form() -> None:
    card = load_card("upscale-x2-nano")
    request = engines.EngineRequest(card.path, 24, 16, engine="openvino")
    first, second = (engines.open_engine(request) for _ in range(2))
    other = engines.open_engine(replace(request, width=32))
    assert len(openvino._compiled_models) == 2
    feeds = [
        {spec.name: np.full(spec.shape, code if spec.name == "luma" else 1, spec.dtype) for spec in engine.inputs}
        for engine, code in ((first, 50), (second, 150))
    ]
    tickets = [engine.submit(feed) for engine, feed in zip((first, second), feeds, strict=True)]
    dark, light = (
        engine.collect(ticket)["enhanced"].copy() for engine, ticket in zip((first, second), tickets, strict=True)
    )
    assert abs(float(dark.mean()) - 50) < 5 < 95 < float(light.mean() - dark.mean())
    first.close()
    other.close()
    assert np.array_equal(second.collect(second.submit(feeds[1]))["enhanced"], light)
    second.close()
    assert not openvino._compiled_models
