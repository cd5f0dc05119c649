"""Silence in place of sound that is missing: where it is due, and how AAC says it."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any

import av

from streamer.clock import ticks

HOLE_S = Fraction(1, 20)
"""Longer holes are filled. Shorter ones come from clocks that are not exact, and no player stops for them."""
PATIENCE_S = Fraction(1, 2)
"""So far behind its picture sound may come before silence takes its place: RTSP and transport streams interleave so
loosely. A stream whose sound comes later still gets as much time as it takes, and _MARGIN_S."""
FIRST_PATIENCE_S = Fraction(1)
"""The same before the first sound has come: senders put up to 0.7 s of a quiet stream into one RTP packet."""
_MARGIN_S = Fraction(1, 10)
_LONGEST_S = 10
"""So far ahead of its picture sound is believed: until there holes are filled."""
_REMEMBERED = 50

LATE = f"sound that came more than {float(PATIENCE_S):g} s after its picture is left out: silence is in its place"

_AAC_SAMPLES = 1024
_STEADY = 3
"""The packet of silence that no longer says anything of how it began."""
_NO_EXTENSION = (b"", b"\x56\xe5\x00")
"""What may follow the two bytes that describe AAC-LC: nothing, or that there is no spectral band replication."""
_ADTS_BYTES = 7
_ADTS_BEGINS = (b"\xff\xf1", b"\xff\xf9")
"""Headers without a checksum, of MPEG-4 (ISO/IEC 14496-3) and MPEG-2 (ISO/IEC 13818-7)."""


class Continuity:
    """Where one stream of sound in an output has holes, and until when they are due to be filled.

    All times are the output's, in seconds; `begin_s` is the earliest at which there may be silence. A hole is due when
    sound goes on behind it, and in a `live` stream as soon as it is clear that no sound will come (see PATIENCE_S).
    """

    def __init__(self, begin_s: Fraction, *, live: bool) -> None:
        self.end_s = begin_s
        """Of the sound and silence so far."""
        self._live = live
        self._now_s = self._silent_to_s = Fraction(0)
        self._behind_s: deque[Fraction] = deque(maxlen=_REMEMBERED)

    def follow(self, picture_s: Fraction) -> None:
        """The pictures are there now."""
        self._now_s = picture_s

    def takes(self, begin_s: Fraction) -> bool:
        """Sound of this time has come: whether its time isn't filled already."""
        self._behind_s.append(self._now_s - begin_s)
        return begin_s >= self._silent_to_s

    def hole(self, until_s: Fraction) -> Fraction:
        """How much silence belongs between the sound so far and `until_s`; 0 if that isn't worth it, or absurd."""
        missing_s = until_s - self.end_s
        return missing_s if missing_s > HOLE_S and until_s <= self._now_s + _LONGEST_S else Fraction(0)

    def overdue_s(self, *, ends: bool = False) -> Fraction:
        """Until when there must be sound or silence by now; with `ends`, because nothing more will come."""
        if not self._live:
            return self.end_s
        if ends:
            return self._now_s
        if not self._behind_s:
            return self._now_s - FIRST_PATIENCE_S
        return self._now_s - max(PATIENCE_S, max(self._behind_s) + _MARGIN_S)

    def sound(self, begin_s: Fraction, duration_s: Fraction) -> None:
        """There is sound now."""
        self.end_s = begin_s + duration_s

    def silence(self, duration_s: Fraction) -> None:
        """There is silence behind the sound so far."""
        self.end_s = self._silent_to_s = self.end_s + duration_s


class SilentAac:
    """Packets of silence that fit into a stream of AAC-LC, mono or stereo, which is copied.

    A packet of AAC-LC (ISO/IEC 14496-3) stands alone but for the overlap of its window with its neighbours', so that
    packets of silence can follow, and be followed by, any of the same configuration. That is compared bit by bit, with
    the stream's own description where it has one, else with the ADTS header of each packet.
    """

    def __init__(self, description: bytes, payload: bytes, rate: int, *, has_headers: bool) -> None:
        self.duration_s = Fraction(_AAC_SAMPLES, rate)
        """Of one packet."""
        self._description, self._payload = description, payload
        self._header: bytes | None = None
        self._has_headers = has_headers

    @classmethod
    def like(cls, stream: Any) -> SilentAac | None:
        """For packets of this stream; None if it is anything else, or isn't certain to be AAC-LC."""
        context = stream.codec_context
        known = context.name == "aac" and context.layout.name in ("mono", "stereo")
        if not known or context.sample_rate not in (av.Codec("aac", "w").audio_rates or ()):
            return None
        description, payload = _encoded_silence(context.sample_rate, context.layout.name)
        given = bytes(context.extradata or b"")
        if given and (given[:2] != description or given[2:] not in _NO_EXTENSION):
            return None
        return cls(description, payload, context.sample_rate, has_headers=not given)

    def learn(self, packet: Any) -> None:
        """A packet of the stream: it may have a header, which says what it is."""
        if not self._has_headers:
            return
        head = bytes(packet)[:_ADTS_BYTES]
        self._header = head if _describes(head, self._description) else None

    @property
    def is_ready(self) -> bool:
        """Whether the stream has said what it is."""
        return self._header is not None or not self._has_headers

    def packet(self, begin_s: Fraction) -> Any:
        """One packet of silence at this time."""
        head = b"" if self._header is None else _with_length(self._header, len(self._payload))
        made: Any = av.Packet(head + self._payload)
        made.time_base = self.duration_s / _AAC_SAMPLES
        made.pts = made.dts = ticks(begin_s, made.time_base)
        made.duration, made.is_keyframe = _AAC_SAMPLES, True
        return made


def _encoded_silence(rate: int, layout: str) -> tuple[bytes, bytes]:
    """The first two bytes of an AudioSpecificConfig, and a packet."""
    encoder: Any = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, layout, "fltp"
    encoder.time_base = Fraction(1, rate)
    packets: list[Any] = []
    while len(packets) <= _STEADY:
        packets += encoder.encode(silent_frame("fltp", layout, rate, _AAC_SAMPLES))
    return bytes(encoder.extradata)[:2], bytes(packets[_STEADY])


def silent_frame(format: str, layout: str, rate: int, samples: int) -> Any:
    """So many samples of silence, in a format with signed or floating-point samples, without a time."""
    frame: Any = av.AudioFrame(format, layout, samples)
    frame.sample_rate = rate
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    return frame


def _describes(head: bytes, description: bytes) -> bool:
    """Whether an ADTS header says of its packet what an AudioSpecificConfig says of a stream."""
    if len(head) < _ADTS_BYTES or head[:2] not in _ADTS_BEGINS:
        return False
    profile, rate, channels = head[2] >> 6, head[2] >> 2 & 15, (head[2] & 1) << 2 | head[3] >> 6
    return (profile + 1) << 11 | rate << 7 | channels << 3 == int.from_bytes(description, "big")


def _with_length(head: bytes, payload_bytes: int) -> bytes:
    """The header for a payload of another length: 13 bits, from bit 30; then the fullness, here unknown, one block."""
    length = _ADTS_BYTES + payload_bytes
    return bytes([*head[:3], head[3] & 0xFC | length >> 11, length >> 3 & 0xFF, (length & 7) << 5 | 0x1F, 0xFC])
