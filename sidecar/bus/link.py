"""One room across replicas: what is said here gets a number, what is said there is taken in by its number.

Each replica alone decides about its own people. Joins, leaves and signals of one replica in one room are entries of one
numbered series, so that every other replica sees them in the order they happened, each once; a number that is missing
is asked for, and what is no longer kept is replaced by the state it led to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from sidecar.bus import wire
from sidecar.bus.journal import Journal, Pages
from sidecar.signaling.envelope import Envelope
from sidecar.signaling.room import Presence, Room

ASK_AGAIN_SECONDS = 1.0
log = structlog.stdlib.get_logger(__name__)

DROP_REASONS = (
    "backlog", "bad_event", "conflict", "duplicate", "foreign", "malformed", "not_here", "stale", "too_big",
    "unknown_sender", "version",
)  # fmt: skip
"""Why a message was not sent or not used."""
MAX_HELD = 1024
"""Entries of one replica that wait for one before them, and signals of one that is about to come back."""
STATE_PART_BYTES = 256 * 1024


class Post(Protocol):
    """How a link sends. Never waits; False: it could not be sent, and whoever misses it will ask."""

    def fits(self, payload: bytes) -> bool:
        """Whether a message of this size can be sent at all."""

    def to_room(self, room_id: str, payload: bytes) -> bool:
        """To every replica with this room open."""

    def to_replica(self, origin: str, room_id: str, payload: bytes) -> bool:
        """To one replica."""


class Observer(Protocol):
    """What links report for metrics and logs."""

    def published(self) -> None:
        """An entry was sent."""

    def received(self) -> None:
        """An entry was taken in."""

    def dropped(self, reason: str) -> None:
        """A message was not used."""

    def gap(self) -> None:
        """Entries are lost for good."""


Heard = Mapping[str, tuple[int, int]]
"""By origin: epoch and number of its last entry taken in."""
NOTHING: Heard = {}


class View:
    """What is known here of one other replica's side of a room."""

    __slots__ = ("asked_at", "end", "epoch", "held", "here", "hidden", "parts", "seq", "unsaid")

    def __init__(self) -> None:
        self.epoch = 0
        """When the other opened the room, in its own count; 0: nothing is known yet."""
        self.seq = 0
        """Its last entry taken in."""
        self.end = (0, 0)
        """Epoch and number of the last entry that anyone spoke of."""
        self.here: dict[str, Presence] = {}
        self.held: dict[int, wire.Entry] = {}
        """Entries that came before an earlier one did."""
        self.hidden = False
        """It is lost: its people are not shown, what was known of them is kept for its return."""
        self.unsaid: list[wire.Said] = []
        """Said while hidden, for when they are shown again."""
        self.parts: list[wire.State] = []
        self.asked_at = 0.0
        """When it was last asked for what is missing; 0: nothing is."""


