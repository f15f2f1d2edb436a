"""Rooms that span replicas: the bus as rooms see it, and as the network sees it. No sockets here.

Subjects under the prefix: `room.<room id>` is heard by the replicas with that room open, `node.<replica>.<room id>` by
one replica, `beat` by all. docs/scaling.md describes the protocol, and what becomes of what is lost.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import structlog

from sidecar.bus import wire
from sidecar.bus.checks import Checks
from sidecar.bus.journal import KEPT_SECONDS, Journal
from sidecar.bus.link import Link
from sidecar.bus.ports import Observer, subjects_of
from sidecar.bus.replicas import Replicas
from sidecar.guid import canonical_guid
from sidecar.signaling.envelope import Envelope
from sidecar.signaling.presence import Presence
from sidecar.signaling.room import Room

log = structlog.stdlib.get_logger(__name__)

SETTLE_SECONDS = 0.3
"""How long the first to join a room waits to hear who is in it elsewhere."""
ROOMS_PER_SLICE = 100
"""Rooms worked on in one tick of the loop, where all of them are concerned."""
ROOMS_PER_QUESTION = 500
"""Some 30 KB."""
REMEMBERED_SECONDS = 600.0
"""How long a silent replica's numbers stay known: if it was only cut off, what it said meanwhile is a gap to count."""
BEATS_PER_TIMEOUT = 3
LOOKS_PER_BEAT = 2


class Carrier(Protocol):
    """What brings messages to and fro. Never waits."""

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""

    def fits(self, payload: bytes) -> bool:
        """Whether a message of this size can be sent at all."""

    def publish(self, subject: str, payload: bytes, *, reply: str = "") -> bool:
        """Send; False: too much is waiting to be sent already."""

    def subscribe(self, subject: str) -> None:
        """Hear a subject from now on: what is published after it reaches nobody before."""

    def unsubscribe(self, subject: str) -> None:
        """Hear it no more."""


