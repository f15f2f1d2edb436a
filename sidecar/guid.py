"""GUIDs as the network writes them: `8-4-4-4-12` hex or 32 hex digits, any case; canonical: lower, with dashes."""

from __future__ import annotations

import re
from uuid import UUID

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ACCEPTED = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def canonical_guid(text: str) -> str | None:
    """The canonical form of `text`, or None where it is not a GUID."""
    if _CANONICAL.fullmatch(text):
        return text
    if _ACCEPTED.fullmatch(text):
        return str(UUID(text))
    return None
