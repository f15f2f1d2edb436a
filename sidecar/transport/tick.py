"""What waits for the end of a tick of the loop, on one callback however much it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Tick:
    """Calls what it is given once the reads of this tick are done, in the order given. Stands in for `call_soon`."""

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []

    def __call__(self, work: Callable[[], None]) -> None:
        if not self._due:
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
