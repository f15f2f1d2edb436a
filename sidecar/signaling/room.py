"""Who is in a room, and what was said: synchronous, so that no packet slips between a check and what rests on it.

Where much is said it is collected for a tick of the loop and then written once to each member; what has nothing to wait
for is written at once. Members here have an outlet; presences elsewhere (other replicas) are told of by the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from time import monotonic
from typing import Final, NamedTuple, Protocol

from sidecar.signaling.counters import RoomCounters
from sidecar.signaling.delivery import Said, Talk, for_one, put_together
from sidecar.signaling.envelope import NO_STAMPS, Dialect, Envelope, Identity, stamp, with_stamp
from sidecar.signaling.outlet import Outlet, write_to
from sidecar.signaling.packets import PacketError, PacketErrorCode, Signal
from sidecar.signaling.presence import Member, Presence


class Bus(Protocol):
    """How a room spans replicas. The rooms tell it what happens here; it tells them what happened elsewhere.

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


class Instruments(Protocol):
    """What rooms measure of themselves; both in seconds."""

    next_sample: float
    """When the next relay is wanted in full, on the monotonic clock; infinity: never."""

    def relayed(self, seconds: float) -> None:
        """A signal was read and is now written to every local receiver."""

    def answered(self, seconds: float) -> None:
        """An offer found its first answer."""

    def sampled(self, room_id: str, type: str, seconds: float) -> None:  # noqa: A002 - the wire's word
        """A relay after `next_sample`, which this puts off; it is among the `relayed` too."""


Schedule = Callable[[Callable[[], None]], None]
"""Calls the work it is given when what can be read now has been read, or sooner: one for all rooms."""


class Participant(NamedTuple):
    """An account in a room, with all its connections."""

    identity: Identity
    joined_at: float
    connection_ids: list[str]


SPARSE_SECONDS = 0.002
"""After so long without a word in the room hardly anything comes in one tick with the next: it is written at once."""

_NOBODY: Final[dict[str, Presence]] = {}
"""The others of every room that has all its people on this replica: one dict for all, never written to."""
_ONLY = {dialect: (dialect,) for dialect in Dialect}
"""What most rooms speak: one tuple for all of them, not one each."""