class SpanningBus:
    """The bus of rooms that span replicas.

    `carrier` is told what to send and to hear; it tells `on_connected`, `on_disconnected`, `on_message` and
    `on_nobody`. Whoever owns the bus calls `look` every `look_seconds`.
    """

    def __init__(
        self,
        *,
        prefix: str,
        node_timeout_seconds: float,
        observer: Observer,
        clock: Callable[[], float],
        schedule: Callable[[Callable[[], None]], object],
        journal: Journal | None = None,
        me: str | None = None,
        epochs: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.me = me or secrets.token_hex(8)
        self.carrier: Carrier
        self.look_seconds = node_timeout_seconds / (BEATS_PER_TIMEOUT * LOOKS_PER_BEAT)
        self._observer = observer
        self._clock = clock
        self._schedule = schedule
        self._journal = journal if journal is not None else Journal()
        self._epochs = epochs
        self._last_epoch = 0
        self._links: dict[str, Link] = {}
        self._closed: deque[tuple[float, Link]] = deque()
        self._unmarked: dict[str, Link] = {}
        self._heard: set[str] = set()  # rooms subscribed to on this connection
        self._beats = 0
        self._looks = 0
        self._room_prefix, self._node_prefix, self._beat_subject = subjects_of(prefix)
        self._me_prefix = f"{self._node_prefix}{self.me}."
        self.replicas = Replicas(
            timeout_seconds=node_timeout_seconds, kept_seconds=REMEMBERED_SECONDS, listener=self, clock=clock
        )
        self._checks = Checks(links=self._links, replicas=self.replicas, look_seconds=self.look_seconds)

    # As rooms see it

    def open(self, room: Room) -> None:
        link = self._links.get(room.id)
        if link is None:
            link = self._links[room.id] = Link(
                room_id=room.id,
                me=self.me,
                epoch=self._next_epoch(),
                post=self,
                journal=self._journal,
                observer=self._observer,
                clock=self._clock,
            )
        link.room = room
        link.closed_at = 0.0
        if self.carrier.connected:
            link.answers.begin()
            self._enter(link)

    def close(self, room: Room) -> None:
        link = self._links[room.id]
        link.answers.end()
        link.room = None
        if room.id in self._heard:
            self._heard.remove(room.id)
            self.carrier.unsubscribe(self._room_prefix + room.id)
        if link.views or link.own.last:  # whoever missed the last of it will ask
            link.forget_all()
            link.closed_at = self._clock()
            self._closed.append((link.closed_at, link))
        else:
            self._drop(link)

    def settled(self, room_id: str) -> bool:
        return not self._links[room_id].answers.waiting

    async def settle(self, room_id: str) -> None:
        await self._links[room_id].answers.wait(SETTLE_SECONDS)

    def joined(self, room_id: str, presence: Presence) -> None:
        self._links[room_id].own.joined(presence)

    def left(self, room_id: str, presence: Presence) -> None:
        self._links[room_id].own.left(presence.connection_id)

    def publish(self, room_id: str, envelope: Envelope) -> None:
        self._links[room_id].said(envelope)

    def _next_epoch(self) -> int:
        """Greater than any this process used, and than those of a process before it."""
        self._last_epoch = max(self._last_epoch + 1, self._epochs())
        return self._last_epoch

    # As links send

    def fits(self, payload: bytes) -> bool:
        return self.carrier.fits(payload)

    def to_room(self, room_id: str, payload: bytes) -> bool:
        self._unmarked[room_id] = self._links[room_id]
        return self._send(self._room_prefix + room_id, payload)

    def to_replica(self, origin: str, room_id: str, payload: bytes) -> bool:
        sent = self._send(f"{self._node_prefix}{origin}.{room_id}", payload)
        if not sent and room_id in self._links:
            self._unmarked[room_id] = self._links[room_id]  # whoever lacks it is to know
        return sent

    def _send(self, subject: str, payload: bytes) -> bool:
        if not self.carrier.connected:
            return False
        if not self.carrier.fits(payload):  # the server would end the connection over it
            self._observer.dropped("too_big")
            return False
        if not self.carrier.publish(subject, payload):
            self._observer.dropped("backlog")
            return False
        return True

    def _enter(self, link: Link) -> None:
        """Hear a room, and ask who is in it; the server says at once if nobody else hears it."""
        subject = self._room_prefix + link.room_id
        self._heard.add(link.room_id)
        self.carrier.subscribe(subject)
        self.carrier.publish(subject, link.hello(), reply=self._me_prefix + link.room_id)

    # As the network sees it

    def on_connected(self) -> Iterator[None]:
        """The bus is there (again). The rest of the work, making up for what was missed, goes on with the iterator."""
        self.replicas.excuse()
        if self._beats:
            self._beats += 1  # one that nobody heard: the others ask what they missed
        self.carrier.subscribe(self._me_prefix + "*")
        self.carrier.subscribe(self._beat_subject)
        self.beat()
        return self._enter_again(list(self._links))

    def _enter_again(self, room_ids: Sequence[str]) -> Iterator[None]:
        for number, room_id in enumerate(room_ids, start=1):
            link = self._links.get(room_id)
            if link is not None and link.room is not None and room_id not in self._heard:
                self._enter(link)
            if number % ROOMS_PER_SLICE == 0:
                yield

    def on_disconnected(self) -> None:
        """The bus is gone: nobody is waited for; what is known of others stays as it is."""
        self._heard.clear()
        for link in self._links.values():
            link.answers.end()

    def on_nobody(self, subject: str) -> None:
        """Nobody heard the hello sent with this reply subject."""
        link = self._links.get(subject.removeprefix(self._me_prefix))
        if link is not None:
            link.answers.end()

    def on_message(self, subject: str, payload: bytes) -> None:
        """Take in one message; what cannot be used is dropped and counted."""
        try:
            message = wire.decode(payload)
        except wire.Unreadable as problem:
            self._observer.dropped(problem.reason)
            return
        origin = message.origin
        if origin == self.me or not _is_token(origin):
            self._observer.dropped("foreign")
            return
        if isinstance(message, wire.Beat):
            self.replicas.beat(origin, message.number, leaving=message.leaving)
            return
        self.replicas.heard(origin)
        if isinstance(message, wire.Ask):
            self._on_ask(message)
        elif not subject.endswith(message.room):
            self._observer.dropped("foreign")
        else:
            self._on_room_message(message)

    def _on_room_message(self, message: wire.Entry | wire.Mark | wire.Hello | wire.State) -> None:
        link = self._links.get(message.room)
        if link is None or link.room is None:
            self._observer.dropped("not_here")
            return
        match message:
            case wire.Joined() | wire.Left() | wire.Said():
                link.on_entry(message)
            case wire.Mark():
                link.on_mark(message)
            case wire.Hello():
                link.on_mark(message)
                epoch, seq = message.have.get(self.me, (0, 0))
                link.answer(message.origin, epoch, seq, have=message.have)
            case wire.State():
                link.on_state(message)

    def _on_ask(self, ask: wire.Ask) -> None:
        for room_id, epoch, seq in ask.rooms:
            link = self._links.get(room_id)
            if link is not None:
                (link.check if ask.checking else link.answer)(ask.origin, epoch, seq)
                if link.room is not None and ask.origin not in link.views:
                    link.ask(ask.origin)  # it has the room open, which this replica did not know
            elif epoch and canonical_guid(room_id) == room_id:
                gone = wire.State(
                    self.me, room_id, self._next_epoch(), seq=0, part=0, last=True, here=[], others=[]
                )
                self.to_replica(ask.origin, room_id, wire.encode(gone))

    # What becomes of other replicas

    def lost(self, origin: str) -> None:

        def lose(link: Link) -> None:
            if self.replicas.is_lost(origin):
                link.lost(origin)

        self._for_each_link(lose)

    def missed(self, origin: str) -> None:
        if not self.carrier.connected:
            return
        rooms = [link.known_of(origin) for link in self._links.values() if link.room is not None]
        for first in range(0, len(rooms), ROOMS_PER_QUESTION):
            question = wire.Ask(self.me, rooms[first : first + ROOMS_PER_QUESTION])
            self._send(f"{self._node_prefix}{origin}.all", wire.encode(question))

    def forgotten(self, origin: str) -> None:
        for link in self._links.values():
            link.forget(origin)

    def _for_each_link(self, act: Callable[[Link], None]) -> None:
        """All of them, a slice in each tick of the loop."""
        room_ids = iter(list(self._links))

        def slice_() -> None:
            for _ in range(ROOMS_PER_SLICE):
                room_id = next(room_ids, None)
                if room_id is None:
                    return
                link = self._links.get(room_id)
                if link is not None:
                    act(link)
            self._schedule(slice_)

        slice_()

    # What time brings

    def look(self) -> None:
        """Judge the others, and at every second look beat, mark what was said and ask again for what is missing."""
        now = self._clock()
        self._journal.forget_old(now)
        while self._closed and self._closed[0][0] <= now - KEPT_SECONDS:
            closed_at, link = self._closed.popleft()
            if link.room is None and link.closed_at == closed_at:
                self._drop(link)
        if not self.carrier.connected:
            return
        self.replicas.judge()
        for origin, rooms in self._checks.due().items():
            question = wire.Ask(self.me, rooms, checking=True)
            self._send(f"{self._node_prefix}{origin}.all", wire.encode(question))
        self._looks += 1
        if self._looks % LOOKS_PER_BEAT == 0:
            unmarked, self._unmarked = self._unmarked, {}
            for room_id, link in unmarked.items():
                if not self._send(self._room_prefix + room_id, link.own.mark()):
                    self._unmarked[room_id] = link
            self.beat()
            for link in self._links.values():
                if link.incomplete:
                    link.ask_again()

    def beat(self, *, leaving: bool = False) -> None:
        """Tell the others that this replica lives, or that it is about to end."""
        if self.carrier.connected:
            self._beats += 1
            self.carrier.publish(self._beat_subject, wire.encode(wire.Beat(self.me, self._beats, leaving)))

    def _drop(self, link: Link) -> None:
        if self._links.get(link.room_id) is link:
            del self._links[link.room_id]
            self._unmarked.pop(link.room_id, None)


def _is_token(origin: str) -> bool:
    """Whether it can stand in a subject."""
    return origin.isascii() and origin.isalnum()
