"""One's own side of a room: what happens here gets a number, is said once, and again to who missed it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sidecar.bus import wire
from sidecar.bus.journal import Journal, Pages
from sidecar.bus.ports import Observer, Post
from sidecar.bus.view import Heard
from sidecar.signaling.envelope import Envelope
from sidecar.signaling.presence import Presence

STATE_PART_BYTES = 32 * 1024
"""Servers may be told to take far less than their usual 1 MiB; a client's message may have 64 KiB."""
NOTHING: Heard = {}


class OwnSide:
    """One numbered series of entries since the room was opened at `epoch`."""

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
        self.epoch = epoch
        self._room_id = room_id
        self._me = me
        self._post = post
        self._journal = journal
        self._pages = Pages()
        self._observer = observer
        self._clock = clock

    @property
    def last(self) -> int:
        """The number of the last entry; 0: there was none."""
        return self._pages.last

    def joined(self, presence: Presence) -> None:
        seq = self._pages.last + 1
        self._say(wire.joined(presence, origin=self._me, room=self._room_id, epoch=self.epoch, seq=seq))

    def left(self, connection_id: str) -> None:
        self._say(wire.Left(self._me, self._room_id, self.epoch, self._pages.last + 1, connection_id))

    def said(self, envelope: Envelope) -> None:
        seq = self._pages.last + 1
        self._say(wire.said(envelope, origin=self._me, room=self._room_id, epoch=self.epoch, seq=seq))

    def _say(self, entry: wire.Entry) -> None:
        payload = wire.encode(entry)
        if not self._post.fits(payload):
            self._observer.dropped("too_big")
            return
        self._journal.write(self._pages, payload, self._clock())
        if self._post.to_room(self._room_id, payload):
            self._observer.published()

    def hello(self, have: Heard) -> bytes:
        """What to say to everyone in the room when it is opened, and when the bus is back."""
        return wire.encode(wire.Hello(self._me, self._room_id, self.epoch, self.last, dict(have)))

    def mark(self, heard: Heard = NOTHING) -> bytes:
        """How far this replica is: said to everyone in the room once after the last entry for now."""
        return wire.encode(wire.Mark(self._me, self._room_id, self.epoch, self.last, dict(heard)))

    def send_mark(self, replica: str) -> None:
        """Tell one replica how far this one is."""
        self._post.to_replica(replica, self._room_id, self.mark())

    def send_since(self, asker: str, epoch: int, seq: int, heard: Heard) -> bool:
        """Send the entries after `seq` again, and a mark. False: they are no longer kept, tell the state instead."""
        entries = self._pages.after(seq) if epoch == self.epoch and seq <= self.last else None
        if entries is None:
            return False
        for entry in entries:
            if not self._post.to_replica(asker, self._room_id, entry):
                return True  # it will learn that by a mark, and ask again
        self._post.to_replica(asker, self._room_id, self.mark(heard))
        return True

    def send_state(
        self, asker: str, members: Iterable[Presence], others: Sequence[str], heard: Heard
    ) -> None:
        """Tell who is here, in parts that the bus can carry."""
        parts: list[list[wire.Here]] = [[]]
        size = 0
        for one in map(wire.here, members):
            bytes_of_one = len(one.info) + len(one.name) + 128
            if size + bytes_of_one > STATE_PART_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(one)
            size += bytes_of_one
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            state = wire.State(
                self._me,
                self._room_id,
                self.epoch,
                self.last,
                number,
                last,
                part,
                list(others) if last else [],
                dict(heard) if last else {},
            )
            if not self._post.to_replica(asker, self._room_id, wire.encode(state)):
                return
