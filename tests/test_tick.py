"""What waits for the end of a tick, in a real loop."""

from __future__ import annotations

import asyncio
from functools import partial

from sidecar.transport.tick import AT_A_TIME, Tick


async def test_work_waits_for_the_end_of_the_tick_and_is_done_in_order():
    tick, done = Tick(), []
    for number in range(AT_A_TIME):
        tick(partial(done.append, number))
    assert not done
    await asyncio.sleep(0)
    assert done == list(range(AT_A_TIME))


async def test_no_more_waits_than_what_stays_in_the_caches():
    tick, done = Tick(), []
    for number in range(2 * AT_A_TIME + 1):
        tick(partial(done.append, number))
        assert number - len(done) < AT_A_TIME
    assert done == list(range(2 * AT_A_TIME))
    await asyncio.sleep(0)
    assert done == list(range(2 * AT_A_TIME + 1))


async def test_work_that_makes_more_work_leaves_none_behind():
    tick, done = Tick(), []

    def twice(number: int) -> None:
        done.append(number)
        tick(partial(done.append, -number))

    numbers = range(1, 2 * AT_A_TIME + 2)
    for number in numbers:
        tick(partial(twice, number))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sorted(done) == sorted([*numbers, *(-number for number in numbers)])