class Link:
    """A room's other end. `room` is None while nobody is here: the link stays a while to answer what others missed."""

    def __init__(
        self,
        *,
        room_id: str,
        me: str,
        epoch: int,
        post: Post,
        journal: Journal,
        observer: Observer,
        clock: Callable[[], float],
        on_settled: Callable[[Link], None],
    ) -> None:
        self.room_id = room_id
        self.room: Room | None = None
        self.epoch = epoch
        self.views: dict[str, View] = {}
        self.unmarked = False
        """Something was said since the last mark."""
        self.incomplete: set[str] = set()
        """Origins of which something is missing."""
        self.closed_at = 0.0
        self._me = me
        self._post = post
        self._journal = journal
        self._pages = Pages()
        self._observer = observer
        self._clock = clock
        self._on_settled = on_settled
        self._answered: set[str] | None = None  # who answered the first hello; None: nobody waits for answers
        self._expected: set[str] = set()

    @property
    def said_anything(self) -> bool:
        return self._pages.last > 0

    # What happens here

    def joined(self, presence: Presence) -> None:
        seq = self._pages.last + 1
        self._say(wire.joined(presence, origin=self._me, room=self.room_id, epoch=self.epoch, seq=seq))

    def left(self, connection_id: str) -> None:
        self._say(wire.Left(self._me, self.room_id, self.epoch, self._pages.last + 1, connection_id))

    def said(self, envelope: Envelope) -> None:
        """Pass a signal on, if there is anyone elsewhere, or was until their replica was lost."""
        if any(view.here for view in self.views.values()):
            seq = self._pages.last + 1
            self._say(wire.said(envelope, origin=self._me, room=self.room_id, epoch=self.epoch, seq=seq))

    def _say(self, entry: wire.Entry) -> None:
        payload = wire.encode(entry)
        if not self._post.fits(payload):
            self._observer.dropped("too_big")
            return
        self._journal.write(self._pages, payload, self._clock())
        self.unmarked = True
        if self._post.to_room(self.room_id, payload):
            self._observer.published()

    # Keeping in step

    def settle(self) -> None:
        """Wait for everyone's answer to the hello that is sent next; `on_settled` is called once they are here."""
        self._answered, self._expected = set(), set()

    def settled(self) -> None:
        """Nobody else is to be waited for."""
        if self._answered is not None:
            self._answered = None
            self._on_settled(self)

    def hello(self) -> bytes:
        """What to say to everyone in the room when it is opened, and when the bus is back."""
        have = {origin: (view.epoch, view.seq) for origin, view in self.views.items() if view.epoch}
        return wire.encode(wire.Hello(self._me, self.room_id, self.epoch, self._pages.last, have))

    def mark(self) -> bytes:
        """How far this replica is, for everyone in the room: said once after the last entry for now."""
        self.unmarked = False
        return self._mark()

    def _mark(self, heard: Heard = NOTHING) -> bytes:
        return wire.encode(wire.Mark(self._me, self.room_id, self.epoch, self._pages.last, dict(heard)))

    def known_of(self, origin: str) -> tuple[str, int, int]:
        """What to ask `origin` by: the room, and the last that is known of it."""
        view = self.views.get(origin)
        return (self.room_id, 0, 0) if view is None else (self.room_id, view.epoch, view.seq)

    def believed(self) -> list[str]:
        """Whose people are here, as far as is known."""
        return [origin for origin, view in self.views.items() if view.here]

    def is_hidden(self, origin: str) -> bool:
        """Whether its people are not shown, because it was lost."""
        return self.views[origin].hidden

    def answer(self, asker: str, epoch: int, seq: int, *, have: Heard = NOTHING) -> None:
        """Tell `asker` what happened here since entry `seq`: the entries, or if they are gone, who is here.

        And how far others are whom it knows less of than `have`: should they have died, nobody else can tell.
        """
        heard = {
            origin: (view.epoch, view.seq)
            for origin, view in self.views.items()
            if origin in have and (view.epoch, view.seq) > have[origin]
        }
        entries = self._pages.after(seq) if epoch == self.epoch and seq <= self._pages.last else None
        if entries is None:
            self._tell_state(asker, heard)
            return
        for entry in entries:
            if not self._post.to_replica(asker, self.room_id, entry):
                return  # it will ask again
        self._post.to_replica(asker, self.room_id, self._mark(heard))

    def check(self, asker: str, epoch: int, seq: int) -> None:
        """Tell `asker` how far this replica is, if it knows otherwise."""
        if (epoch, seq) != (self.epoch, self._pages.last):
            self._post.to_replica(asker, self.room_id, self._mark())

    def _tell_state(self, asker: str, heard: Heard) -> None:
        others = [origin for origin, view in self.views.items() if view.here and not view.hidden]
        here = [wire.here(member) for member in self.room.members.values()] if self.room else []
        parts: list[list[wire.Here]] = [[]]
        size = 0
        for one in here:
            size += len(one.info) + len(one.name) + 128
            if size > STATE_PART_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(one)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            state = wire.State(
                self._me,
                self.room_id,
                self.epoch,
                self._pages.last,
                number,
                last,
                part,
                others if last else [],
                dict(heard) if last else {},
            )
            if not self._post.to_replica(asker, self.room_id, wire.encode(state)):
                return

    def ask(self, origin: str, *, again: bool = False) -> None:
        """Ask `origin` for what is missing of it, unless that was asked just now."""
        view = self.views.get(origin)
        if view is None:
            view = self.views[origin] = View()
        now = self._clock()
        if view.asked_at and not again and now - view.asked_at < ASK_AGAIN_SECONDS:
            return
        view.asked_at = now
        self.incomplete.add(origin)
        question = wire.Ask(self._me, [self.known_of(origin)])
        self._post.to_replica(origin, self.room_id, wire.encode(question))

    def ask_again(self) -> None:
        """Ask once more for what did not come in time."""
        now = self._clock()
        for origin in list(self.incomplete):
            if now - self.views[origin].asked_at >= ASK_AGAIN_SECONDS:
                self.ask(origin, again=True)

    # What others say

    def on_entry(self, entry: wire.Entry) -> None:
        view = self.views.get(entry.origin)
        if view is None:
            view = self.views[entry.origin] = View()
        if entry.epoch != view.epoch:
            if entry.epoch < view.epoch:
                self._observer.dropped("stale")
                return
            if entry.seq != 1:
                self.ask(entry.origin)
                return
            self._begin(view, entry)
        if entry.seq <= view.seq:
            self._observer.dropped("duplicate")
        elif entry.seq > view.seq + 1:
            view.end = max(view.end, (entry.epoch, entry.seq))
            if len(view.held) < MAX_HELD:
                view.held[entry.seq] = entry
            self.ask(entry.origin)
        else:
            self._take_in(view, entry)
            self._take_in_held(view, entry.origin)

    def on_mark(self, mark: wire.Mark | wire.Hello) -> None:
        """The other says how far it is: ask for what is missing, or be sure that nothing is."""
        view = self.views.get(mark.origin)
        if view is None:
            view = self.views[mark.origin] = View()
        if isinstance(mark, wire.Mark):
            self._note(mark.heard)
        if mark.epoch > view.epoch and mark.seq == 0:
            self._begin(view, mark)
        if mark.epoch != view.epoch or mark.seq > view.seq:
            if mark.epoch >= view.epoch:
                view.end = max(view.end, (mark.epoch, mark.seq))
                self.ask(mark.origin)
            return
        self._complete(view, mark.origin)

    def on_state(self, state: wire.State) -> None:
        view = self.views.get(state.origin)
        if view is None:
            view = self.views[state.origin] = View()
        if state.part == 0:
            view.parts = []
        if state.part != len(view.parts) or (
            view.parts and (view.parts[0].epoch, view.parts[0].seq) != (state.epoch, state.seq)
        ):
            view.parts = []  # a part was lost: the question is still open, and will be asked again
            return
        view.parts.append(state)
        if not state.last:
            return
        parts, view.parts = view.parts, []
        if (state.epoch, state.seq) < (view.epoch, view.seq):
            self._observer.dropped("stale")
            return
        self._replace(view, state, [one for part in parts for one in part.here])
        self._take_in_held(view, state.origin)
        self._complete(view, state.origin)
        self._note(state.heard)
        self._on_answer(state)

    def _note(self, heard: Heard) -> None:
        """Another replica knows how far these were."""
        for origin, last in heard.items():
            view = self.views.get(origin)
            if view is not None:
                view.end = max(view.end, last)

    def lost(self, origin: str) -> None:
        """A replica is gone: so are its people."""
        view = self.views.get(origin)
        if view is None or view.hidden:
            return
        view.hidden = True
        view.held.clear()
        view.asked_at = 0.0
        self.incomplete.discard(origin)
        if self.room is not None:
            for connection_id in view.here:
                self.room.vanish(connection_id)
        if origin in self._expected:
            self._on_answer_of(origin)

    def forget(self, origin: str) -> None:
        """It will not come back."""
        view = self.views.pop(origin, None)
        self.incomplete.discard(origin)
        if view is not None and view.hidden and view.end > (view.epoch, view.seq):
            self._count_gap(view, origin, *view.end)

    def forget_all(self) -> None:
        """Nobody is here any more: what others do is not heard from now on."""
        for origin in list(self.views):
            self.forget(origin)

    def _begin(self, view: View, first: wire.Entry | wire.Mark | wire.Hello) -> None:
        """The other has opened the room anew."""
        if view.here:  # how the last of them left was not heard, and who knows what else
            self._count_gap(view, first.origin, first.epoch, first.seq)
            if self.room is not None and not view.hidden:
                for connection_id in view.here:
                    self.room.vanish(connection_id)
        view.here = {}
        view.held.clear()
        view.epoch, view.seq = first.epoch, 0

    def _take_in(self, view: View, entry: wire.Entry) -> None:
        view.seq = entry.seq
        self._observer.received()
        match entry:
            case wire.Joined():
                self._appear(view, entry, entry.origin)
            case wire.Left():
                if view.here.pop(entry.connection, None) is None:
                    self._observer.dropped("unknown_sender")
                elif self.room is not None and not view.hidden:
                    self.room.vanish(entry.connection)
            case wire.Said():
                if not view.hidden:
                    self._deliver(view, entry)
                elif len(view.unsaid) < MAX_HELD:
                    view.unsaid.append(entry)
                else:
                    self._observer.dropped("backlog")

    def _take_in_held(self, view: View, origin: str) -> None:
        if view.held:
            for seq in [seq for seq in view.held if seq <= view.seq]:
                del view.held[seq]
            while (entry := view.held.pop(view.seq + 1, None)) is not None:
                self._take_in(view, entry)
        if origin in self.incomplete and not view.held and not view.hidden:
            self._complete(view, origin)

    def _complete(self, view: View, origin: str) -> None:
        """Nothing is missing of this replica: if its people were hidden, they are back."""
        if view.held:
            return
        view.asked_at = 0.0
        self.incomplete.discard(origin)
        if view.hidden:
            view.hidden = False
            if self.room is not None:
                for presence in view.here.values():
                    self.room.appear(presence)
            unsaid, view.unsaid = view.unsaid, []
            for said in unsaid:
                self._deliver(view, said)

    def _appear(self, view: View, told: wire.Joined | wire.Here, origin: str) -> None:
        try:
            presence = wire.presence(told)
        except wire.Unreadable as problem:
            self._observer.dropped(problem.reason)
            return
        connection_id = presence.connection_id
        known = view.here.get(connection_id)
        if known is not None:
            if known.identity.account_id != presence.identity.account_id:
                self._observer.dropped("conflict")
            else:
                known.identity = presence.identity
            return
        if self._is_elsewhere(connection_id):
            self._observer.dropped("conflict")
            return
        if not view.here and self.room is not None:  # its first here: should its hello be lost, it asks now
            self._post.to_replica(origin, self.room_id, self._mark())
        view.here[connection_id] = presence
        if self.room is not None and not view.hidden:
            self.room.appear(presence)

    def _is_elsewhere(self, connection_id: str) -> bool:
        """A connection is on one replica only; whoever tells otherwise is not believed."""
        if self.room is not None and connection_id in self.room.members:
            return True
        return any(connection_id in view.here for view in self.views.values())

    def _deliver(self, view: View, said: wire.Said) -> None:
        """A signal carries its connection only: who that is, this replica knows from the origin's own word."""
        presence = view.here.get(said.connection)
        if presence is None:
            self._observer.dropped("unknown_sender")
            return
        if self.room is not None:
            self.room.receive(
                Envelope(
                    type=said.type,
                    data=said.data,
                    sender=presence.identity,
                    sender_connection=said.connection,
                    to=said.to,
                    to_connection=said.to_connection,
                    received_at=self._clock(),
                )
            )

    def _replace(self, view: View, state: wire.State, here: list[wire.Here]) -> None:
        if view.epoch and (state.epoch, state.seq) != (view.epoch, view.seq):
            self._count_gap(view, state.origin, state.epoch, state.seq)
        view.epoch, view.seq = state.epoch, state.seq
        view.unsaid = []
        staying = {one.connection for one in here}
        for connection_id in [known for known in view.here if known not in staying]:
            del view.here[connection_id]
            if self.room is not None and not view.hidden:
                self.room.vanish(connection_id)
        for one in here:
            self._appear(view, one, state.origin)

    def _count_gap(self, view: View, origin: str, epoch: int, seq: int) -> None:
        """What `origin` said up to entry `seq` will not come."""
        self._observer.gap()
        missed = seq - view.seq if epoch == view.epoch else None
        log.warning("bus gap", room=self.room_id, replica=origin, entries=missed)

    # The first answers

    def _on_answer(self, state: wire.State) -> None:
        if self._answered is None:
            return
        self._expected.update(origin for origin in state.others if origin != self._me)
        self._on_answer_of(state.origin)

    def _on_answer_of(self, origin: str) -> None:
        if self._answered is None:
            return
        self._answered.add(origin)
        if self._expected <= self._answered:
            self.settled()
