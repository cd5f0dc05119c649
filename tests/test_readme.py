"""What the README says of models, commands and options is what the project has."""

from __future__ import annotations

import re
from pathlib import Path

import streamer
from onnx_models.__main__ import parser
from onnx_models.table import readme_table

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_models_table_is_that_of_the_cards() -> None:
    assert readme_table() in README, "write the output of `python -m onnx_models table` into the README"


def test_every_option_named_exists() -> None:
    folder = Path(streamer.__file__).parent / "cli"
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    of_training = {"data", "out"}
    for option in set(re.findall(r"(?<![\w|-])--([a-z][a-z-]+)", README)) - of_training:
        assert f"--{option}" in source or re.search(rf"\b{option.replace('-', '_')}: ", source), option


def test_every_command_of_training_is_complete() -> None:
    commands = re.findall(r"`python -m onnx_models ([^`]+)`", README)
    assert {command.split()[0] for command in commands} == {"train", "export"}
    for command in commands:
        parser().parse_args(command.replace("…", "").split())


def test_every_name_from_python_exists() -> None:
    for name in re.findall(r"streamer\.([A-Za-z_]+)\(", README):
        assert name in streamer.__all__
