"""The preview's window: SDL through pygame-ce, drawn by one thread.

pygame-ce, because it is one wheel of 15 MB without a toolkit, ends in an error and not in a dead process where there is
no display (as OpenCV's windows do), and has a driver without a screen for tests.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import replace
from fractions import Fraction
from math import ceil
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.color import explicit
from streamer.convert import rgb_of
from streamer.errors import SinkError
from streamer.frame import ColorSpec, Frame
from streamer.sinks.preview import Controls
from streamer.sinks.upright import displayed_size, upright
from streamer.stats import Stats

HELP = (
    "mouse: split   up, down: strength   M: model",
    "S: stabiliser",
    "space: freeze   F: full screen   H: help   Q: quit",
)
STRENGTH_STEP = 0.1
_PATIENCE_MS = 100
"""Nothing depends on it but how soon Ctrl-C is noticed while no frame comes."""
_RATE_WINDOW_NS = 2_000_000_000
_FONT_PX = 22
_WHITE, _SHADE = (255, 255, 255), (0, 0, 0, 160)
_SCREENLESS = ("dummy", "offscreen")


class Window:
    """Shows frames: left of the mouse as they came, right of it enhanced.

    A context manager; used on the thread that opened it, but for `wake`. Each side is converted to RGB by the source's
    matrix and range, bicubic, in the window's size: 12 ms for 1024x768 on one core of a Zen 4. Raises SinkError.
    """

    def __init__(self, frame: Frame, controls: Controls | None, stats: Stats) -> None:
        self._frame = frame
        self._controls, self._stats = controls, stats
        self._split = 0.5
        self._frozen = self._full = self._help = False
        self._quit = False
        self._shown_ns: deque[int] = deque()
        self._latency_ms = 0.0

    def __enter__(self) -> Window:
        self._pygame = _pygame()
        try:
            self._open()
        except self._pygame.error as error:
            self._pygame.quit()
            raise SinkError(
                f"can't open a window: {error}; a preview needs a display, such as DISPLAY or Wayland"
            ) from error
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pygame.quit()

    @property
    def picture(self) -> npt.NDArray[np.uint8]:
        """What the window shows, uint8 RGB [height, width, 3]."""
        return np.ascontiguousarray(self._pygame.surfarray.array3d(self._screen).swapaxes(0, 1))

    def wake(self) -> None:
        """Makes a running `attend` return soon. Any thread."""
        self._pygame.event.post(self._pygame.event.Event(self._pygame.USEREVENT))

    def show(self, frame: Frame) -> None:
        """Shows a frame, unless the picture is frozen."""
        now_ns = time.monotonic_ns()
        self._latency_ms = (now_ns - frame.captured_ns) / 1e6
        self._shown_ns.append(now_ns)
        while self._shown_ns[0] < now_ns - _RATE_WINDOW_NS:
            self._shown_ns.popleft()
        if not self._frozen:
            self._frame = frame
            self._draw()

    def attend(self) -> bool:
        """Waits for an event and handles all that are there; whether the window is to stay."""
        pygame = self._pygame
        events = [pygame.event.wait(_PATIENCE_MS), *pygame.event.get()]
        changes = [self._handle(event) for event in events]  # each of them, and one picture for all
        if any(changes):
            self._draw()
        return not self._quit

    # -- events ----------------------------------------------------------------------------------------------------

    def _handle(self, event: Any) -> bool:
        """Acts on one event; whether the picture changed by it."""
        pygame = self._pygame
        if event.type == pygame.QUIT:
            self._quit = True
        elif event.type == pygame.MOUSEMOTION:
            left, _, width, _ = self._place
            self._split = min(max((event.pos[0] - left) / width, 0.0), 1.0)
            return True
        elif event.type == pygame.KEYDOWN:
            return self._press(event.key)
        return event.type in (pygame.VIDEORESIZE, pygame.VIDEOEXPOSE)

    def _press(self, key: int) -> bool:
        pygame, controls = self._pygame, self._controls
        if key in (pygame.K_q, pygame.K_ESCAPE):
            self._quit = True
        elif key == pygame.K_SPACE:
            self._frozen = not self._frozen
        elif key == pygame.K_f:
            self._full = not self._full
            self._set_mode()
        elif key == pygame.K_h:
            self._help = not self._help
        elif controls is None:
            return False
        elif key in (pygame.K_UP, pygame.K_DOWN):
            controls.add_strength(STRENGTH_STEP if key == pygame.K_UP else -STRENGTH_STEP)
        elif key == pygame.K_m:
            controls.next_model()
        elif key == pygame.K_s:
            controls.toggle_stabiliser()
        else:
            return False
        return True

    # -- drawing ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        pygame = self._pygame
        pygame.display.init()
        pygame.font.init()
        driver = pygame.display.get_driver()
        if driver in _SCREENLESS and os.environ.get("SDL_VIDEODRIVER") != driver:
            raise pygame.error("there is no screen")
        self._font = pygame.font.Font(None, _FONT_PX)
        self._desktop = pygame.display.get_desktop_sizes()[0]
        pygame.display.set_caption("streamer: before | after")
        self._set_mode()

    def _set_mode(self) -> None:
        pygame = self._pygame
        size, flags = (self._desktop, pygame.FULLSCREEN) if self._full else (self._natural_size(), pygame.RESIZABLE)
        pygame.display.set_mode(size, flags)

    def _natural_size(self) -> tuple[int, int]:
        width, height = displayed_size(self._frame.format)
        scale = min(Fraction(1), Fraction(self._desktop[0], width), Fraction(self._desktop[1], height))
        return max(1, int(width * scale)), max(1, int(height * scale))

    def _draw(self) -> None:
        pygame = self._pygame
        self._screen = pygame.display.get_surface()
        self._screen.fill(0)
        left, top, width, height = self._place
        split = round(self._split * width) if self._frame.source is not None else 0
        color = explicit((self._frame.source or self._frame).format).color
        for frame, begin, end in ((self._frame.source, 0, split), (self._frame, split, width)):
            if frame is not None and begin < end:
                part, offset = columns(frame, color, (width, height), begin, end)
                surface = pygame.image.frombuffer(part, (part.shape[1], part.shape[0]), "RGB")
                self._screen.set_clip((left + begin, top, end - begin, height))
                self._screen.blit(surface, (left + offset, top))
                self._screen.set_clip(None)
        if 0 < split < width:
            pygame.draw.line(self._screen, _WHITE, (left + split, top), (left + split, top + height - 1))
        for number, text in enumerate([self.status, "   ".join(HELP)] if self._help else [self.status]):
            self._write(text, number * _FONT_PX)
        pygame.display.flip()

    @property
    def _place(self) -> tuple[int, int, int, int]:
        """Where the picture lies in the window: left, top, width, height."""
        outer_w, outer_h = self._pygame.display.get_surface().get_size()
        width, height = displayed_size(self._frame.format)
        scale = min(Fraction(outer_w, width), Fraction(outer_h, height))
        inner_w, inner_h = max(1, int(width * scale)), max(1, int(height * scale))
        return (outer_w - inner_w) // 2, (outer_h - inner_h) // 2, inner_w, inner_h

    @property
    def status(self) -> str:
        """The line on the picture."""
        dropped = self._stats.lost
        parts = [f"{self._fps():.1f} frames/s", f"{self._latency_ms:.0f} ms", f"{dropped} dropped"]
        if self._controls is not None:
            controls = self._controls
            parts += [controls.model, f"strength {controls.strength:.1f}", f"stabiliser {controls.stabiliser}"]
        return "   ".join([*parts, *["frozen"] * self._frozen, *["H: help"] * (not self._help)])

    def _fps(self) -> float:
        shown = self._shown_ns
        return (len(shown) - 1) * 1e9 / (shown[-1] - shown[0]) if len(shown) > 1 else 0.0

    def _write(self, text: str, top: int) -> None:
        letters = self._font.render(text, True, _WHITE)
        shade = self._pygame.Surface((letters.get_width() + 8, _FONT_PX), self._pygame.SRCALPHA)
        shade.fill(_SHADE)
        self._screen.blit(shade, (0, top))
        self._screen.blit(letters, (4, top + 3))


def columns(
    frame: Frame, color: ColorSpec, size: tuple[int, int], begin: int, end: int
) -> tuple[npt.NDArray[np.uint8], int]:
    """The part of `frame`, seen as a picture of `size` (width, height), that covers the columns from `begin` to `end`.

    Gives uint8 RGB [height, about end - begin, 3] and the column where it begins; where the size isn't a multiple of
    the frame's, that may be off by half a pixel. `color` says what the frame's codes mean.
    """
    planes, format = upright(frame)
    block = 1 << format.layout.log2_chroma_w
    scale = Fraction(size[0], format.width)
    # Some columns more than are seen, so that the filters have what they need at the seam.
    first = max(0, int(begin / scale) // block - 4) * block
    last = min(format.width, (ceil(end / scale / block) + 4) * block)
    cut = tuple(
        plane[:, first:last] if number == 0 else plane[:, first // block : -(-last // block)]
        for number, plane in enumerate(planes)
    )
    part = replace(format, width=last - first, color=replace(color, chroma_location=format.color.chroma_location))
    return rgb_of(cut, part, max(1, round((last - first) * scale)), size[1]), round(first * scale)


def _pygame() -> Any:
    """The pygame module, without its greeting on standard output."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import pygame

    return pygame
