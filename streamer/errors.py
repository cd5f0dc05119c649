"""What can go wrong, as one small tree.

    StreamerError            exit code 1
    ├── UsageError           exit code 2: an argument is unknown or out of range
    ├── SourceError          the input can't be opened, read or decoded
    ├── SinkError            the output can't be created, encoded or written
    └── EnhanceError         a model or an engine can't do what was asked

A message says what was tried, on what, why it failed and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


class StreamerError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class UsageError(StreamerError, ValueError):
    """An argument is unknown, contradictory or out of range."""

    exit_code = 2


def check_known(kind: str, name: str, known: Sequence[str]) -> None:
    """Raises UsageError if `name` isn't one of `known`; `kind` is what the message calls them."""
    if name not in known:
        raise UsageError(f"there is no {kind} {name!r}: use one of {', '.join(known)}")


class SourceError(StreamerError):
    """An input can't be opened, read or decoded."""


class SinkError(StreamerError):
    """An output can't be created, encoded or written."""


class EnhanceError(StreamerError):
    """A model or an engine can't do what was asked of it."""


_USER_INFO = r"[^/?#\s]*@"
"""Up to the last @ before the path, as FFmpeg reads it."""
_UNESCAPED = r"[^/?#@:\[\s]*:(?!\d*[/?#])\S*@"
"""A user and a password in which / ? or # should have been escaped; a port may be followed by any @."""
_CREDENTIALS = re.compile(rf"(?P<scheme>[a-zA-Z][\w+.-]*://)(?:{_USER_INFO}|{_UNESCAPED})")
_SECRETS = re.compile(
    r"(?P<key>[?&](?:passphrase|password|pass|pwd|token|key|auth|sig|signature|secret|streamid)=)[^&\s]*", re.IGNORECASE
)
"""SRT's streamid is what servers take a user and a password from."""
_STREAM_KEY = re.compile(r"(?P<server>\brtmp[est]*://[^/\s]+/(?:[^/\s?]+/)+)[^/\s?]+", re.IGNORECASE)


def public_url(url: str) -> str:
    """`url` as it may appear in a log: user names, passwords, passphrases and RTMP stream keys replaced by `***`."""
    without_names = _CREDENTIALS.sub(r"\g<scheme>***@", url)
    return _STREAM_KEY.sub(r"\g<server>***", _SECRETS.sub(r"\g<key>***", without_names))


def reason_of(error: BaseException) -> str:
    """The shortest honest reason in `error`: an operating-system message or the first line of its text."""
    strerror = getattr(error, "strerror", None)
    text = str(strerror or error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line[0].lower() + line[1:] if line[:2].istitle() else line
