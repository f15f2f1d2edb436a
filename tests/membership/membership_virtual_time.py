"""An event loop in which waiting takes no time: the clock jumps to the next thing that is due."""

from __future__ import annotations

import asyncio
import selectors


class _NothingComes(selectors.DefaultSelector):
    """Nothing happens outside: instead of waiting, the time that would have been waited has passed."""

    now = 0.0

    def select(self, timeout: float | None = None):
        if events := super().select(0):
            return events
        assert timeout is not None, "everything waits for something that never comes"
        self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _NothingComes()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now
