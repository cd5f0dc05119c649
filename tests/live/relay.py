"""The RTSP server of the live tests, which the latency benchmark uses too."""

from __future__ import annotations

from benchmarks.relay import LIMIT_S, Client, RtspRelay

__all__ = ["LIMIT_S", "Client", "RtspRelay"]
