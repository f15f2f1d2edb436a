"""Backpressure: what peers have not read yet, bounded for each and in sum. Nobody ever waits for a peer."""

from __future__ import annotations

from typing import Protocol


class Congested(Protocol):
    """A connection whose kernel buffer is full."""

    def give_up(self) -> None:
        """Cut it at once."""


class Backlog:
    """The connections with unsent bytes, and how many bytes those are together."""

    def __init__(self, *, limit_bytes: int) -> None:
        self.bytes = 0
        self._limit_bytes = limit_bytes
        self._sizes: dict[Congested, int] = {}

    def update(self, connection: Congested, size: int) -> None:
        """`connection` has `size` unsent bytes. Over the limit in sum, the one with the most goes first."""
        self.bytes += size - self._sizes.get(connection, 0)
        self._sizes[connection] = size
        while self._limit_bytes and self.bytes > self._limit_bytes and self._sizes:
            slowest = max(self._sizes, key=self._sizes.__getitem__)
            self.forget(slowest)
            slowest.give_up()

    def forget(self, connection: Congested) -> None:
        """`connection` has nothing unsent, or is gone."""
        self.bytes -= self._sizes.pop(connection, 0)
