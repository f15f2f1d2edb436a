"""One room across replicas: what is said here gets a number (own.py), what is said there is taken in by its number.

Each replica alone decides about its own people. Joins, leaves and signals of one replica in one room are entries of one
numbered series, so that every other replica sees them in the order they happened, each once; a number that is missing
is asked for, and what is no longer kept is replaced by the state it led to.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from sidecar.bus import wire
from sidecar.bus.answers import FirstAnswers
from sidecar.bus.journal import Journal
from sidecar.bus.own import NOTHING, OwnSide
from sidecar.bus.ports import Observer, Post
from sidecar.bus.view import Heard, View
from sidecar.signaling.envelope import Envelope
from sidecar.signaling.room import Room

ASK_AGAIN_SECONDS = 1.0
log = structlog.stdlib.get_logger(__name__)

DROP_REASONS = (
    "backlog", "bad_event", "conflict", "duplicate", "foreign", "malformed", "not_here", "stale", "too_big",
    "unknown_sender", "version",
)  # fmt: skip
"""Why a message was not sent or not used."""
MAX_HELD = 1024
"""Entries of one replica that wait for one before them, and signals of one that is about to come back."""


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
    ) -> None:
        self.room_id = room_id
        self.room: Room | None = None
        self.own = OwnSide(
            room_id=room_id, me=me, epoch=epoch, post=post, journal=journal, observer=observer, clock=clock
        )
        self.answers = FirstAnswers()
        self.views: dict[str, View] = {}
        self.incomplete: set[str] = set()
        """Origins of which something is missing."""
        self.closed_at = 0.0
        self._me = me
        self._post = post
        self._observer = observer
        self._clock = clock

    def said(self, envelope: Envelope) -> None:
        """Pass a signal on, if there is or may be anyone elsewhere, or was until their replica was lost."""
        if self.incomplete or any(view.here for view in self.views.values()):
            self.own.said(envelope)

    # Keeping in step

    def hello(self) -> bytes:
        """What to say to everyone in the room when it is opened, and when the bus is back."""
        return self.own.hello(
            {origin: (view.epoch, view.seq) for origin, view in self.views.items() if view.epoch}
        )

    def known_of(self, origin: str) -> tuple[str, int, int]:
        """What to ask `origin` by: the room, and the last that is known of it."""
        view = self.views.get(origin)
        return (self.room_id, 0, 0) if view is None else (self.room_id, view.epoch, view.seq)

    def answer(self, asker: str, epoch: int, seq: int, *, have: Heard = NOTHING) -> None:
        """Tell `asker` what happened here since entry `seq`: the entries, or if they are gone, who is here.

        And how far others are, where `have` is behind: they may have died since, and cannot tell it themselves.
        """
        heard = {
            origin: (view.epoch, view.seq)
            for origin, view in self.views.items()
            if origin in have and (view.epoch, view.seq) > have[origin]
        }
        if not self.own.send_since(asker, epoch, seq, heard):
            members = self.room.members.values() if self.room else ()
            others = [origin for origin, view in self.views.items() if view.here and not view.hidden]
            self.own.send_state(asker, members, others, heard)

    def check(self, asker: str, epoch: int, seq: int) -> None:
        """Tell `asker` how far this replica is, if it knows otherwise."""
        if (epoch, seq) != (self.own.epoch, self.own.last):
            self.own.send_mark(asker)

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
        if entry.epoch < view.epoch:
            self._observer.dropped("stale")
            return
        if entry.epoch > view.epoch and entry.seq == 1:
            self._begin(view, entry)
        number = (entry.epoch, entry.seq)
        if number <= (view.epoch, view.seq):
            self._observer.dropped("duplicate")
        elif number != (view.epoch, view.seq + 1):
            view.note_end(*number)
            if len(view.held) < MAX_HELD:
                view.held[number] = entry
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
                view.note_end(mark.epoch, mark.seq)
                self.ask(mark.origin)
            return
        self._complete(view, mark.origin)

    def on_state(self, state: wire.State) -> None:
        view = self.views.get(state.origin)
        if view is None:
            view = self.views[state.origin] = View()
        here = view.whole(state)
        if here is None:
            return
        if (state.epoch, state.seq) < (view.epoch, view.seq):
            self._observer.dropped("stale")
            return
        self._replace(view, state, here)
        for said in view.pop_said_before(state):  # by who is in it, to who may have been told of nobody yet
            self._hear(view, said)
        self._take_in_held(view, state.origin)
        self._complete(view, state.origin)
        self._note(state.heard)
        self.answers.answered(state.origin, (origin for origin in state.others if origin != self._me))

    def _note(self, heard: Heard) -> None:
        """Another replica knows how far these were."""
        for origin, last in heard.items():
            view = self.views.get(origin)
            if view is not None:
                view.note_end(*last)

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
        self.answers.lost(origin)

    def forget(self, origin: str) -> None:
        """It will not come back."""
        view = self.views.pop(origin, None)
        self.incomplete.discard(origin)
        if view is not None and view.hidden and view.lacks:
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
        view.held = {number: entry for number, entry in view.held.items() if number > (first.epoch, 0)}
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
                self._hear(view, entry)

    def _hear(self, view: View, said: wire.Said) -> None:
        if not view.hidden:
            self._deliver(view, said)
        elif len(view.unsaid) < MAX_HELD:
            view.unsaid.append(said)
        else:
            self._observer.dropped("backlog")

    def _take_in_held(self, view: View, origin: str) -> None:
        if view.held:
            for number in [number for number in view.held if number <= (view.epoch, view.seq)]:
                del view.held[number]
            while (entry := view.held.pop((view.epoch, view.seq + 1), None)) is not None:
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
                known.identify(presence.identity)
            return
        if self._is_elsewhere(connection_id):
            self._observer.dropped("conflict")
            return
        if not view.here and self.room is not None:  # its first here: should its hello be lost, it asks now
            self.own.send_mark(origin)
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
                    sender=presence,
                    to=said.to,
                    to_connection=said.to_connection,
                    received_at=self._clock(),
                )
            )

    def _replace(self, view: View, state: wire.State, here: list[wire.Here]) -> None:
        if view.epoch and (state.epoch, state.seq) != (view.epoch, view.seq):
            self._count_gap(view, state.origin, state.epoch, state.seq)
        view.epoch, view.seq = state.epoch, state.seq
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
