"""What is counted of a room: plain integers, read when somebody scrapes."""

from __future__ import annotations

from typing import Protocol

MESSAGE_TYPES = ("offer", "answer", "ice-candidate", "other")


class RoomCounters:
    """What passed through a room on this replica: relayed signals only, payload bytes. Only ever grows."""

    __slots__ = (
        "answers",
        "bytes_delivered",
        "bytes_received",
        "candidates",
        "delivered",
        "offers",
        "others",
    )

    def __init__(self) -> None:
        self.offers = self.answers = self.candidates = self.others = 0
        self.bytes_received = 0
        self.delivered = 0
        self.bytes_delivered = 0

    @property
    def received(self) -> dict[str, int]:
        """Signals received, by `MESSAGE_TYPES`."""
        counts = (self.offers, self.answers, self.candidates, self.others)
        return dict(zip(MESSAGE_TYPES, counts, strict=True))

    def add(self, counters: RoomCounters) -> None:
        """Count what another room counted."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(counters, name))


class RoomCounterBook(Protocol):
    """Where a room's counters live on when the room is empty."""

    def open(self, room_id: str) -> RoomCounters:
        """The counters a room counts on from now."""

    def close(self, room_id: str) -> None:
        """The room is empty."""
