"""The chat service dies, freezes, comes back: who is in stays, who is new waits, and nobody has to help."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from sidecar.membership.breaker import FAILURES_TO_OPEN
from tests.cable import laid_cable
from tests.chat_process import ChatProcess, chat_process
from tests.harness import Answer, Sidecar, guid, run_sidecar, until
from tests.trust import trust_issuer as issuing
from tests.trust.trust_issuer import NO_LIMITS, token
from tests.trust.trust_peers import connect_all, count, kept, still_there, within

LIVE = 300
TIMEOUT_MS = 500
RECHECK_SECONDS = 2
REFUSALS_AT_ONCE = 100


class World:
    """Rooms of ten people, two who do not connect, and the settings of a sidecar among them."""

    def __init__(self, folder: Path, live: int = LIVE) -> None:
        key_file = folder / "jwt.pem"
        key_file.write_bytes(issuing.PEM_OLD)
        rooms = [guid() for _ in range(live // 10)]
        self.connected = [(room, guid()) for room in rooms for _ in range(10)]
        self.remembered, self.stranger = (rooms[0], guid()), (rooms[0], guid())
        self.members = [*self.connected, self.remembered, self.stranger]
        self.settings = (
            issuing.SETTINGS
            | NO_LIMITS
            | {
                "jwt_public_key_file": key_file,
                "membership_timeout_ms": TIMEOUT_MS,
                "membership_recheck_seconds": RECHECK_SECONDS,
            }
        )

    def joins(self) -> list[tuple[str, str]]:
        return [(room, token(account)) for room, account in self.connected]

    async def probe(self, sidecar: Sidecar, member: tuple[str, str]) -> Answer:
        room, account = member
        return await sidecar.probe(room, token(account))

    async def unavailable(self, sidecar: Sidecar, member: tuple[str, str]) -> None:
        answer = await self.probe(sidecar, member)
        assert (answer.status, answer.json["code"]) == (503, "MEMBERSHIP_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1

    async def let_in(self, sidecar: Sidecar, member: tuple[str, str]) -> bool:
        return (await self.probe(sidecar, member)).status == 400


async def stale(sidecar: Sidecar) -> float:
    return count(await sidecar.metrics(), "membership_stale")


async def fresh(sidecar: Sidecar) -> bool:
    return not await stale(sidecar)


async def breaker_open(sidecar: Sidecar) -> float:
    return count(await sidecar.metrics(), "membership_breaker_open")


async def given_up(sidecar: Sidecar) -> float:
    """How many calls were refused for want of a connection."""
    return count(await sidecar.metrics(), "membership_requests_total", code="UNAVAILABLE")


async def kill(chat: ChatProcess) -> None:
    await chat.kill()


async def freeze(chat: ChatProcess) -> None:
    chat.freeze()


@pytest.mark.parametrize("outage", [kill, freeze], ids=["killed", "frozen"])
async def test_an_outage_keeps_who_is_in_answers_who_is_new_at_once_and_ends_by_itself(tmp_path, outage):
    world = World(tmp_path)
    async with (
        chat_process(world.members) as chat,
        run_sidecar(**world.settings, membership_target=chat.target) as sidecar,
    ):
        clients = await connect_all(sidecar, world.joins())
        async with kept(clients):
            assert await world.let_in(sidecar, world.remembered)
            await outage(chat)
            # Each of the first is bounded by the deadline of one call, whatever the service does.
            for _ in range(FAILURES_TO_OPEN):
                await within(TIMEOUT_MS / 1000 + 1, world.unavailable(sidecar, world.stranger))
            await until(lambda: breaker_open(sidecar), "the breaker opens")
            asked = count(await sidecar.metrics(), "membership_requests_total")
            refusals = (world.unavailable(sidecar, world.stranger) for _ in range(REFUSALS_AT_ONCE))
            await within(2, asyncio.gather(*refusals))
            asked = count(await sidecar.metrics(), "membership_requests_total") - asked
            assert asked <= 5, "the service is asked once a second at most"
            await until(lambda: stale(sidecar), "the outage in the metrics")
            assert await world.let_in(sidecar, world.remembered), "from the cache"
            await still_there(clients)

            if outage is freeze:
                chat.thaw()
            else:
                await chat.start(world.members)
            await until(lambda: world.let_in(sidecar, world.stranger), "recovery")
            await until(lambda: fresh(sidecar), "the end of the outage in the metrics")
            metrics = await sidecar.metrics()
            assert count(metrics, "membership_breaker_open") == 0
            assert count(metrics, "disconnects_total") == 0


async def test_a_chat_service_beyond_a_pulled_cable_is_noticed_and_found_again_when_it_is_plugged_in(
    tmp_path,
):
    """Nothing closes the connection: with pings every 310 s it is the kernel's TCP_USER_TIMEOUT that gives it up."""
    world = World(tmp_path, 20)
    async with (
        laid_cable() as cable,
        chat_process(world.members, target=f"{cable.there}:5001", within=cable.within) as chat,
        run_sidecar(
            **world.settings | {"membership_timeout_ms": 1500}, membership_target=chat.target
        ) as sidecar,
    ):
        clients = await connect_all(sidecar, world.joins())
        async with kept(clients):
            assert not await given_up(sidecar)
            await cable.pull()
            await within(1.5 + 1, world.unavailable(sidecar, world.stranger))
            await until(lambda: stale(sidecar), "the outage in the metrics")
            await until(lambda: given_up(sidecar), "the end of the connection")
            await still_there(clients)

            await cable.plug_in()
            await until(lambda: world.let_in(sidecar, world.stranger), "recovery")
            await until(lambda: fresh(sidecar), "the end of the outage in the metrics")
            assert count(await sidecar.metrics(), "disconnects_total") == 0


