"""What the user should know of a source or sink: said in the log once, and kept for the summary."""

from __future__ import annotations

import logging

log = logging.getLogger("streamer")


class Notes(list[str]):
    """Sentences about one input or output, in the order in which they were said."""

    def __init__(self, subject: str) -> None:
        super().__init__()
        self._subject = subject

    def say(self, text: str) -> None:
        """Logs `text` as a warning about the subject, and keeps it; a repetition is not said again."""
        sentence = f"{self._subject}: {text}"
        if sentence not in self:
            self.append(sentence)
            log.warning("%s", sentence)
