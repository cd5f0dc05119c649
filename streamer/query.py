"""Query parameters of URLs: FFmpeg's protocols take their options there."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit


def parameters(url: str) -> dict[str, str]:
    """The query parameters of `url`; of those with the same name the last one."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def with_defaults(url: str, defaults: dict[str, str]) -> str:
    """`url` with those of the query parameters `defaults` that it doesn't have yet."""
    present = parameters(url)
    missing = [f"{name}={value}" for name, value in defaults.items() if name not in present]
    return url + ("&" if "?" in url else "?") + "&".join(missing) if missing else url
