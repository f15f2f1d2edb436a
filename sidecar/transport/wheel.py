"""Deadlines of many connections on one timer: O(1) to set, nothing to do for those that are not due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol, TypeAlias

RESOLUTION_SECONDS = 0.1
ENTRIES_AT_A_TIME = 8
"""Looked at before the loop has its turn, as often as the wheel is late by a slot: of 15,000 connections 75 are to be
pinged each time it turns, and a busy loop has few turns."""


class Timed(Protocol):
    """Something with deadlines. It carries its place on the wheel itself: in a dict that would take five times as much.

    The links to its neighbours are the wheel's to write; None: not on a wheel.
    """

    wheel_previous: Link | None
    wheel_next: Link | None

    def on_time(self, now: float) -> float | None:
        """Do what is due at `now`, on the monotonic clock. Returns when to look again; None: never."""


class _Slot:
    """Closes the ring of the entries that are due within the same `RESOLUTION_SECONDS`."""

    __slots__ = ("number", "wheel_next", "wheel_previous")

    def __init__(self, number: int) -> None:
        self.number = number
        self.wheel_next: Link = self
        self.wheel_previous: Link = self


Link: TypeAlias = Timed | _Slot


class Wheel:
    """Calls `on_time` of each entry once its time has come, `RESOLUTION_SECONDS` late at most while the loop has time.

    The loop is taken when the first entry is set; the timer runs only while there are entries.
    """

    def __init__(self, *, on_error: Callable[[Timed, Exception], None]) -> None:
        self._slots: dict[int, _Slot] = {}  # none is empty
        self._timer: asyncio.Handle | None = None
        self._turned_to = 0  # nothing is put here, or before, any more
        self._on_error = on_error

    def set(self, entry: Timed, when: float) -> None:
        """Look at `entry` at `when` on the monotonic clock, instead of whenever it was set before."""
        self.remove(entry)
        if self._timer is None:
            self._turned_to = int(monotonic() / RESOLUTION_SECONDS)
            self._wait()
        number = max(int(when / RESOLUTION_SECONDS) + 1, self._turned_to + 1)
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = _Slot(number)
        last = slot.wheel_previous
        entry.wheel_previous, entry.wheel_next = last, slot
        last.wheel_next = slot.wheel_previous = entry

    def remove(self, entry: Timed) -> None:
        previous, following = entry.wheel_previous, entry.wheel_next
        if previous is None or following is None:
            return
        previous.wheel_next, following.wheel_previous = following, previous
        entry.wheel_previous = entry.wheel_next = None
        if isinstance(previous, _Slot) and previous is following:
            self._slots.pop(previous.number, None)

    def close(self) -> None:
        """Forget every entry."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for number in list(self._slots):
            while (entry := self._first(number)) is not None:
                self.remove(entry)

    def _first(self, number: int) -> Timed | None:
        slot = self._slots.get(number)
        if slot is None or isinstance(slot.wheel_next, _Slot):
            return None
        return slot.wheel_next

    def _wait(self) -> None:
        at = (self._turned_to + 1) * RESOLUTION_SECONDS
        self._timer = asyncio.get_running_loop().call_at(at, self._turn)

    def _turn(self) -> None:
        now = monotonic()
        due = int(now / RESOLUTION_SECONDS)
        left = ENTRIES_AT_A_TIME * max(due - self._turned_to, 1)
        for number in range(self._turned_to, due + 1):
            self._turned_to = number
            while (entry := self._first(number)) is not None:
                if not left:
                    self._timer = asyncio.get_running_loop().call_soon(self._turn)
                    return
                left -= 1
                self.remove(entry)
                try:
                    again = entry.on_time(now)
                except Exception as error:  # noqa: BLE001 - one entry's bug must not stop the clock of the others
                    self._on_error(entry, error)
                    continue
                if again is not None and entry.wheel_previous is None:
                    self.set(entry, again)
        self._timer = None
        if self._slots:
            self._wait()
