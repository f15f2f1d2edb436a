"""Who is in a room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.signaling.envelope import NO_STAMPS, Dialect, Identity, Stamps
from sidecar.signaling.outlet import Outlet

if TYPE_CHECKING:
    from sidecar.signaling.room import Room


class Presence:
    """A connection in a room, on this replica or another."""

    __slots__ = ("connection_id", "identity", "joined_at", "stamps")

    def __init__(self, *, connection_id: str, identity: Identity, joined_at: float) -> None:
        self.connection_id = connection_id
        self.identity = identity
        self.joined_at = joined_at
        """Seconds since the epoch."""
        self.stamps = NO_STAMPS
        """Kept from its first signal on."""

    def identify(self, identity: Identity, stamps: Stamps = NO_STAMPS) -> None:
        """Who it belongs to changed; `stamps` are those made of that already."""
        self.identity, self.stamps = identity, stamps


class Member(Presence):
    """A connection in a room on this replica."""

    __slots__ = ("dialect", "offered_at", "outlet", "room")

    def __init__(
        self,
        *,
        connection_id: str,
        identity: Identity,
        joined_at: float,
        dialect: Dialect,
        room: Room,
        outlet: Outlet,
    ) -> None:
        super().__init__(connection_id=connection_id, identity=identity, joined_at=joined_at)
        self.dialect = dialect
        self.room = room
        self.outlet = outlet
        self.offered_at = 0.0
        """When its unanswered offer was read, on the monotonic clock; 0 where there is none."""
