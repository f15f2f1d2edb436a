"""Work that may hang, such as reading from a mount: beside the loop, by nobody the process waits for at its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class OffLoop(Generic[T]):
    """`await work()` runs it on a thread of its own. Who asks while it runs waits for the same run: none piles up."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._running: asyncio.Future[T] | None = None

    async def __call__(self) -> T:
        """Raises: what the work raises."""
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            threading.Thread(target=self._run, args=(loop, self._running), daemon=True).start()
        return await asyncio.shield(self._running)

    def _run(self, loop: asyncio.AbstractEventLoop, running: asyncio.Future[T]) -> None:
        tell: Callable[[], None]
        try:
            tell = partial(running.set_result, self._work())
        except Exception as error:  # noqa: BLE001 - it is whoever waits that it concerns
            tell = partial(_fail, running, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell)


def _fail(running: asyncio.Future[T], error: Exception) -> None:
    running.set_exception(error)
    running.exception()  # nobody may wait any more