async def test_who_was_removed_during_the_outage_is_closed_after_it_and_nobody_else(tmp_path):
    world = World(tmp_path, 100)
    async with (
        chat_process(world.members) as chat,
        run_sidecar(**world.settings, membership_target=chat.target) as sidecar,
    ):
        removed, *others = await connect_all(sidecar, world.joins())
        async with kept(others):
            await chat.kill()
            await until(lambda: stale(sidecar))
            await still_there([removed, *others])
            await chat.start(world.members[1:])
            assert (await removed.closed())[0] == 4403
            assert (await world.probe(sidecar, world.connected[0])).status == 403
            await until(lambda: fresh(sidecar))
            assert count(await sidecar.metrics(), "disconnects_total") == 1


async def test_live_connections_end_when_their_membership_was_unverifiable_for_too_long(tmp_path):
    world = World(tmp_path, 50)
    stale_seconds = 4
    async with (
        chat_process(world.members) as chat,
        run_sidecar(
            **world.settings, membership_target=chat.target, membership_stale_seconds=stale_seconds
        ) as sidecar,
    ):
        clients = await connect_all(sidecar, world.joins())
        await chat.kill()
        await until(lambda: stale(sidecar))
        await still_there(clients)
        ends = await asyncio.gather(*(client.closed() for client in clients))
        assert {code for code, _ in ends} == {1013}
        assert await fresh(sidecar), "nobody is left who rests on an old answer"
        ended = [line for line in sidecar.log if line.get("event") == "connection ended"]
        assert len(ended) == len(clients)
        assert min(line["seconds"] for line in ended) >= stale_seconds - RECHECK_SECONDS
        await chat.start(world.members)
        await until(lambda: world.let_in(sidecar, world.stranger), "recovery")


@pytest.mark.parametrize("stream", [True, False], ids=["with a stream", "re-checks alone"])
async def test_recovery_asks_about_live_connections_in_turn_not_at_once(chat, tmp_path, stream):
    if not stream:
        chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")
    world = World(tmp_path)
    for room, account in world.members:
        chat.allow(room, account)
    settings = world.settings | {"membership_recheck_seconds": 4}
    async with run_sidecar(**settings, membership_target=chat.target) as sidecar:
        clients = await connect_all(sidecar, world.joins())
        async with kept(clients):
            await chat.stop()
            await until(lambda: stale(sidecar))
            chat.calls.clear()
            chat.batch_sizes.clear()
            await chat.start()
            await until(lambda: fresh(sidecar), "recovery")
            assert chat.calls["GetMembership"] == 0
            # The live ones are dealt to eight turns over the interval: none has a quarter of them.
            assert max(chat.batch_sizes) <= LIVE / 4
            assert sum(chat.batch_sizes) <= 3 * LIVE
            assert count(await sidecar.metrics(), "disconnects_total") == 0
