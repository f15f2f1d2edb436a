"""Handshakes that come together are judged one right after the other."""

from __future__ import annotations

import asyncio

ENOUGH = 16
QUIET_TURNS = 2
"""Who was just accepted is heard one turn of the loop later."""


class Gathering:
    """Where a handshake waits for those right behind it, so that each finds warm what the one before had to fetch.

    A handshake is long and does little twice: between two turns of the loop most of its code has left the core's caches
    (docs/performance.md, "One accept").
    """

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return when two turns of the loop brought nobody else, or 16 wait: after 32 turns at most."""
        loop = asyncio.get_running_loop()
        called = loop.create_future()
        self._waiting.append(called)
        if len(self._waiting) == 1:
            loop.call_soon(self._look, 1, 0)
        await called

    def _look(self, before: int, quiet_turns: int) -> None:
        """Once in each turn of the loop, while somebody waits."""
        now = len(self._waiting)
        quiet_turns = quiet_turns + 1 if now == before else 0
        if now < ENOUGH and quiet_turns < QUIET_TURNS:
            asyncio.get_running_loop().call_soon(self._look, now, quiet_turns)
            return
        waiting, self._waiting = self._waiting, []
        for called in waiting:
            if not called.done():  # else its client left
                called.set_result(None)
