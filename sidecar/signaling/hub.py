"""All rooms with someone of this replica in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from sidecar.errors import Refusal, RefusalCode
from sidecar.signaling.counters import RoomCounterBook
from sidecar.signaling.envelope import Dialect, Identity
from sidecar.signaling.outlet import Outlet
from sidecar.signaling.presence import Member
from sidecar.signaling.room import Bus, Instruments, Participant, Room, Schedule


class Entering:
    """`with` it, a room stays open for someone about to join it."""

    __slots__ = ("_bus", "_close_room", "_open_room", "_room", "_room_id")

    def __init__(
        self,
        room_id: str,
        *,
        bus: Bus,
        open_room: Callable[[str], Room],
        close_room: Callable[[Room], None],
    ) -> None:
        self._room_id = room_id
        self._bus = bus
        self._open_room = open_room
        self._close_room = close_room

    def __enter__(self) -> Self:
        self._room = self._open_room(self._room_id)
        self._room.expected += 1
        return self

    def __exit__(self, *_error: object) -> None:
        self._room.expected -= 1
        self._close_room(self._room)

    @property
    def settled(self) -> bool:
        """Whether those in it elsewhere are known."""
        return self._bus.settled(self._room_id)

    async def settle(self) -> None:
        """Wait until they are; what the caller knows otherwise has aged then."""
        await self._bus.settle(self._room_id)


class Hub:
    """Rooms come with their first member here and go with their last."""

    def __init__(
        self,
        *,
        bus: Bus,
        schedule: Schedule,
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

    def entering(self, room_id: str) -> Entering:
        """Someone is about to join a room: they wait until it is `settled`."""
        return Entering(room_id, bus=self._bus, open_room=self._open, close_room=self._close_if_empty)

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
        """A connection enters a room: as a member, or by a bug not at all. Also returns who was there before."""
        room = self._open(room_id)
        try:
            member = Member(
                connection_id=connection_id,
                identity=identity,
                joined_at=joined_at,
                dialect=dialect,
                room=room,
                outlet=outlet,
            )
            before = room.join(member)
        except Exception:
            self._close_if_empty(room)
            raise
        account_id = identity.account_id
        self._connections_of[account_id] = self._connections_of.get(account_id, 0) + 1
        try:
            self._bus.joined(room_id, member)
        except Exception:
            self.leave(member)
            raise
        return member, before

    def leave(self, member: Member) -> None:
        """A member leaves its room; the room goes with the last of this replica. Again: what a bug kept from it."""
        room = member.room
        try:
            if member.connection_id in room.members:
                room.leave(member)
                account_id = member.identity.account_id
                self._connections_of[account_id] -= 1
                if not self._connections_of[account_id]:
                    del self._connections_of[account_id]
                self._bus.left(room.id, member)
        finally:
            self._close_if_empty(room)

    def _open(self, room_id: str) -> Room:
        room = self.rooms.get(room_id)
        if room is None:
            counters = self._counters.open(room_id)
            try:
                room = Room(
                    room_id,
                    bus=self._bus,
                    schedule=self._schedule,
                    instruments=self._instruments,
                    counters=counters,
                )
                self._bus.open(room)
            except Exception:
                self._counters.close(room_id)
                raise
            self.rooms[room_id] = room
        return room

    def _close_if_empty(self, room: Room) -> None:
        if not room.members and not room.expected and self.rooms.get(room.id) is room:
            del self.rooms[room.id]
            self._counters.close(room.id)
            self._bus.close(room)

    def members(self, room_id: str, account_id: str) -> list[Member]:
        """An account's connections in a room, on this replica."""
        room = self.rooms.get(room_id)
        if room is None:
            return []
        return [presence for presence in room.accounts.get(account_id, ()) if isinstance(presence, Member)]
