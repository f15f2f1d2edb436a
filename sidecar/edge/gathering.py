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
        self._others: list[asyncio.Future[None]] | None = None
        """Those who came after the first. None: nobody waits."""

    async def wait(self) -> None:
        """Return when two turns of the loop brought nobody else, or 16 wait: after 32 turns at most."""
        if self._others is not None:
            called = asyncio.get_running_loop().create_future()
            self._others.append(called)
            await called
            return
        others: list[asyncio.Future[None]] = []
        self._others = others
        try:
            quiet_turns = 0
            while quiet_turns < QUIET_TURNS and len(others) < ENOUGH - 1:
                before = len(others)
                await asyncio.sleep(0)
                quiet_turns = quiet_turns + 1 if len(others) == before else 0
        finally:  # whatever becomes of the first, the others go on
            self._others = None
            for called in others:
                if not called.done():  # else its client left
                    called.set_result(None)
        await asyncio.sleep(0)  # the first goes on in the same turn
