"""All rooms with someone of this replica in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

from sidecar.errors import Refusal, RefusalCode
from sidecar.signaling.envelope import Dialect, Envelope, Identity
from sidecar.signaling.room import Instruments, Member, Outlet, Participant, Presence, Room, RoomCounters


class Bus(Protocol):
    """How a room spans replicas. The rooms tell it what happens here; it tells the `Hub` what happened elsewhere.

    All calls are synchronous and never wait: what cannot be sent now is kept within a bound, or counted as lost.
    """

    def open(self, room: Room) -> None:
        """The first connection here is about to join: news of this room is wanted from now on."""

    def close(self, room: Room) -> None:
        """The last connection here left this room."""

    def settled(self, room_id: str) -> bool:
        """Whether those in this room elsewhere are known by now, as far as they can be."""

    async def settle(self, room_id: str) -> None:
        """Wait until they are, within a bound."""

    def joined(self, room_id: str, presence: Presence) -> None:
        """A connection joined here, or who it belongs to changed."""

    def left(self, room_id: str, presence: Presence) -> None:
        """A connection left here."""

    def publish(self, room_id: str, envelope: Envelope) -> None:
        """Pass a signal on to the replicas with others in this room, in the order published, each once."""


class RoomCounterBook(Protocol):
    """Where a room's counters live on when the room is empty."""

    def open(self, room_id: str) -> RoomCounters:
        """The counters a room counts on from now."""

    def close(self, room_id: str) -> None:
        """The room is empty."""


class Hub:
    """Rooms come with their first member here and go with their last."""

    def __init__(
        self,
        *,
        bus: Bus,
        schedule: Callable[[Callable[[], None]], object],
        instruments: Instruments,
        counters: RoomCounterBook,
        max_room_connections: int,
        max_connections_per_account: int,
    ) -> None:
        self.rooms: dict[str, Room] = {}
        self._connections_of: dict[str, int] = {}
        self._bus = bus
        self._schedule = schedule
        self._instruments = instruments
        self._counters = counters
        self._max_room_connections = max_room_connections
        self._max_connections_per_account = max_connections_per_account

    def check_space(self, room_id: str, account_id: str) -> None:
        """Look whether one more connection may join; true until the caller's next await.

        Raises:
            Refusal: ROOM_FULL, TOO_MANY_CONNECTIONS.
        """
        room = self.rooms.get(room_id)
        if room is not None and self._max_room_connections and room.size >= self._max_room_connections:
            raise Refusal(RefusalCode.ROOM_FULL, f"the room has its {self._max_room_connections} connections")
        most = self._max_connections_per_account
        if most and self._connections_of.get(account_id, 0) >= most:
            raise Refusal(RefusalCode.TOO_MANY_CONNECTIONS, f"this account has its {most} connections")

    @asynccontextmanager
    async def entering(self, room_id: str) -> AsyncIterator[bool]:
        """Keep a room open for someone about to join it, and wait until those in it elsewhere are known.

        Whether there was anything to wait for: if so, the caller's knowledge of everything else has aged.
        """
        room = self._open(room_id)
        room.expected += 1
        try:
            waits = not self._bus.settled(room_id)
            if waits:
                await self._bus.settle(room_id)
            yield waits
        finally:
            room.expected -= 1
            self._close_if_empty(room)

    def join(
        self,
        room_id: str,
        *,
        connection_id: str,
        identity: Identity,
        joined_at: float,
        dialect: Dialect,
        outlet: Outlet,
    ) -> tuple[Member, list[Participant]]:
        """A connection enters a room. Returns it as a member, and who was there before."""
        room = self._open(room_id)
        member = Member(
            connection_id=connection_id,
            identity=identity,
            joined_at=joined_at,
            dialect=dialect,
            room=room,
            outlet=outlet,
        )
        before = room.join(member)
        account_id = identity.account_id
        self._connections_of[account_id] = self._connections_of.get(account_id, 0) + 1
        return member, before

    def leave(self, member: Member) -> None:
        """A member leaves its room; the room goes with the last of this replica."""
        room = member.room
        room.leave(member)
        account_id = member.identity.account_id
        self._connections_of[account_id] -= 1
        if not self._connections_of[account_id]:
            del self._connections_of[account_id]
        self._close_if_empty(room)

    def _open(self, room_id: str) -> Room:
        room = self.rooms.get(room_id)
        if room is None:
            room = self.rooms[room_id] = Room(
                room_id,
                bus=self._bus,
                schedule=self._schedule,
                instruments=self._instruments,
                counters=self._counters.open(room_id),
            )
            self._bus.open(room)
        return room

    def _close_if_empty(self, room: Room) -> None:
        if not room.members and not room.expected:
            room.flush()
            del self.rooms[room.id]
            self._counters.close(room.id)
            self._bus.close(room)

    def members(self, room_id: str, account_id: str) -> list[Member]:
        """An account's connections in a room, on this replica."""
        room = self.rooms.get(room_id)
        if room is None:
            return []
        return [presence for presence in room.accounts.get(account_id, ()) if isinstance(presence, Member)]

    def connections(self) -> Iterable[Member]:
        """Every member on this replica."""
        for room in self.rooms.values():
            yield from room.members.values()
