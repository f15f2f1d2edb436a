"""Three sidecars on three NATS servers of one cluster: a server may die, its sidecar goes to another."""

from __future__ import annotations

import asyncio
import contextlib
import json

import nats
import pytest

from tests.bus.nats_server import NatsServer, run_nats_cluster
from tests.harness import guid, until

SAID = 20


@pytest.fixture
async def servers(tmp_path):
    async with run_nats_cluster(tmp_path) as running:
        yield running


@pytest.fixture
def fleet(start):
    """`async with fleet(urls, …) as sidecars:` starts one for each."""

    @contextlib.asynccontextmanager
    async def run(*urls: str, **settings):
        common = {"bus_node_timeout_seconds": 4, "handshake_rate": 0, "address_handshake_rate": 0}
        async with contextlib.AsyncExitStack() as stack:
            yield await asyncio.gather(
                *(stack.enter_async_context(start(bus_url=url, **common, **settings)) for url in urls)
            )

    return run


def netloc(server: NatsServer) -> str:
    return f"127.0.0.1:{server.port}"


async def on_the_bus(sidecar, *servers: NatsServer) -> str:
    """The one of these servers that the sidecar says it is connected to."""
    known = {netloc(server) for server in servers}

    def found():
        lines = [line for line in sidecar.log if line.get("event") == "bus connected"]
        return lines and lines[-1]["server"] in known and lines[-1]["server"]

    return await until(found, "connected to one of them")


async def offers(person, count: int) -> dict[str, list[int]]:
    """What comes next, by sender."""
    heard: dict[str, list[int]] = {}
    for _ in range(count):
        try:
            packet = await person.receive_signal("offer")
        except TimeoutError:
            pytest.fail(f"of {count} offers came {heard}")
        heard.setdefault(packet["senderAccountId"], []).append(packet["data"])
    return heard


async def test_a_room_goes_on_over_the_death_of_a_server_with_all_that_was_said_in_order_and_once(
    fleet, chat, issuer, servers
):
    room, accounts = guid(), [guid() for _ in range(3)]
    for account in accounts:
        chat.allow(room, account)
    dead, *alive = servers
    # Each is told of one server only: where else to go it learns from that one.
    async with fleet(*(server.url for server in servers)) as sidecars:
        one, two, three = sidecars
        people = [
            await sidecar.connect(room, issuer.token(account))
            for sidecar, account in zip(sidecars, accounts, strict=True)
        ]
        a, b, c = people
        for person in people:  # the servers may be finding each other still
            for _ in range(2 - len(person.welcome["participants"])):
                await person.receive_signal("user-joined")

        async def say(first: int) -> None:
            for number in range(first, first + SAID):
                for person in people:
                    await person.send({"type": "offer", "data": number})

        await say(0)
        await dead.kill()
        await say(SAID)
        assert await on_the_bus(one, *alive)
        await say(2 * SAID)
        for person in people:
            heard = await offers(person, 2 * 3 * SAID)
            assert list(heard.values()) == [list(range(3 * SAID))] * 2
            await person.nothing_more()
        for sidecar in sidecars:
            page = await sidecar.metrics()
            assert page["sphere_sidecar_bus_connected"] == 1
            assert page["sphere_sidecar_bus_gaps_total"] == 0
        await c.close()
        for person in (a, b):
            assert (await person.receive_signal("user-left"))["senderAccountId"] == accounts[2]
        assert await on_the_bus(two, alive[0])
        assert await on_the_bus(three, alive[1])


async def test_of_several_servers_one_that_is_there_is_enough(fleet, chat, issuer, servers):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    dead, *alive = servers
    await dead.kill()
    async with fleet(",".join(server.url for server in servers), alive[0].url) as (one, two):
        await on_the_bus(one, *alive)
        a, b = await one.connect(room, issuer.token(alice)), await two.connect(room, issuer.token(bob))
        assert (await a.receive_signal("user-joined"))["senderAccountId"] == bob
        await b.send({"type": "offer", "data": 1})
        assert (await a.receive_signal("offer"))["data"] == 1


async def test_a_session_is_known_to_have_ended_though_servers_of_the_stream_die(
    fleet, chat, issuer, servers
):
    room, alice = guid(), guid()
    chat.allow(room, alice)
    client = await nats.connect([server.url for server in servers])
    stream = client.jetstream()

    async def made() -> bool:
        with contextlib.suppress(nats.errors.Error):
            await stream.add_stream(name="auth_session_events", subjects=["auth.session.>"], num_replicas=3)
            return True
        return False

    await until(made, "a leader for the stream")
    before, after = guid(), guid()

    async def revoked(session: str) -> bool:
        event = json.dumps({"session_id": session}).encode()
        with contextlib.suppress(nats.errors.Error, TimeoutError):  # without a leader there is no answer
            await stream.publish("auth.session.revoked", event, timeout=1)
            return True
        return False

    async def refused(sidecar, session: str) -> bool:
        answer = await sidecar.probe(room, issuer.token(alice, session_id=session))
        return answer.json["code"] == "TOKEN_REVOKED"

    await until(lambda: revoked(before), "the stream takes events")
    async with fleet(",".join(server.url for server in servers)) as (one,):
        await until(lambda: refused(one, before), "what was said before its start")
        here = await on_the_bus(one, *servers)
        (dead,) = (server for server in servers if netloc(server) == here)
        await dead.kill()
        alive = [server for server in servers if server is not dead]
        await on_the_bus(one, *alive)

        await until(lambda: revoked(after), "the stream has a leader again")
        await until(lambda: refused(one, after), "what was said after the death")
    await client.close()
