"""Times as the network writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

_SECONDS_KNOWN = 1024


def rfc3339(seconds: float) -> str:
    """A time since the epoch as RFC 3339 UTC with `Z`, to the millisecond."""
    second, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_to_the_second(second)}.{microseconds // 1000:03d}Z"


@lru_cache(_SECONDS_KNOWN)
def _to_the_second(second: int) -> str:
    """Those who come together share most of it."""
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()
