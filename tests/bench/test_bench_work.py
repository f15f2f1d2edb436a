"""Bounds on the work of one message and one handshake, in calls: they repeat where times do not.

The figures are those of Python 3.11, a little more than was counted; other versions count a few calls more or less
(comprehensions). Who exceeds one has added work to the path of every message: `python -m bench.instructions` says
how much, and docs/performance.md what it was.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Callable

import pytest

from bench.accept import door
from bench.path import Stage, client_frame
from sidecar.auth.verifier import Verifier
from sidecar.edge.gathering import ENOUGH

# Calls of one message, from its frame's bytes to the writes to all others: what it costs by itself, and per receiver.
CALLS_BETWEEN_TWO = 42
CALLS_OF_TWO_IN_ONE_READ = 89
CALLS_A_MESSAGE = 54
CALLS_A_MESSAGE_AMONG_OTHERS = 50
CALLS_A_RECEIVER = 2
CALLS_OF_AN_ACCEPT = 540
BYTES_OF_A_BURST = 500_000
"""At most in use for fifty messages at once in a room of 100; for each speaker's own bytes at once it was 3.7 MB."""


class Calls:
    """`with Calls() as calls:` counts calls of Python and C functions in this thread."""

    def __enter__(self):
        self.count = 0
        sys.setprofile(self._on_event)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        self.count -= 1  # setprofile itself

    def _on_event(self, frame, event, argument):
        self.count += event in {"call", "c_call"}


def calls_of(work: Callable[[], object]) -> int:
    work()  # what is made once is not counted
    with Calls() as calls:
        work()
    return calls.count


@pytest.fixture
async def stage():
    stages = []

    def make(*, counted: bool = True, **options) -> Stage:
        stages.append(Stage(counted=counted, **options))
        return stages[-1]

    yield make
    for one in stages:
        one.close()


@pytest.mark.parametrize("size", [2, 8, 100])
async def test_a_message_costs_a_fixed_number_of_calls_and_a_few_more_per_receiver(stage, size):
    room = stage(size=size)
    bound = CALLS_BETWEEN_TWO if size == 2 else CALLS_A_MESSAGE + CALLS_A_RECEIVER * (size - 1)
    assert calls_of(room.say) <= bound
    assert sum(room.writes()) == 2 * (size - 1)


@pytest.mark.parametrize("size", [2, 8, 100])
async def test_what_is_said_into_silence_costs_what_it_costs_between_two_and_a_few_calls_more_per_receiver(
    stage, size
):
    room = stage(size=size, quiet=True)
    assert calls_of(room.say) <= CALLS_BETWEEN_TWO + CALLS_A_RECEIVER * (size - 2)


async def test_a_second_message_in_one_read_costs_no_more_than_its_bound(stage):
    room = stage(size=2)
    assert calls_of(lambda: room.say(messages=2)) <= CALLS_OF_TWO_IN_ONE_READ


@pytest.mark.parametrize(("size", "messages"), [(2, 2), (8, 1), (100, 1)])
async def test_a_message_of_each_in_one_tick_costs_less_than_each_by_itself(stage, size, messages):
    room = stage(size=size)
    assert calls_of(lambda: room.all_say(messages=messages)) <= CALLS_A_MESSAGE_AMONG_OTHERS * size * messages
    assert room.writes() == [2] * size


async def test_a_message_costs_the_same_however_many_rooms_there_are(stage):
    many, one = (stage(size=3, rooms=rooms, counted=False) for rooms in (500, 1))
    assert calls_of(many.say) == calls_of(one.say)


async def test_a_directed_message_costs_the_same_however_many_are_in_the_room(stage):
    costs = []
    for size in (3, 100):
        room = stage(size=size)
        room.frame = client_frame(to=room.room[1].member.identity.account_id)
        costs.append(calls_of(room.say))
        assert room.writes() == [0, 2] + [0] * (size - 2)
    assert costs[0] == costs[1]


async def test_what_was_said_in_one_tick_is_written_once_per_receiver(stage):
    room = stage(size=8)
    for _ in range(10):
        room.say(tick=False)
    room.tick()
    assert room.writes() == [0] + [1] * 7


@pytest.mark.parametrize(
    ("size", "messages", "quiet", "at_once"),
    [
        (2, 1, False, 1), (2, 2, False, 0), (2, 5, False, 0), (3, 1, False, 0), (3, 2, False, 0),
        (2, 1, True, 1), (2, 2, True, 0), (3, 1, True, 2), (3, 2, True, 0),
    ],
)  # fmt: skip
async def test_what_is_said_in_one_read_is_written_once_and_at_once_where_nothing_is_to_come_with_it(
    stage, size, messages, quiet, at_once
):
    room = stage(size=size, quiet=quiet)
    room.say(messages=messages, tick=False)
    before = room.writes()
    assert sum(before) == at_once
    room.tick()
    assert [sum(writes) for writes in zip(before, room.writes(), strict=True)] == [0] + [1] * (size - 1)