class Room:
    """One room as this replica sees it.

    Promises: what one connection sends reaches each receiver in the order sent; nobody receives what their own
    connection sent; a packet carries the identity of the presence it came from and never leaves the room.
    """

    __slots__ = (
        "_bus",
        "_dialects",
        "_instruments",
        "_outlets",
        "_said",
        "_schedule",
        "_talk",
        "accounts",
        "collects_until",
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
        schedule: Schedule,
        instruments: Instruments,
        counters: RoomCounters,
    ) -> None:
        self.id = room_id
        self.counters = counters
        self.accounts: dict[str, tuple[Presence, ...]] = {}
        """Everyone here by account, each account's connections in the order they came."""
        self.members: dict[str, Member] = {}
        """The connections on this replica, by connection id."""
        self.remotes = _NOBODY
        """The connections on other replicas, by connection id."""
        self.expected = 0
        """Connections on their way in: the room stays open for them."""
        self.collects_until = 0.0
        """What is said to all before this, on the monotonic clock, waits for the end of its tick. Infinity while that
        pays, because the last time several signals left together; 0 after it was one alone."""
        self._dialects: tuple[Dialect, ...] = ()  # those the members here speak
        self._outlets: tuple[Outlet, ...] = ()  # theirs, in the order they came
        # Since the last flush: what members said to all others, or if there was more than that, all there was.
        self._talk: Talk | None = None
        self._said: list[Said] | None = None
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
        """Add a member; everyone else is told. Returns who was there before, for the member's welcome.

        A bug of ours leaves everything as it was.
        """
        self.flush()  # what was said before is not for the newcomer
        before = list(self.participants())
        dialects = self._dialects
        if member.dialect not in dialects:
            dialects += _ONLY[member.dialect]
        self._appear(member, dialects)  # after this nothing fails
        self.members[member.connection_id] = member
        self._outlets += (member.outlet,)
        self._dialects = dialects
        return before

    def leave(self, member: Member) -> None:
        """Take a member out; everyone else is told. A bug of ours leaves everything as it was."""
        self._vanish(member)
        del self.members[member.connection_id]
        self._outlets = tuple([other.outlet for other in self.members.values()])
        if all(other.dialect is not member.dialect for other in self.members.values()):
            self._dialects = tuple(dialect for dialect in self._dialects if dialect is not member.dialect)

    def post(
        self, member: Member, signal: Signal, *, size: int, received_at: float, last: bool = False
    ) -> None:
        """A member says something: `size` is the payload bytes it took, `received_at` when it was read.

        If `last`, nothing else was read after it.

        Raises:
            PacketError: TARGET_NOT_IN_ROOM.
        """
        kind = signal.type
        envelope = Envelope(
            type=kind,
            data=signal.data,
            sender=member,
            to=signal.to,
            to_connection=signal.to_connection,
            received_at=received_at,
        )
        targets = None
        if signal.to is not None or signal.to_connection is not None:
            targets = self._targets(envelope)
            if not targets:
                raise PacketError(
                    PacketErrorCode.TARGET_NOT_IN_ROOM, "nobody else in this room has that address"
                )
            self._deliver(envelope, targets)
        elif len(self._dialects) != 1 or self._said is not None:
            self._deliver(envelope, None)
        elif (
            last
            and self._talk is None
            and (
                len(self._outlets) == 2  # noqa: PLR2004 - who hears only from one other: nothing to collect
                or received_at >= self.collects_until
            )
        ):
            self._tell_at_once(member, envelope)
        else:
            self._tell_all(member.outlet, envelope)
        counters = self.counters
        counters.bytes_received += size
        if kind == "offer":
            counters.offers += 1
            member.offered_at = received_at
        elif kind == "answer":
            counters.answers += 1
        elif kind == "ice-candidate":
            counters.candidates += 1
        else:
            counters.others += 1
        if targets is None or (self.remotes and self._is_elsewhere(targets)):
            self._bus.publish(self.id, envelope)

    def receive(self, envelope: Envelope) -> None:
        """A connection on another replica said something."""
        targets = self._targets(envelope)
        if targets is not None or len(self._dialects) != 1 or self._said is not None:
            self._deliver(envelope, targets)
        else:
            self._tell_all(None, envelope)

    def appear(self, presence: Presence) -> None:
        """A connection joined on another replica, or who it belongs to changed."""
        known = self.remotes.get(presence.connection_id)
        if known is not None:
            known.identify(presence.identity)
            return
        self._appear(presence, self._dialects)
        if not self.remotes:
            self.remotes = {}
        self.remotes[presence.connection_id] = presence

    def vanish(self, connection_id: str) -> None:
        """A connection on another replica is gone."""
        presence = self.remotes.pop(connection_id, None)
        if presence is not None:
            self._vanish(presence)

    def identify(self, member: Member, identity: Identity) -> None:
        """The chat service changed a name, nick or profile: later packets carry the new one."""
        made = stamp(member.dialect, identity, member.connection_id)
        member.identify(identity, with_stamp(NO_STAMPS, member.dialect, made))
        self._bus.joined(self.id, member)

    def _appear(self, presence: Presence, dialects: Sequence[Dialect]) -> None:
        account_id = presence.identity.account_id
        there = self.accounts.get(account_id, ())
        arrival = _presence_signal("connection-joined" if there else "user-joined", presence)
        for dialect in dialects:  # now: nobody is here who could not be told of
            arrival.frame(dialect)
        if self.members:
            self._say(arrival, None)
        self.accounts[account_id] = (*there, presence)

    def _vanish(self, presence: Presence) -> None:
        account_id = presence.identity.account_id
        there = tuple(other for other in self.accounts[account_id] if other is not presence)
        self._say(_presence_signal("connection-left" if there else "user-left", presence), None)
        if there:
            self.accounts[account_id] = there
        else:
            del self.accounts[account_id]

    def _targets(self, envelope: Envelope) -> list[Presence] | None:
        """Whom an addressed envelope is for, never the sending connection; None: everyone else."""
        if envelope.to_connection is not None:
            one = self.members.get(envelope.to_connection) or self.remotes.get(envelope.to_connection)
            if one is None or (envelope.to is not None and one.identity.account_id != envelope.to):
                return []
            return [] if one is envelope.sender else [one]
        if envelope.to is None:
            return None
        return [
            presence for presence in self.accounts.get(envelope.to, ()) if presence is not envelope.sender
        ]

    def _tell_at_once(self, member: Member, envelope: Envelope) -> None:
        """Write to all others, who speak the sender's dialect."""
        frame, size = envelope.encode(member.dialect)
        if envelope.type == "answer":
            self._answered(envelope, self.members.values())
        outlets = self._outlets
        write_to(outlets, frame, 1, but=member.outlet)
        counters, deliveries = self.counters, len(outlets) - 1
        counters.delivered += deliveries
        counters.bytes_delivered += deliveries * size
        self.collects_until = envelope.received_at + SPARSE_SECONDS
        self._relayed((envelope,), monotonic())

    def _tell_all(self, speaker: Outlet | None, envelope: Envelope) -> None:
        """Encode now, where a bug is still its sender's; write at the end of the tick to all but the speaker.

        Everybody here speaks one dialect. `speaker` None: somebody on another replica.
        """
        frame, size = envelope.encode(self._dialects[0])
        if envelope.type == "answer":
            self._answered(envelope, self.members.values())
        talk = self._talk
        if talk is None:
            self._schedule(self.flush)
            talk = self._talk = Talk(speaker)
        talk.add(speaker, envelope, frame, size)

    def _is_elsewhere(self, presences: list[Presence]) -> bool:
        """Whether one of them is on another replica."""
        return any(presence.connection_id in self.remotes for presence in presences)

    def _deliver(self, envelope: Envelope, targets: list[Presence] | None) -> None:
        """Encode now, where a bug is still its sender's; write at the end of the tick."""
        here: list[Member] | None = None
        if targets is None:
            for dialect in self._dialects:
                envelope.frame(dialect)
        else:
            here = []
            for target in targets:
                if isinstance(target, Member):
                    envelope.frame(target.dialect)
                    here.append(target)
        if envelope.type == "answer":
            self._answered(envelope, self.members.values() if here is None else here)
        if here is None or here:
            self._say(envelope, here)

    def _answered(self, envelope: Envelope, receivers: Iterable[Member]) -> None:
        for member in receivers:
            if member.offered_at and member is not envelope.sender:
                self._instruments.answered(envelope.received_at - member.offered_at)
                member.offered_at = 0.0

    def _say(self, envelope: Envelope, targets: list[Member] | None) -> None:
        said = self._said
        if said is None:
            talk, self._talk = self._talk, None
            if talk is None:
                self._schedule(self.flush)
            said = self._said = [] if talk is None else talk.said(self._dialects[0])
        said.append((envelope, targets))

    def flush(self) -> None:
        """Write what was said since the last flush: once per member, each in the order it was said.

        Raises:
            Exception: a bug of ours. Everyone here has been written to all the same, or is ended.
        """
        talk, said = self._talk, self._said
        try:
            if talk is not None:
                shares, deliveries, size = talk.put_together(self._outlets)
            elif said is not None:
                shares, deliveries, size = put_together(
                    said, members=self.members, outlets=self._outlets, dialects=self._dialects
                )
            else:
                return
        except Exception:
            self._write_one_by_one()
            raise
        self._talk = self._said = None
        for receivers, frames in shares:
            packets = len(frames)
            write_to(receivers, frames[0] if packets == 1 else b"".join(frames), packets)
        counters = self.counters
        counters.delivered += deliveries
        counters.bytes_delivered += size
        now = monotonic()
        if talk is not None:
            self.collects_until = inf if len(talk.envelopes) > 1 else 0.0
            self._relayed(talk.envelopes, now)
        for envelope, _ in said or ():
            if envelope.received_at:
                self._relayed((envelope,), now)

    def _relayed(self, signals: Sequence[Envelope], now: float) -> None:
        """One at least."""
        instruments = self._instruments
        relayed = instruments.relayed
        for envelope in signals:
            relayed(now - envelope.received_at)
        if now >= instruments.next_sample:
            instruments.sampled(self.id, envelope.type, now - envelope.received_at)

    def _write_one_by_one(self) -> None:
        """What could not be put together for all, for each by itself; who cannot be told even so is ended."""
        talk, said = self._talk, self._said or []
        self._talk = self._said = None
        if talk is not None:
            said = talk.said(self._dialects[0])
        for member in list(self.members.values()):
            try:
                frames = for_one(member, said)
                if frames:
                    write_to((member.outlet,), b"".join(frames), len(frames))
            except Exception as error:  # noqa: BLE001 - as in write_to
                member.outlet.fail(error)


def _joined_at(presences: Sequence[Presence]) -> float:
    """Since when an account is here; connections elsewhere may be told of later than they came."""
    return min(presence.joined_at for presence in presences)


def _presence_signal(type: str, presence: Presence) -> Envelope:  # noqa: A002 - the wire's word
    return Envelope(type=type, data=b"{}", sender=presence)
