"""Handshakes wait for those right behind them, and for nobody else."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.edge.gathering import ENOUGH, QUIET_TURNS, Gathering


class Visitors:
    """Come to a gathering; `turn` is the number of the loop's turn, `went` when each went on."""

    def __init__(self) -> None:
        self.gathering = Gathering()
        self.turn = 0
        self.went: dict[int, int] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def visit(self, number: int) -> None:
        await self.gathering.wait()
        self.went[number] = self.turn

    def come(self) -> None:
        self.tasks.append(asyncio.create_task(self.visit(len(self.tasks))))

    async def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn += 1
            await asyncio.sleep(0)


@pytest.fixture
async def visitors():
    visitors = Visitors()
    yield visitors
    for task in visitors.tasks:
        task.cancel()
    await asyncio.gather(*visitors.tasks, return_exceptions=True)


async def test_who_comes_alone_waits_for_two_turns(visitors):
    visitors.come()
    await visitors.turns(1 + QUIET_TURNS)
    assert not visitors.went
    await visitors.turns(2)
    assert len(visitors.went) == 1


async def test_those_who_come_turn_by_turn_go_on_in_one(visitors):
    for _ in range(5):
        visitors.come()
        await visitors.turns(1)
    assert not visitors.went
    await visitors.turns(3 + QUIET_TURNS)
    assert len(visitors.went) == 5
    assert len(set(visitors.went.values())) == 1


async def test_sixteen_wait_for_nobody_else(visitors):
    for _ in range(2 * ENOUGH):
        visitors.come()
        await visitors.turns(1)
    await visitors.turns(3 + QUIET_TURNS)
    assert len(visitors.went) == 2 * ENOUGH
    first, second = sorted(set(visitors.went.values()))
    assert list(visitors.went.values()) == [first] * ENOUGH + [second] * ENOUGH


@pytest.mark.parametrize("number", [0, 1], ids=["the first", "another"])
async def test_who_leaves_while_waiting_keeps_nobody_from_going_on(visitors, number):
    for _ in range(3):
        visitors.come()
    await visitors.turns(1)
    visitors.tasks[number].cancel()
    await visitors.turns(3 + QUIET_TURNS)
    assert set(visitors.went) == {0, 1, 2} - {number}
    visitors.come()
    await visitors.turns(3 + QUIET_TURNS)
    assert set(visitors.went) == {0, 1, 2, 3} - {number}
