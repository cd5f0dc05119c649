"""One benchmark's findings, for people and for programs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from benchmarks.machine import facts

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Report:
    """`findings` are plain values; `text` is what to print of them."""

    findings: dict[str, Any]
    text: str
    machine: dict[str, Any]
    date: str
    command: str

    @classmethod
    def of(cls, findings: dict[str, Any], text: str, machine: dict[str, Any]) -> Report:
        """With today's date and this process's command. `machine` comes from before the measurement."""
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        return cls(findings, text, machine, datetime.now(UTC).isoformat(timespec="seconds"), command)

    def as_dict(self) -> dict[str, Any]:
        return {"command": self.command, "date": self.date, "machine": self.machine, **self.findings}

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        machine = self.machine
        packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
        return "\n".join(
            (
                f"{self.command}  ({self.date}, commit {machine['commit']})",
                f"{machine['cpu']}; {machine['system']}; load before {machine['load']}",
                f"Python {machine['python']}, {packages}",
                "",
                self.text,
            )
        )


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    )


__all__ = ["Report", "facts", "table"]
