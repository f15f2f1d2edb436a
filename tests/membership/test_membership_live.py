"""Re-checks go on whatever becomes of one of them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from contextlib import suppress

import pytest

from sidecar.membership import live
from sidecar.membership.breaker import Breaker
from sidecar.membership.live import LiveMemberships
from sidecar.membership.recent import Answer
from sidecar.membership.service import KEYS_AT_A_TIME, MAX_BATCH_KEYS
from tests.harness import LoopTurns
from tests.membership.membership_program import new_key

BATCHES = 6
"""Of one slot: more than there are turns, so that one batch begins as another ends."""


class Service:
    """Answers every batch but the next `failing`, which a bug ends."""

    def __init__(self) -> None:
        self.failing = 0
        self.answered = 0

    async def batch(self, keys):
        fails, self.failing = self.failing > 0, self.failing - 1
        await asyncio.sleep(0)
        if fails:
            raise ZeroDivisionError
        self.answered += 1
        return {}


def live_memberships(service, *, recheck_seconds, on_answer=lambda _key, _answer: None) -> LiveMemberships:
    return LiveMemberships(
        service=service,
        breaker=Breaker(clock=time.monotonic),
        numbers=itertools.count(1),
        recheck_seconds=recheck_seconds,
        stale_seconds=0,
        on_answer=on_answer,
        on_problem=lambda _problem: None,
        on_stale=lambda _key: None,
        clock=time.monotonic,
    )


async def test_a_bug_in_one_batch_takes_no_turn_from_those_after_it(monkeypatch):
    monkeypatch.setattr(live, "_SLOTS", 1)
    service = Service()
    memberships = live_memberships(service, recheck_seconds=0.01)
    for _ in range(BATCHES * MAX_BATCH_KEYS):
        memberships.add(new_key(), Answer(None, 0, 0.0))
    in_turn = memberships.loops[0]
    for _ in range(3):
        service.failing = 1
        with pytest.raises(ExceptionGroup):
            await asyncio.wait_for(in_turn(), 10)
    service.failing, service.answered = 0, 0
    going_on = asyncio.create_task(in_turn())
    async with asyncio.timeout(10):
        while service.answered < 2 * BATCHES:
            await asyncio.sleep(0.005)
    going_on.cancel()
    with suppress(asyncio.CancelledError):
        await going_on


async def test_the_loop_has_its_turn_while_a_long_answer_is_taken_in_and_who_leaves_meanwhile_is_passed_over():
    turn_of = {}

    def on_answer(key, _answer) -> None:
        if not turn_of:
            asyncio.get_running_loop().call_soon(memberships.remove, keys[-1])
        turn_of[key] = turns.number

    memberships = live_memberships(Service(), recheck_seconds=60, on_answer=on_answer)
    keys = [new_key() for _ in range(MAX_BATCH_KEYS)]
    for key in keys:
        memberships.add(key, Answer(None, 0, 0.0))
        memberships.doubt(key)
    urgent = asyncio.create_task(memberships.loops[1]())
    with LoopTurns() as turns:
        async with asyncio.timeout(10):
            while len(turn_of) < len(keys) - 1:
                await asyncio.sleep(0)
    urgent.cancel()
    with suppress(asyncio.CancelledError):
        await urgent
    assert list(turn_of) == keys[:-1]
    assert max(Counter(turn_of.values()).values()) == KEYS_AT_A_TIME
