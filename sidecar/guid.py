"""GUIDs as the network writes them: `8-4-4-4-12` hex or 32 hex digits, any case; canonical: lower, with dashes."""

from __future__ import annotations

import os
import re
from uuid import UUID

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_RANDOM = 0xFFFFFFFF_FFFF_0FFF_3FFF_FFFFFFFFFFFF
_VERSION_4 = 0x00000000_0000_4000_8000_000000000000
_ACCEPTED = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def canonical_guid(text: str) -> str | None:
    """The canonical form of `text`, or None where it is not a GUID."""
    if _CANONICAL.fullmatch(text):
        return text
    if _ACCEPTED.fullmatch(text):
        return str(UUID(text))
    return None


def new_guid() -> str:
    """A random one, canonical (RFC 9562 5.4): `uuid4` without the object in between, for each handshake needs one."""
    digits = f"{int.from_bytes(os.urandom(16)) & _RANDOM | _VERSION_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
