"""What a member of a room is, and what can become of one (docs/protocol.md, "Who may join")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec


class MemberKey(NamedTuple):
    """Which membership: both ids are canonical GUIDs (lower case, with dashes)."""

    room_id: str
    account_id: str


class Membership(msgspec.Struct, frozen=True, gc=False):
    """The chat service's answer about one account in one room. Times are seconds since the epoch."""

    key: MemberKey
    role: int
    joined_at: float | None
    leave_at: float | None
    timeout_until: float | None
    nick: str
    account_name: str
    account_nick: str
    profile: bytes
    """A JSON object; `{}` where the service sent none or one over `MAX_PROFILE_BYTES`."""
    updated_at: float | None

    def __repr__(self) -> str:
        """For logs: neither names nor profile."""
        return f"Membership({self.key}, active={self.is_active()}, timeout_until={self.timeout_until})"

    def is_active(self) -> bool:
        """Joined, not left, not suspended. A time-out is another matter: see `is_timed_out`."""
        return self.joined_at is not None and self.leave_at is None and self.role >= 0

    def is_timed_out(self, now: float) -> bool:
        """Whether `timeout_until` is after `now` (seconds since the epoch)."""
        return self.timeout_until is not None and self.timeout_until > now


@dataclass(frozen=True, slots=True)
class Ended:
    """Left, removed, suspended, or never there: no longer an active member."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Still a member, but not allowed to take part until `until` (seconds since the epoch)."""

    until: float


@dataclass(frozen=True, slots=True)
class Updated:
    """Still an active member; the role, a name or the profile is another than before."""

    membership: Membership


@dataclass(frozen=True, slots=True)
class Unverifiable:
    """The chat service could not be asked for longer than a live connection may rest on its last answer."""


MembershipChange = Ended | TimedOut | Updated | Unverifiable
"""What happened to a member with a live connection."""
