"""How many CPUs the engines of a CPU use: those that the process may run on, or its container's share of their time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines import cpu
from engines.cpu import usable_cpus

OWN = "1:cpu:/pod/one\n4:memory:/pod\n"
V1 = {"cpu/pod/one/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 8),
        ("0::/slice/one\n", {"slice/cpu.max": "300000 100000\n", "slice/one/cpu.max": "max 100000\n"}, 3),
        ("0::/slice/one\n", {"slice/cpu.max": "300000 100000\n", "slice/one/cpu.max": "50000 50000\n"}, 1),
        ("0::/not/mounted\n", {"cpu.max": "400000 100000\n"}, 4),
        (OWN, V1 | {"cpu/pod/one/cpu.cfs_quota_us": "-1\n"}, 8),
        (OWN, V1 | {"cpu/pod/one/cpu.cfs_quota_us": "150000\n"}, 2),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "500000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 5),
        ("no group\n", {"cpu.max": "200000 100000\n"}, 8),
    ],
)
def test_a_containers_share_is_not_exceeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: str, files: dict[str, str], wanted: int
) -> None:
    own = tmp_path / "own"
    own.write_text(groups)
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setattr(cpu, "_OWN_GROUPS", own)
    monkeypatch.setattr(cpu, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cpus() == wanted
    assert usable_cpus(7) == 7, "what was asked for is taken"


def test_other_systems_have_no_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "_OWN_GROUPS", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cpus() == 6
