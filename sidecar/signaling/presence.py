"""Who is in a room."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from sidecar.signaling.envelope import NO_STAMPS, Dialect, Identity, Stamps

if TYPE_CHECKING:
    from sidecar.signaling.room import Room


class Sink(Protocol):
    """Takes whole frames and never waits."""

    def write(self, data: bytes, /) -> None:
        """Send them."""


class Outlet(ABC):
    """Where the packets for one member go: to the sink it has at the moment. Who writes there counts them.

    A base class for the sake of its slots: they stand at the front of a connection, and are all that a delivery touches
    of its receiver. In one of many rooms each cache line more is a way to memory.
    """

    __slots__ = ("packets_out", "sink")

    def __init__(self, sink: Sink) -> None:
        self.packets_out = 0
        self.sink = sink

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """End this connection, and no other: a bug of ours kept packets from it."""


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
