"""Who answers when a room is opened here: the first to join waits until all of them have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class FirstAnswers:
    """Nobody is waited for until `begin`, and no longer than until `end`."""

    __slots__ = ("_answered", "_ended", "_expected")

    def __init__(self) -> None:
        self._ended: asyncio.Event | None = None  # None: nobody is waited for
        self._answered: set[str] = set()
        self._expected: set[str] = set()

    @property
    def waiting(self) -> bool:
        """Whether answers are still to come."""
        return self._ended is not None

    def begin(self) -> None:
        """Wait for everyone's answer to the hello that is sent next."""
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Nobody else is to be waited for."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None
            self._answered, self._expected = set(), set()

    async def wait(self, seconds: float) -> None:
        """Wait for the answers; those that did not come in time are waited for no more."""
        ended = self._ended
        if ended is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            if self._ended is ended:
                self.end()

    def answered(self, origin: str, others: Iterable[str]) -> None:
        """`origin` has answered, and knows of others who will."""
        if self._ended is None:
            return
        self._expected.update(others)
        self._answered.add(origin)
        if self._expected <= self._answered:
            self.end()

    def lost(self, origin: str) -> None:
        """It will not answer."""
        if origin in self._expected:
            self.answered(origin, ())