async def test_who_speaks_right_after_somebody_else_waits_for_the_end_of_the_tick(stage, monkeypatch):
    monkeypatch.setattr("sidecar.signaling.room.SPARSE_SECONDS", 3600)
    room = stage(size=3, quiet=True)
    room.say(0, tick=False)
    for speaker in room.room[1:]:
        speaker.data_received(room.frame)
    assert room.writes() == [0, 1, 1]
    room.tick()
    assert room.writes() == [1, 1, 1]


async def test_a_room_collects_as_long_as_signals_come_together(stage, monkeypatch):
    monkeypatch.setattr("sidecar.signaling.room.SPARSE_SECONDS", 0)
    three = stage(size=3)

    def alone() -> list[int]:
        three.room[0].data_received(three.frame)
        at_once = three.writes()
        three.tick()
        three.writes()
        return at_once

    three.all_say()
    assert three.writes() == [1, 1, 1]
    assert alone() == [0, 0, 0]  # it might have been as many as before
    assert alone() == [0, 1, 1]
    assert alone() == [0, 1, 1]


async def test_one_room_s_talk_does_not_keep_another_waiting(stage):
    two = stage(size=3, rooms=2)
    here, there = two.room[0], list(two.connections.by_id.values())[3]
    here.data_received(two.frame * 2)
    there.data_received(two.frame)
    assert two.writes() == [0, 0, 0, 0, 1, 1]
    two.tick()
    assert two.writes() == [0, 1, 1, 0, 0, 0]


async def test_what_is_read_with_something_else_after_it_is_written_at_the_end_of_the_tick(stage):
    room = stage(size=2)
    room.room[0].data_received(room.frame + b"\x8a\x80\x00\x00\x00\x00")  # a pong
    assert room.writes() == [0, 0]
    room.tick()
    assert room.writes() == [0, 1]


async def test_what_many_say_in_one_tick_is_joined_for_one_receiver_after_the_other(stage):
    one = stage(size=100)

    def burst() -> None:
        for speaker in one.room[:50]:
            speaker.data_received(one.frame)
        one.tick()

    burst()  # what is made once is not counted
    tracemalloc.start()
    burst()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < BYTES_OF_A_BURST


async def test_members_that_speak_one_dialect_are_sent_the_same_bytes_object(stage, monkeypatch):
    written = []
    room = stage(size=8)
    monkeypatch.setattr(
        "sidecar.signaling.outlet.write", lambda _, frame: written.append(frame) or len(frame)
    )
    room.say()
    assert len(written) == 7
    assert len({id(frame) for frame in written}) == 1


async def test_an_accept_with_both_answers_cached_costs_no_more_than_its_bound(tmp_path):
    async with door(tmp_path) as entrance:
        requests = entrance.requests(ENOUGH)
        await entrance.let_in(requests)
        entrance.send_home()
        await asyncio.sleep(0)
        with Calls() as calls:
            await entrance.let_in(requests)
        assert calls.count <= ENOUGH * CALLS_OF_AN_ACCEPT


async def test_tokens_of_those_who_come_turn_by_turn_are_verified_in_one(tmp_path, monkeypatch):
    turn, verified_in = 0, []
    verify = Verifier.verify

    async def noted(*arguments, **options):
        verified_in.append(turn)
        return await verify(*arguments, **options)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(Verifier, "verify", noted)
    async with door(tmp_path) as entrance:
        counting = asyncio.create_task(count_turns())
        for request in entrance.requests(ENOUGH):
            entrance.receive(request)
            await asyncio.sleep(0)
        await entrance.upgraded()
        counting.cancel()
    assert len(verified_in) == ENOUGH
    assert len(set(verified_in)) == 1


async def test_an_accept_leaves_nothing_for_the_garbage_collector(tmp_path):
    async with door(tmp_path) as entrance:
        requests = entrance.requests(40)
        await entrance.let_in(requests[:20])
        await _settle()
        gc.collect()
        gc.disable()
        try:
            await entrance.let_in(requests[20:])
            await _settle()
            assert gc.collect() < 20  # less than one for each
        finally:
            gc.enable()


async def _settle() -> None:
    """Let Sanic's tasks of these connections end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    ending = [task for task in others if "connection_task" in repr(task.get_coro())]
    if ending:
        await asyncio.wait(ending, timeout=5)
