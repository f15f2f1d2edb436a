"""Who is in a room, and what was said: synchronous, so that no packet slips between a check and what rests on it.

A room collects what it is told during one tick of the loop and then writes once to each member. Members here have
an outlet; presences elsewhere (other replicas) are told of by the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sidecar.signaling.envelope import Dialect, Envelope, Identity, Stamps, payload_size
from sidecar.signaling.packets import PacketError, PacketErrorCode, Signal

if TYPE_CHECKING:
    from sidecar.signaling.hub import Bus

MESSAGE_TYPES = ("offer", "answer", "ice-candidate", "other")


class Outlet(Protocol):
    """Where the packets for one member go. Never waits."""

    def write(self, frames: bytes, packets: int) -> None:
        """Send whole frames."""


class Instruments(Protocol):
    """What rooms measure of themselves; both in seconds."""

    def relayed(self, seconds: float) -> None:
        """A signal was read and is now written to every local receiver."""

    def answered(self, seconds: float) -> None:
        """An offer found its first answer."""


class Presence:
    """A connection in a room, on this replica or another."""

    __slots__ = ("connection_id", "identity", "joined_at")

    def __init__(self, *, connection_id: str, identity: Identity, joined_at: float) -> None:
        self.connection_id = connection_id
        self.identity = identity
        self.joined_at = joined_at
        """Seconds since the epoch."""


class Member(Presence):
    """A connection in a room on this replica."""

    __slots__ = ("dialect", "offered_at", "outlet", "room", "stamps")

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
        self.stamps: Stamps | None = None
        """What ends its signals, kept from its first one on."""


class Participant(NamedTuple):
    """An account in a room, with all its connections."""

    identity: Identity
    joined_at: float
    connection_ids: list[str]


class RoomCounters:
    """What passed through a room on this replica: relayed signals only, payload bytes. Only ever grows."""

    __slots__ = ("bytes_delivered", "bytes_received", "delivered", "received")

    def __init__(self) -> None:
        self.received = dict.fromkeys(MESSAGE_TYPES, 0)
        self.bytes_received = 0
        self.delivered = 0
        self.bytes_delivered = 0


class Room:
    """One room as this replica sees it.

    Promises: what one connection sends reaches each receiver in the order sent; nobody receives what their own
    connection sent; a packet carries the identity of the presence it came from and never leaves the room.
    """

    __slots__ = (
        "_bus",
        "_dialects",
        "_instruments",
        "_pending",
        "_schedule",
        "accounts",
        "counters",
        "expected",
        "id",
        "members",
        "remotes",
    )

    def __init__(
        self,
        room_id: str,
        *,
        bus: Bus,
        schedule: Callable[[Callable[[], None]], object],
        instruments: Instruments,
        counters: RoomCounters,
    ) -> None:
        self.id = room_id
        self.counters = counters
        self.accounts: dict[str, list[Presence]] = {}
        """Everyone here by account, each account's connections in the order they came."""
        self.members: dict[str, Member] = {}
        """The connections on this replica, by connection id."""
        self.remotes: dict[str, Presence] = {}
        """The connections on other replicas, by connection id."""
        self.expected = 0
        """Connections on their way in: the room stays open for them."""
        self._dialects: dict[Dialect, int] = {}
        self._pending: list[tuple[Envelope, list[Member] | None]] = []
        self._bus = bus
        self._schedule = schedule
        self._instruments = instruments

    @property
    def size(self) -> int:
        """Connections in this room, on all replicas."""
        return len(self.members) + len(self.remotes)

    def local_accounts(self) -> int:
        """Accounts with a connection on this replica."""
        if not self.remotes:
            return len(self.accounts)
        return len({member.identity.account_id for member in self.members.values()})

    def participants(self) -> Iterator[Participant]:
        """Everyone present, the longest here first."""
        everyone = self.accounts.values()
        for presences in sorted(everyone, key=_joined_at) if self.remotes else everyone:
            ids = [presence.connection_id for presence in presences]
            yield Participant(presences[0].identity, _joined_at(presences), ids)

    def join(self, member: Member) -> list[Participant]:
        """Add a member; everyone else is told. Returns who was there before, for the member's welcome."""
        self.flush()  # what was said before is not for the newcomer
        before = list(self.participants())
        self.members[member.connection_id] = member
        self._dialects[member.dialect] = self._dialects.get(member.dialect, 0) + 1
        self._appear(member)
        self._bus.joined(self.id, member)
        return before

    def leave(self, member: Member) -> None:
        """Take a member out; everyone else is told."""
        del self.members[member.connection_id]
        self._dialects[member.dialect] -= 1
        if not self._dialects[member.dialect]:
            del self._dialects[member.dialect]
        self._vanish(member)
        self._bus.left(self.id, member)

    def post(self, member: Member, signal: Signal, *, size: int, received_at: float) -> None:
        """A member says something: `size` is the payload bytes it took, `received_at` when it was read.

        Raises:
            PacketError: TARGET_NOT_IN_ROOM.
        """
        kind = signal.type
        stamps = member.stamps
        if stamps is None:
            stamps = member.stamps = {}
        envelope = Envelope(
            type=kind,
            data=signal.data,
            sender=member.identity,
            sender_connection=member.connection_id,
            to=signal.to,
            to_connection=signal.to_connection,
            received_at=received_at,
            stamps=stamps,
        )
        targets = None
        if signal.to is not None or signal.to_connection is not None:
            targets = self._targets(envelope)
            if not targets:
                raise PacketError(
                    PacketErrorCode.TARGET_NOT_IN_ROOM, "nobody else in this room has that address"
                )
        counters = self.counters
        counters.received[kind if kind in counters.received else "other"] += 1
        counters.bytes_received += size
        if kind == "offer":
            member.offered_at = received_at
        self._deliver(envelope, targets)
        if targets is None or any(target.connection_id in self.remotes for target in targets):
            self._bus.publish(self.id, envelope)

    def receive(self, envelope: Envelope) -> None:
        """A connection on another replica said something."""
        self._deliver(envelope, self._targets(envelope))

    def appear(self, presence: Presence) -> None:
        """A connection joined on another replica, or who it belongs to changed."""
        known = self.remotes.get(presence.connection_id)
        if known is not None:
            known.identity = presence.identity
            return
        self.remotes[presence.connection_id] = presence
        self._appear(presence)

    def vanish(self, connection_id: str) -> None:
        """A connection on another replica is gone."""
        presence = self.remotes.pop(connection_id, None)
        if presence is not None:
            self._vanish(presence)

    def identify(self, member: Member, identity: Identity) -> None:
        """The chat service changed a name, nick or profile: later packets carry the new one."""
        member.identity = identity
        member.stamps = None
        self._bus.joined(self.id, member)

    def _appear(self, presence: Presence) -> None:
        account_id = presence.identity.account_id
        there = self.accounts.get(account_id)
        if there is None:
            there = self.accounts[account_id] = [
                presence
            ]  # of this size exactly: most accounts stay with one
        else:
            there.append(presence)
        self._announce("user-joined" if len(there) == 1 else "connection-joined", presence)

    def _vanish(self, presence: Presence) -> None:
        account_id = presence.identity.account_id
        there = self.accounts[account_id]
        there.remove(presence)
        if not there:
            del self.accounts[account_id]
        self._announce("connection-left" if there else "user-left", presence)

    def _announce(self, type: str, presence: Presence) -> None:  # noqa: A002 - the wire's word
        self._enqueue(
            Envelope(
                type=type, data=b"{}", sender=presence.identity, sender_connection=presence.connection_id
            ),
            None,
        )

    def _targets(self, envelope: Envelope) -> list[Presence] | None:
        """Whom an addressed envelope is for, never the sending connection; None: everyone else."""
        if envelope.to_connection is not None:
            one = self.members.get(envelope.to_connection) or self.remotes.get(envelope.to_connection)
            if one is None or (envelope.to is not None and one.identity.account_id != envelope.to):
                return []
            return [] if one.connection_id == envelope.sender_connection else [one]
        if envelope.to is None:
            return None
        return [
            presence
            for presence in self.accounts.get(envelope.to, ())
            if presence.connection_id != envelope.sender_connection
        ]

    def _deliver(self, envelope: Envelope, targets: list[Presence] | None) -> None:
        here = None if targets is None else [target for target in targets if isinstance(target, Member)]
        if envelope.type == "answer":
            for member in self.members.values() if here is None else here:
                if member.offered_at and member.connection_id != envelope.sender_connection:
                    self._instruments.answered(envelope.received_at - member.offered_at)
                    member.offered_at = 0.0
        if here is None or here:
            self._enqueue(envelope, here)

    def _enqueue(self, envelope: Envelope, targets: list[Member] | None) -> None:
        if not self._pending:
            self._schedule(self.flush)
        self._pending.append((envelope, targets))

    def flush(self) -> None:
        """Write what was said since the last flush: once per member, each in the order it was said."""
        pending, self._pending = self._pending, []
        if len(pending) == 1:
            envelope, targets = pending[0]
            if targets is not None:
                self._write_directed(envelope, targets)
            elif len(self._dialects) == 1:
                self._write_one(envelope)
            else:
                self._write_many(pending)
        elif pending:
            self._write_many(pending)
        now = monotonic()
        for envelope, _ in pending:
            if envelope.received_at:
                self._instruments.relayed(now - envelope.received_at)

    def _write_one(self, envelope: Envelope) -> None:
        """The usual tick: one signal, to everyone else, in the one dialect that is spoken here."""
        (dialect,) = self._dialects
        frame = envelope.frame(dialect)
        receivers = list(self.members.values())  # a slow one may be closed while written to
        origin = self.members.get(envelope.sender_connection)
        if origin is not None:
            receivers.remove(origin)
        if envelope.received_at:
            self.counters.delivered += len(receivers)
            self.counters.bytes_delivered += len(receivers) * payload_size(frame)
        for member in receivers:
            member.outlet.write(frame, 1)

    def _write_directed(self, envelope: Envelope, targets: list[Member]) -> None:
        """A tick with one signal for a few."""
        for member in targets:
            if member.connection_id in self.members:
                frame = envelope.frame(member.dialect)
                self.counters.delivered += 1
                self.counters.bytes_delivered += payload_size(frame)
                member.outlet.write(frame, 1)

    def _write_many(self, pending: list[tuple[Envelope, list[Member] | None]]) -> None:
        members = self.members
        to_all: dict[Dialect, list[bytes]] = {dialect: [] for dialect in self._dialects}
        apart: dict[Member, _Share] = {}  # members that do not get exactly what is said to all
        for envelope, targets in pending:
            if targets is None:
                origin = members.get(envelope.sender_connection)
                if origin is not None:
                    _share(apart, origin, to_all)
                for dialect, frames in to_all.items():
                    frames.append(envelope.frame(dialect))
                if origin is not None:
                    apart[origin].taken += 1  # its own: passed over
                self._count(envelope, self._dialects, origin)
            else:
                present = [target for target in targets if target.connection_id in members]
                for target in present:
                    _share(apart, target, to_all).append(envelope.frame(target.dialect))
                self._count(envelope, _by_dialect(present), None)
        self._write(to_all, apart)

    def _write(self, to_all: dict[Dialect, list[bytes]], apart: dict[Member, _Share]) -> None:
        """Shared bytes to those who get just what is said to all; to the others, their own."""
        shared = {dialect: (b"".join(frames), len(frames)) for dialect, frames in to_all.items() if frames}
        if shared:
            for member in list(self.members.values()):  # a slow one may be closed while written to
                if member not in apart:
                    frames, packets = shared[member.dialect]
                    member.outlet.write(frames, packets)
        for member in apart:
            own = _share(apart, member, to_all)
            if own:
                member.outlet.write(b"".join(own), len(own))

    def _count(self, envelope: Envelope, receivers: dict[Dialect, int], origin: Member | None) -> None:
        """Count deliveries of relayed signals; presence is ours and not counted."""
        if not envelope.received_at:
            return
        counters = self.counters
        for dialect, number in receivers.items():
            without_origin = number - (origin is not None and origin.dialect is dialect)
            counters.delivered += without_origin
            counters.bytes_delivered += without_origin * payload_size(envelope.frame(dialect))


def _joined_at(presences: list[Presence]) -> float:
    """Since when an account is here; connections elsewhere may be told of later than they came."""
    return min(presence.joined_at for presence in presences)


class _Share:
    """What one member gets of a flush, where it is not just what all get."""

    __slots__ = ("frames", "taken")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.taken = 0
        """How many of the frames to all it has, or has passed over."""


def _share(apart: dict[Member, _Share], member: Member, to_all: dict[Dialect, list[bytes]]) -> list[bytes]:
    """The frames of a member apart, up to date with what was said to all so far."""
    share = apart.get(member)
    if share is None:
        share = apart[member] = _Share()
    frames = to_all[member.dialect]
    if share.taken < len(frames):
        share.frames += frames[share.taken :]
        share.taken = len(frames)
    return share.frames


def _by_dialect(members: list[Member]) -> dict[Dialect, int]:
    numbers: dict[Dialect, int] = {}
    for member in members:
        numbers[member.dialect] = numbers.get(member.dialect, 0) + 1
    return numbers
