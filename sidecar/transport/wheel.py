"""Deadlines of many connections on one timer: O(1) to set, nothing to do for those that are not due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

RESOLUTION_SECONDS = 0.1


class Timed(Protocol):
    """Something with deadlines. A wheel keeps its place in `wheel_slot` (-1: not on the wheel)."""

    wheel_slot: int

    def on_time(self, now: float) -> float | None:
        """Do what is due at `now`, on the monotonic clock. Returns when to look again; None: never."""


class Wheel:
    """Calls `on_time` of each entry once its time has come, at most `RESOLUTION_SECONDS` late.

    The loop is taken when the first entry is set; the timer runs only while there are entries.
    """

    def __init__(self, *, on_error: Callable[[Timed, Exception], None]) -> None:
        self._slots: dict[int, dict[Timed, None]] = {}  # a set would take twice the memory
        self._timer: asyncio.TimerHandle | None = None
        self._turned_to = 0
        self._on_error = on_error

    def set(self, entry: Timed, when: float) -> None:
        """Look at `entry` at `when` on the monotonic clock, instead of whenever it was set before."""
        self.remove(entry)
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._turned_to = int(monotonic() / RESOLUTION_SECONDS)
            self._timer = loop.call_at((self._turned_to + 1) * RESOLUTION_SECONDS, self._turn)
        slot = max(int(when / RESOLUTION_SECONDS) + 1, self._turned_to + 1)
        entry.wheel_slot = slot
        self._slots.setdefault(slot, {})[entry] = None

    def remove(self, entry: Timed) -> None:
        slot = self._slots.get(entry.wheel_slot)
        if slot is not None:
            slot.pop(entry, None)
            if not slot:
                del self._slots[entry.wheel_slot]
        entry.wheel_slot = -1

    def close(self) -> None:
        """Forget every entry."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        now = monotonic()
        reached = int(now / RESOLUTION_SECONDS)
        for slot in range(self._turned_to + 1, reached + 1):
            self._turned_to = slot
            for entry in self._slots.pop(slot, ()):
                if entry.wheel_slot != slot:
                    continue  # set anew or removed by one that was looked at before it
                entry.wheel_slot = -1
                try:
                    again = entry.on_time(now)
                except Exception as error:  # noqa: BLE001 - one entry's bug must not stop the clock of the others
                    self._on_error(entry, error)
                    continue
                if again is not None and entry.wheel_slot < 0:
                    self.set(entry, again)
        if self._slots:
            self._timer = loop.call_at((reached + 1) * RESOLUTION_SECONDS, self._turn)
        else:
            self._timer = None
