"""What the README says of models, commands and options is what the project has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import streamer
from onnx_models.cards import ModelCard, list_cards

README = (Path(__file__).parent.parent / "README.md").read_text()


def gain_db(card: ModelCard, crf: str) -> str:
    """The card's gain on the development clips at full size, as the README rounds it."""
    (metric,) = (
        metric
        for metric in card.metrics
        if metric.name == "PSNR-Y gain over Lanczos"
        and metric.set == "development clips"
        and metric.protocol.endswith(f"CRF {crf}")
        and "reduced by 2 first" not in metric.protocol
    )
    return f"{metric.value:+.2f}"


@pytest.mark.parametrize("card", list_cards(), ids=lambda card: card.name)
def test_the_models_table_is_that_of_the_cards(card: ModelCard) -> None:
    gains = " / ".join(gain_db(card, crf) for crf in ("none", "18", "23", "28", "33"))
    row = f"| `{card.name}` | x{card.scale} | {card.params:,} | {card.macs_per_px:,} | {gains} |"
    assert row in README, f"the README needs this row:\n{row}"


def test_every_option_named_exists() -> None:
    source = (Path(__file__).parent.parent / "streamer" / "cli.py").read_text()
    for option in set(re.findall(r"(?<![\w|-])--([a-z][a-z-]+)", README)) - {"data"}:  # an option of the training
        assert f"--{option}" in source or re.search(rf"\b{option.replace('-', '_')}: ", source), option


def test_every_name_from_python_exists() -> None:
    for name in re.findall(r"streamer\.([A-Za-z_]+)\(", README):
        assert name in streamer.__all__
