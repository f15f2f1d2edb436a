"""Deadlines on one timer, in a real loop: all of these waits are under a second."""

from __future__ import annotations

import asyncio
import time
from time import monotonic

import pytest

from sidecar.transport.wheel import ENTRIES_AT_A_TIME, RESOLUTION_SECONDS, Wheel
from tests.harness import LoopTurns


class Entry:
    """Counts when it was looked at, and asks for as many looks more as it was told to."""

    def __init__(self, *, again: float | None = None, error: Exception | None = None) -> None:
        self.wheel_previous = self.wheel_next = None
        self.looks: list[float] = []
        self.looked = asyncio.Event()
        self._again = again
        self._error = error

    def on_time(self, now: float) -> float | None:
        self.looks.append(now)
        self.looked.set()
        if self._error is not None:
            raise self._error
        return None if self._again is None else now + self._again


@pytest.fixture
async def wheel():
    turning = Wheel(on_error=lambda entry, error: entry.errors.append(error))
    yield turning
    turning.close()
    assert not turning._slots


async def looked_at(*entries: Entry) -> None:
    async with asyncio.timeout(5):
        for entry in entries:
            await entry.looked.wait()


async def test_every_entry_is_looked_at_once_and_never_before_its_time(wheel):
    due = {Entry(): monotonic() + number * RESOLUTION_SECONDS / 4 for number in range(12)}
    for entry, at in due.items():
        wheel.set(entry, at)
    await looked_at(*due)
    assert all(at <= entry.looks[0] for entry, at in due.items())
    assert [len(entry.looks) for entry in due] == [1] * 12
    assert wheel._timer is None
    assert not wheel._slots


async def test_the_others_of_a_slot_keep_their_time_when_any_of_it_is_removed(wheel):
    at = monotonic() + RESOLUTION_SECONDS
    for gone in range(3):
        entries = [Entry() for _ in range(3)]
        for entry in entries:
            wheel.set(entry, at)
        wheel.remove(entries[gone])
        wheel.remove(entries[gone])
        entries.pop(gone)
        await looked_at(*entries)
        assert [len(entry.looks) for entry in entries] == [1, 1]
    assert not wheel._slots


async def test_an_entry_set_anew_is_looked_at_at_the_new_time_alone(wheel):
    entry, earlier, later = Entry(), Entry(), Entry()
    wheel.set(entry, monotonic() + 0.2)
    wheel.set(earlier, monotonic())
    wheel.set(entry, monotonic())
    wheel.set(later, monotonic() + 0.3)
    await looked_at(entry, earlier, later)
    assert len(entry.looks) == 1


async def test_an_entry_is_looked_at_again_when_it_asked_for_it(wheel):
    entry = Entry(again=RESOLUTION_SECONDS)
    wheel.set(entry, monotonic())
    await looked_at(entry)
    entry.looked.clear()
    await looked_at(entry)
    assert entry.looks[1] >= entry.looks[0] + RESOLUTION_SECONDS


async def test_a_bug_in_one_entry_is_reported_and_the_others_keep_their_time(wheel):
    broken, sound = Entry(error=ValueError("a bug")), Entry()
    broken.errors = []
    at = monotonic()
    wheel.set(broken, at)
    wheel.set(sound, at)
    await looked_at(sound)
    assert [str(error) for error in broken.errors] == ["a bug"]


async def test_one_may_remove_another_that_is_due_with_it(wheel):
    class Remover(Entry):
        def on_time(self, now: float) -> float | None:
            wheel.remove(self.other)
            return super().on_time(now)

    first, second = Remover(), Remover()
    first.other, second.other = second, first
    at = monotonic()
    wheel.set(first, at)
    wheel.set(second, at)
    await looked_at(first)
    assert second.looks == []
    assert not wheel._slots


async def test_the_loop_has_its_turn_between_a_few_of_many_that_are_due_together(wheel, monkeypatch):
    class Noting(Entry):
        def on_time(self, now: float) -> float | None:
            turns_of.append(turns.number)
            if len(turns_of) == 1:
                wheel.remove(gone)
                wheel.set(put_off, at + 2 * RESOLUTION_SECONDS)
            return super().on_time(now)

    turns_of = []
    entries = [Noting() for _ in range(10 * ENTRIES_AT_A_TIME)]
    at = monotonic()
    for entry in entries:
        wheel.set(entry, at)
    gone, put_off = entries.pop(), entries.pop()
    # The wheel is late by no slot, however long a turn of the loop takes.
    monkeypatch.setattr("sidecar.transport.wheel.monotonic", lambda: at + RESOLUTION_SECONDS)
    with LoopTurns() as turns:
        await looked_at(*entries)
        assert max(turns_of.count(turn) for turn in turns_of) == ENTRIES_AT_A_TIME
        monkeypatch.undo()
        await looked_at(put_off)
    assert [len(entry.looks) for entry in (*entries, put_off, gone)] == [1] * len(entries) + [1, 0]
    assert put_off.looks[0] >= at + 2 * RESOLUTION_SECONDS


async def test_a_busy_loop_s_wheel_catches_up(wheel):
    class Busy(LoopTurns):
        def _turn(self) -> None:
            time.sleep(RESOLUTION_SECONDS / 2)
            super()._turn()

    entries = [Entry() for _ in range(40 * ENTRIES_AT_A_TIME)]
    for entry in entries:
        wheel.set(entry, monotonic())
    with Busy() as turns:
        await looked_at(*entries)
    assert turns.number < 20


async def test_a_wheel_closed_amid_many_looks_at_none_of_the_rest(wheel):
    class Closing(Entry):
        def on_time(self, now: float) -> float | None:
            asyncio.get_running_loop().call_soon(wheel.close)
            return super().on_time(now)

    entries = [Closing(), *(Entry() for _ in range(1000 * ENTRIES_AT_A_TIME))]
    for entry in entries:
        wheel.set(entry, monotonic())
    await looked_at(entries[0])
    await asyncio.sleep(2 * RESOLUTION_SECONDS)
    assert sum(len(entry.looks) for entry in entries) < len(entries)
    assert not wheel._slots
