"""The README's table of models, from their cards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx_models.cards import list_cards

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from onnx_models.cards import ModelCard

HEAD = "| model | | parameters | MAC per input pixel | what it gains |\n|---|---|---|---|---|\n"
CLIPS = "development clips"
LIVE = ("clean", "CRF 18", "CRF 23", "CRF 28", "CRF 33")


def figure(card: ModelCard, name: str, where: str, condition: str) -> float | None:
    """The first figure of a card that has this name, set and condition; the cards list full size first."""
    for metric in card.metrics:
        if metric.name.startswith(name) and (metric.set, metric.condition) == (where, condition):
            return metric.value
    return None


def _joined(values: Sequence[float | None], form: str) -> str:
    return " / ".join("?" if value is None else format(value, form) for value in values)


def gains(card: ModelCard) -> str:
    """What a network gains, by its task and flavour."""
    if card.name.endswith("-clean"):
        sets = list(dict.fromkeys(m.set for m in card.metrics if m.protocol.startswith("as published")))
        own = (figure(card, "PSNR-Y", name, "clean") for name in sets)
        return ", ".join(f"{name} {value:.2f} dB" for name, value in zip(sets, own, strict=True))
    over = "Lanczos" if card.scale > 1 else "the input"
    conditions = LIVE if card.scale > 1 else LIVE[1:]
    text = (
        f"{_joined([figure(card, 'PSNR-Y gain', CLIPS, condition) for condition in conditions], '+.2f')} dB over {over}"
    )
    if card.scale == 1:
        jpeg = [figure(card, "PSNR-Y gain", "LIVE1", f"JPEG q{quality}") for quality in (10, 20, 30)]
        text += f"; JPEG {_joined(jpeg, '+.2f')}"
    return text


def row(card: ModelCard) -> str:
    """One line of the table."""
    size = f"x{card.scale}" if card.scale > 1 else "same size"
    return f"| `{card.name}` | {size} | {card.params:,} | {card.macs_per_px:,} | {gains(card)} |\n"


def readme_table() -> str:
    """The whole table in Markdown; upscalers before restorers."""
    cards = sorted(list_cards(), key=lambda card: (card.task != "upscale", card.scale, card.name))
    return HEAD + "".join(row(card) for card in cards)


def command(_: argparse.Namespace) -> str:
    """`table`: returns the table."""
    return readme_table()
