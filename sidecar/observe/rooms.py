"""Counters of rooms: which of them have series of their own, and those series as text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from time import monotonic
from typing import NamedTuple

from sidecar.signaling.counters import RoomCounters
from sidecar.signaling.room import Room

EMPTY_ROOM_KEPT_SECONDS = 300.0
OTHER_ROOMS = "other"
ROOMS_PER_SLICE = 100
"""Rooms rendered before the loop has its turn again: less than a millisecond."""

ROOM_FAMILIES = (
    ("room_connections", "gauge", "Connections in the room on this replica."),
    ("room_participants", "gauge", "Accounts in the room on this replica."),
    ("room_messages_received", "counter", "Signals relayed, as received from members here, by type."),
    ("room_messages_delivered", "counter", "Signals relayed, as written to members here."),
    ("room_bytes_received", "counter", "Payload bytes of the signals received."),
    ("room_bytes_delivered", "counter", "Payload bytes of the signals delivered."),
)


class RoomBook:
    """Counters of the rooms with a label of their own, at most `max_rooms` (0: any number); the rest share one.

    A room's series outlive it by `EMPTY_ROOM_KEPT_SECONDS`. Where a place becomes free, a room that shared `other`
    counts on its own from then on; what it counted before stays in `other`, so no counter ever goes back.
    """

    def __init__(self, *, max_rooms: int, clock: Callable[[], float] = monotonic) -> None:
        self.other = RoomCounters()
        self._max_rooms = max_rooms
        self._clock = clock
        self._own: dict[str, RoomCounters] = {}
        self._empty_since: dict[str, float] = {}  # of `_own`, in the order they became empty
        self._sharing: dict[str, None] = {}  # rooms that count on `other`, the longest sharing first
        self._gone = RoomCounters()  # what forgotten rooms counted
        self._shared_once = False

    def open(self, room_id: str) -> RoomCounters:
        self._empty_since.pop(room_id, None)
        counters = self._own.get(room_id)
        if counters is not None:
            return counters
        self._forget_long_empty()
        if self._has_place():
            return self._claim(room_id)
        self._sharing[room_id] = None
        self._shared_once = True
        return self.other

    def close(self, room_id: str) -> None:
        self._sharing.pop(room_id, None)
        if room_id in self._own:
            self._empty_since[room_id] = self._clock()

    def settle(self, rooms: Mapping[str, Room]) -> None:
        """Forget rooms that were empty for long, and give their places to rooms that had none."""
        self._forget_long_empty()
        while self._sharing and self._has_place():
            room_id = next(iter(self._sharing))
            del self._sharing[room_id]
            rooms[room_id].counters = self._claim(room_id)

    def labelled(self) -> dict[str, RoomCounters]:
        """What is counted under each value of the label, as of now."""
        counted = dict(self._own)
        if self._shared_once:
            counted[OTHER_ROOMS] = self.other
        return counted

    def sharing(self) -> list[str]:
        """The rooms behind `other`."""
        return list(self._sharing)

    def totals(self) -> RoomCounters:
        """What all rooms counted since the start, those gone included: it never goes back."""
        total = RoomCounters()
        for counters in (*self._own.values(), self.other, self._gone):
            total.add(counters)
        return total

    def _has_place(self) -> bool:
        return not self._max_rooms or len(self._own) < self._max_rooms

    def _claim(self, room_id: str) -> RoomCounters:
        counters = self._own[room_id] = RoomCounters()
        return counters

    def _forget_long_empty(self) -> None:
        before = self._clock() - EMPTY_ROOM_KEPT_SECONDS
        while self._empty_since:
            room_id, since = next(iter(self._empty_since.items()))
            if since > before:
                return
            del self._empty_since[room_id]
            self._gone.add(self._own.pop(room_id))


async def room_series(book: RoomBook, rooms: Mapping[str, Room], *, namespace: str, openmetrics: bool) -> str:
    """The `room_*` series in Prometheus' text format, or OpenMetrics.

    Written here and not by the client library, which takes 45 ms of the loop for 1,000 rooms in one piece; this takes
    a tenth of it, in slices. The numbers of one room are of one moment.
    """
    book.settle(rooms)
    blocks: list[list[str]] = []
    for name, kind, text in ROOM_FAMILIES:
        # In the text format a counter's family bears the name of its samples, in OpenMetrics it does not.
        family = f"{namespace}_{name}" + ("_total" if kind == "counter" and not openmetrics else "")
        blocks.append([f"# HELP {family} {text}\n# TYPE {family} {kind}\n"])
    labelled = book.labelled()
    if OTHER_ROOMS in labelled:
        here, people = await _presence(rooms, book.sharing())
        _write(blocks, [_Row(OTHER_ROOMS, labelled.pop(OTHER_ROOMS), here, people)], namespace)
    items = iter(labelled.items())
    while some := list(islice(items, ROOMS_PER_SLICE)):
        rows = [_Row(room_id, counters, *_count(rooms.get(room_id))) for room_id, counters in some]
        _write(blocks, rows, namespace)
        await asyncio.sleep(0)
    return "".join(part for block in blocks for part in block)


class _Row(NamedTuple):
    room_id: str
    counters: RoomCounters
    connections: int
    participants: int


def _write(blocks: list[list[str]], rows: Iterable[_Row], namespace: str) -> None:
    """Add the lines of some rooms, each to its family's block, as one piece of text."""
    lines: tuple[list[str], ...] = tuple([] for _ in blocks)
    connections, participants, received, delivered, bytes_in, bytes_out = lines
    for room_id, counters, here, people in rows:
        label = f'{{room="{room_id}"}}'
        connections.append(f"{namespace}_room_connections{label} {here}\n")
        participants.append(f"{namespace}_room_participants{label} {people}\n")
        for kind, count in counters.received.items():
            labels = f'{{room="{room_id}",type="{kind}"}}'
            received.append(f"{namespace}_room_messages_received_total{labels} {count}\n")
        delivered.append(f"{namespace}_room_messages_delivered_total{label} {counters.delivered}\n")
        bytes_in.append(f"{namespace}_room_bytes_received_total{label} {counters.bytes_received}\n")
        bytes_out.append(f"{namespace}_room_bytes_delivered_total{label} {counters.bytes_delivered}\n")
    for block, text in zip(blocks, lines, strict=True):
        block.append("".join(text))


async def _presence(rooms: Mapping[str, Room], room_ids: Iterable[str]) -> tuple[int, int]:
    connections = participants = 0
    for number, room_id in enumerate(room_ids, start=1):
        if number % (ROOMS_PER_SLICE * 10) == 0:
            await asyncio.sleep(0)
        here, people = _count(rooms.get(room_id))
        connections += here
        participants += people
    return connections, participants


def _count(room: Room | None) -> tuple[int, int]:
    """Connections and accounts on this replica; none where the room is empty."""
    return (len(room.members), room.local_accounts()) if room else (0, 0)
