"""The trace a request belongs to (W3C Trace Context, section 3.2)."""

from __future__ import annotations

import re
import secrets

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace_id>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


def trace_id(traceparent: str | None) -> str:
    """The trace id of an incoming `traceparent`, else a new one: 32 hex digits."""
    match = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    return match["trace_id"] if match else secrets.token_hex(16)
