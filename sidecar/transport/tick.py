"""What waits for the end of a tick of the loop, on one callback however much it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

AT_A_TIME = 32
"""Pieces of work that wait at most: what more rooms hold has left the core's caches when it is written."""


class Tick:
    """Calls what it is given once the reads of this tick are done, in the order given: the rooms' `Schedule`.

    Where `AT_A_TIME` wait already, those are called before one more is taken.
    """

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []

    def __call__(self, work: Callable[[], None]) -> None:
        if len(self._due) >= AT_A_TIME:
            self._run()
        elif not self._due:
            asyncio.get_running_loop().call_soon(self._run)
        self._due.append(work)

    def _run(self) -> None:
        due, self._due = self._due, []
        for work in due:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - one room's bug must not keep the others waiting
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "work at the end of a tick failed", "exception": error}
                )
