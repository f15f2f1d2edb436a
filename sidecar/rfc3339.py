"""Times as the network writes them."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

_encode = msgspec.json.encode
_TO_THE_SECOND = len('"1970-01-01T00:00:00')
_TO_THE_MILLISECOND = _TO_THE_SECOND + len(".000")


def rfc3339(seconds: float) -> str:
    """A time since the epoch as RFC 3339 UTC with `Z`, to the millisecond."""
    text = _encode(datetime.fromtimestamp(seconds, UTC)).decode()  # half the work of isoformat
    fraction = text[_TO_THE_SECOND:_TO_THE_MILLISECOND]
    return text[1:_TO_THE_SECOND] + (fraction if fraction[0] == "." else ".000") + "Z"
