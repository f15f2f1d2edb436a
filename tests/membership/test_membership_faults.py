"""The chat service in its own process, killed, frozen, or behind a network that goes silent."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from sidecar.errors import Refusal, RefusalCode
from sidecar.membership.breaker import FAILURES_TO_OPEN, OPEN_SECONDS
from sidecar.membership.model import Ended, MemberKey
from tests.chat_process import ChatProcess
from tests.membership.membership_program import Program, new_key, running, until
from tests.membership.membership_wire import Wire


@pytest.fixture
async def server():
    server = ChatProcess()
    yield server
    await server.kill()


async def admitted(program: Program, key: MemberKey, *, seconds: float = 30) -> None:
    """Ask as clients do, again and again, until let in; time passes for the breaker as it does for the test."""
    loop = asyncio.get_running_loop()
    begun, begun_at = program.clock.now, loop.time()
    async with asyncio.timeout(seconds):
        while True:
            program.clock.now = begun + loop.time() - begun_at
            with suppress(Refusal):
                await program.directory.admit(key)
                return
            await asyncio.sleep(0.05)


async def test_a_killed_service_is_refused_fast_and_found_again_when_it_restarts(server):
    key, other = new_key(), new_key()
    await server.start([key])
    async with running(server.target, cache_seconds=0) as program:
        await program.join(key)
        await server.kill()
        for _ in range(FAILURES_TO_OPEN + 3):
            assert (await program.refusal(other)).code is RefusalCode.MEMBERSHIP_UNAVAILABLE
        assert program.directory.breaker_open
        assert not program.told
        await server.start([key, other])
        await admitted(program, other)
        assert not program.directory.breaker_open


async def test_members_removed_while_the_service_was_down_are_closed_when_it_is_back(server):
    kicked, kept = new_key(), new_key()
    await server.start([kicked, kept])
    async with running(server.target, recheck_seconds=0.2) as program:
        await program.join(kicked)
        await program.join(kept)
        await server.kill()
        await until(lambda: program.directory.stale)
        await server.start([kept])
        program.clock.now += OPEN_SECONDS
        await until(lambda: (program.told, setattr(program.clock, "now", program.clock.now + 0.01))[0])
        assert set(program.told) == {(kicked, Ended())}


async def test_a_frozen_service_costs_a_deadline_until_the_breaker_opens(server):
    key = new_key()
    await server.start([key])
    async with running(server.target, timeout_seconds=0.3) as program:
        await program.directory.admit(key)
        server.freeze()
        refusals = await asyncio.gather(*(program.refusal(new_key()) for _ in range(FAILURES_TO_OPEN)))
        assert {refusal.code for refusal in refusals} == {RefusalCode.MEMBERSHIP_UNAVAILABLE}
        assert program.requests["GetMembership", "DEADLINE_EXCEEDED"] == FAILURES_TO_OPEN
        await asyncio.gather(*(program.refusal(new_key()) for _ in range(1000)))
        assert program.requests["GetMembership", "DEADLINE_EXCEEDED"] == FAILURES_TO_OPEN, (
            "not asked any more"
        )
        await program.directory.admit(key)  # still cached
        server.thaw()
        program.clock.now += OPEN_SECONDS
        await admitted(program, key)


async def test_a_connection_on_which_nothing_is_answered_any_more_is_replaced(server):
    """The relay acknowledges every byte, so TCP has nothing to complain of; pings come too seldom."""
    key = new_key()
    await server.start([key])
    async with (
        Wire(server.port).laid() as wire,
        running(wire.target, timeout_seconds=0.3, cache_seconds=0) as program,
    ):
        await program.directory.admit(key)
        assert wire.accepted == 1
        wire.go_silent()
        assert (await program.refusal(key)).code is RefusalCode.MEMBERSHIP_UNAVAILABLE
        await admitted(program, key)
        assert wire.accepted >= 2


async def test_a_pong_that_does_not_come_ends_the_connection(server):
    key = new_key()
    await server.start([key])
    async with (
        Wire(server.port).laid() as wire,
        running(wire.target, timeout_seconds=30, keepalive_seconds=0.5, cache_seconds=0) as program,
    ):
        await program.directory.admit(key)
        wire.go_silent()
        assert (await program.refusal(key)).code is RefusalCode.MEMBERSHIP_UNAVAILABLE
        assert program.requests["GetMembership", "UNAVAILABLE"] == 1
