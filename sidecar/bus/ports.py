"""What a room's links need of others: a way to send, and someone to tell what became of it."""

from __future__ import annotations

from typing import Protocol


def subjects_of(prefix: str) -> tuple[str, str, str]:
    """How the subjects of rooms, of single replicas and of their heartbeats begin."""
    return f"{prefix}.room.", f"{prefix}.node.", f"{prefix}.beat"


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
