"""Choosing among models while a pipeline runs: what the preview's keys act on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from engines import EngineError
from onnx_models.cards import CardError, ModelCard
from streamer.channel import Cancelled
from streamer.enhancer import MAX_STRENGTH, EnhanceStage
from streamer.errors import StreamerError
from streamer.frame import Frame, VideoFormat
from streamer.ladder import Ladder
from streamer.level import Levels
from streamer.stabiliser import OFF, StabiliseStage

log = logging.getLogger(__name__)


class ModelSwitch:
    """An enhance stage whose model can be changed between two frames, among models of one scale.

    `make` gives a stage for a card. `next_model` and `add_strength` may be called from any thread; the change itself
    happens on the stage's thread: the next model is opened, the frames that the last one has under way come out, and
    the last one is closed. A model that can't be opened is skipped with a warning. `stabiliser` is the stage behind.
    """

    name = "enhance"

    def __init__(
        self,
        cards: Sequence[ModelCard],
        make: Callable[[ModelCard], EnhanceStage],
        stabiliser: StabiliseStage | None = None,
    ) -> None:
        self._cards = tuple(cards)
        self._make = make
        self._stabiliser = stabiliser
        self._mode = stabiliser.mode if stabiliser is not None else OFF
        self._wanted = self._number = 0
        self._stage = make(self._cards[0])
        self._format: VideoFormat | None = None
        self._counts: Counter[str] = Counter()
        self._following: EnhanceStage | None = None
        self._is_interrupted = False

    # -- for any thread --------------------------------------------------------------------------------------------

    @property
    def models(self) -> tuple[str, ...]:
        """Names, in the order in which `next_model` goes through them."""
        return tuple(card.name for card in self._cards)

    @property
    def model(self) -> str:
        """The name of the one that was asked for last."""
        return self._cards[self._wanted].name

    @property
    def strength(self) -> float:
        return self._stage.strength

    @property
    def stabiliser(self) -> str:
        """How the stage behind this one stabilises; "off" without one."""
        return self._stabiliser.mode if self._stabiliser is not None else OFF

    def toggle_stabiliser(self) -> None:
        """Switches between "off" and what the stage began with."""
        if self._stabiliser is not None:
            self._stabiliser.mode = self._mode if self._stabiliser.mode == OFF else OFF

    def next_model(self) -> None:
        self._wanted = (self._wanted + 1) % len(self._cards)

    def add_strength(self, step: float) -> None:
        """Changes the strength by `step`, within its range."""
        self._stage.strength = min(max(round(self._stage.strength + step, 3), 0.0), MAX_STRENGTH)

    # -- what a summary wants to know ------------------------------------------------------------------------------

    @property
    def ladder(self) -> Ladder | None:
        """Of the model that runs now."""
        return self._stage.ladder

    @property
    def status(self) -> dict[str, str | int]:
        return self._stage.status

    @property
    def card(self) -> ModelCard:
        """Of the model that runs now."""
        return self._stage.card

    @property
    def engine_name(self) -> str:
        return self._stage.engine_name

    @property
    def precision(self) -> str:
        return self._stage.precision

    @property
    def mean_levels(self) -> Levels | None:
        """Of the model that runs now."""
        return self._stage.mean_levels

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._counts + Counter(self._stage.counts))

    # -- the stage -------------------------------------------------------------------------------------------------

    @property
    def wake(self) -> Callable[[], None] | None:
        return self._stage.wake

    @wake.setter
    def wake(self, wake: Callable[[], None] | None) -> None:
        self._stage.wake = wake

    def ready(self) -> Iterator[Frame]:
        return self._stage.ready()

    def held(self, duration_ns: int) -> None:
        self._stage.held(duration_ns)

    def open(self, format: VideoFormat) -> VideoFormat:
        self._format = format
        return self._stage.open(format)

    def process(self, frame: Frame) -> Iterator[Frame]:
        if self._wanted != self._number:
            number = self._number
            yield from self._switched()
            if self._number != number:  # what was stabilised so far is the other model's
                frame = replace(frame, discontinuity=True)
        yield from self._stage.process(frame)

    def flush(self) -> Iterator[Frame]:
        return self._stage.flush()

    def interrupt(self) -> None:
        """Lets an opening that would wait for a plan raise Cancelled, that of the next model, too. Any thread."""
        self._is_interrupted = True
        self._stage.interrupt()
        if (following := self._following) is not None:
            following.interrupt()

    def close(self) -> None:
        self._stage.close()

    def _switched(self) -> Iterator[Frame]:
        """Changes to the wanted model; gives what the last one still held."""
        assert self._format is not None
        number = self._wanted
        following = self._following = self._make(self._cards[number])
        following.wake = self._stage.wake
        try:
            if self._is_interrupted:
                following.interrupt()
            following.open(self._format)
        except Cancelled:
            following.close()
            raise
        except (StreamerError, EngineError, CardError) as error:
            following.close()
            log.warning("model %s can't be opened, so it stays as it is: %s", self._cards[number].name, error)
            self._wanted = self._number
            return
        yield from self._stage.flush()
        self._counts.update(self._stage.counts)
        self._counts["model changes"] += 1
        self._stage.close()
        following.strength = self._stage.strength
        self._stage, self._number = following, number
