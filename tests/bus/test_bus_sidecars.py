"""Three real sidecars on a real NATS: what holds on one replica holds on three, through kills and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal

import nats
import pytest
from websockets.exceptions import InvalidStatus

from sidecar.observe.certificates import lives
from tests.bus.nats_identities import certificates
from tests.bus.nats_server import CUT_SECONDS, run_nats
from tests.harness import guid, until

NODE_TIMEOUT = 2


@pytest.fixture
async def bus(tmp_path):
    async with run_nats(tmp_path) as server:
        yield server


@pytest.fixture
def fleet(start, bus):
    """`async with fleet(3) as sidecars:`; they listen to one bus."""

    @contextlib.asynccontextmanager
    async def run(number: int, **settings):
        common = {
            "bus_url": bus.url, "bus_node_timeout_seconds": NODE_TIMEOUT, "handshake_rate": 0,
            "address_handshake_rate": 0,
        }  # fmt: skip
        async with contextlib.AsyncExitStack() as stack:
            yield await asyncio.gather(
                *(stack.enter_async_context(start(**(common | settings))) for _ in range(number))
            )

    return run


async def connected(sidecar) -> bool:
    return (await sidecar.metrics())["sphere_sidecar_bus_connected"] == 1


async def test_a_call_between_people_on_different_replicas(fleet, chat, issuer):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice, nick="Ally", profile={"bio": "ü"})
    chat.allow(room, bob)
    async with fleet(3) as (one, two, _three):
        a = await one.connect(room, issuer.token(alice))
        b = await two.connect(room, issuer.token(bob), query="dialect=dyson")
        assert [p["account_id"] for p in b.welcome["participants"]] == [alice]
        assert b.welcome["participants"][0]["connection_ids"] == [a.connection_id]
        assert (await a.receive_signal("user-joined"))["senderAccountId"] == bob
        await a.send({"type": "offer", "data": {"sdp": "o"}})
        offer = await b.receive_signal("offer")
        assert offer["data"] == {"sdp": "o"}
        assert offer["account"]["nick"] == "Ally"
        assert offer["account"]["profile"] == {"bio": "ü"}
        await b.send({"type": "answer", "to": alice, "toConnection": a.connection_id, "data": {"sdp": "a"}})
        answer = await a.receive_signal("answer")
        assert answer["to"] == alice
        assert answer["senderConnectionId"] == b.connection_id
        await b.close()
        assert (await a.receive_signal("user-left"))["senderAccountId"] == bob
        page = await one.metrics()
        assert page["sphere_sidecar_bus_published_total"] == 2  # alice's join and her offer
        assert page["sphere_sidecar_bus_received_total"] == 3


async def test_a_replica_hears_only_rooms_with_people_of_its_own(fleet, chat, issuer):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    async with fleet(3) as (one, two, three):
        a = await one.connect(room, issuer.token(alice))
        b = await two.connect(room, issuer.token(bob))
        await a.receive_signal("user-joined")
        for number in range(20):
            await a.send({"type": "offer", "data": number})
            await b.receive_signal("offer")
        assert (await two.metrics())["sphere_sidecar_bus_received_total"] == 20
        assert (await three.metrics())["sphere_sidecar_bus_received_total"] == 0


@pytest.mark.parametrize(("max_message_bytes", "told"), [(30_000, False), (65_536, True), (0, True)])
async def test_an_operator_is_told_where_the_server_is_too_small_for_signals(
    start, tmp_path, max_message_bytes, told
):
    async with (
        run_nats(tmp_path, "max_payload: 65536") as server,
        start(bus_url=server.url, max_message_bytes=max_message_bytes) as sidecar,
    ):
        await sidecar.logged("started")  # which waits for the bus
        warnings = [line for line in sidecar.log if "too big for this server" in line["event"]]
        assert [line["server_max_payload"] for line in warnings] == [65_536] * told


async def test_the_people_of_a_killed_replica_leave_once_each_within_the_timeout(fleet, chat, issuer):
    room = guid()
    watcher, twice, once = guid(), guid(), guid()
    for account in (watcher, twice, once):
        chat.allow(room, account)
    async with fleet(3) as (one, two, _three):
        w = await one.connect(room, issuer.token(watcher))
        await two.connect(room, issuer.token(twice))
        await two.connect(room, issuer.token(twice))
        await two.connect(room, issuer.token(once))
        for kind in ("user-joined", "connection-joined", "user-joined"):
            await w.receive_signal(kind)
        two.process.kill()
        left = [(await w.receive())["data"] for _ in range(3)]
        assert sorted((p["type"], p["senderAccountId"]) for p in left) == sorted(
            [("connection-left", twice), ("user-left", twice), ("user-left", once)]
        )
        await w.nothing_more()


async def test_a_replica_that_stalled_and_comes_back_is_made_right_again(fleet, chat, issuer):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    async with fleet(2) as (one, two):
        a = await one.connect(room, issuer.token(alice))
        b = await two.connect(room, issuer.token(bob))
        await a.receive_signal("user-joined")
        two.process.send_signal(signal.SIGSTOP)
        try:
            await a.receive_signal("user-left")
            await a.send({"type": "offer", "data": "while you were away"})
        finally:
            two.process.send_signal(signal.SIGCONT)
        assert (await a.receive_signal("user-joined"))["senderAccountId"] == bob
        assert (await b.receive_signal("offer"))["data"] == "while you were away"
        await b.send({"type": "answer", "data": 1})
        await a.receive_signal("answer")
        await b.nothing_more()
        await a.nothing_more()


async def test_a_restart_of_the_server_loses_nothing_that_was_said(fleet, chat, issuer, bus):
    room, alice, bob, carol = guid(), guid(), guid(), guid()
    for account in (alice, bob, carol):
        chat.allow(room, account)
    async with fleet(2) as (one, two):
        a = await one.connect(room, issuer.token(alice))
        a2 = await one.connect(room, issuer.token(carol))
        b = await two.connect(room, issuer.token(bob))
        await a.receive_signal("user-joined")
        await a.receive_signal("user-joined")
        await a2.receive_signal("user-joined")
        sent = 0
        for _ in range(20):
            await a.send({"type": "offer", "data": (sent := sent + 1)})
        await bus.kill()
        for sidecar in (one, two):
            await until(lambda s=sidecar: _disconnected(s), "bus_connected 0")
            assert (await sidecar.ops("/readyz")).status == 200
        for _ in range(20):
            await a.send({"type": "offer", "data": (sent := sent + 1)})
        assert [(await a2.receive_signal("offer"))["data"] for _ in range(sent)] == list(range(1, sent + 1))
        await a2.close()
        await a.receive_signal("user-left")
        await a.nothing_more()
        await asyncio.sleep(CUT_SECONDS)
        await bus.start()
        assert [(await b.receive_signal("offer"))["data"] for _ in range(sent)] == list(range(1, sent + 1))
        assert (await b.receive_signal("user-left"))["senderAccountId"] == carol
        await b.nothing_more()
        await a.nothing_more()
        for sidecar in (one, two):
            page = await sidecar.metrics()
            assert page["sphere_sidecar_bus_connected"] == 1
            assert page["sphere_sidecar_bus_gaps_total"] == 0


async def _disconnected(sidecar) -> bool:
    return not await connected(sidecar)


async def test_a_replica_may_start_while_the_bus_is_down_and_joins_do_not_wait(fleet, chat, issuer, bus):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    await bus.kill()
    async with fleet(2) as (one, two):
        a = await one.connect(room, issuer.token(alice))
        b = await two.connect(room, issuer.token(bob))
        assert b.welcome["participants"] == []
        assert (await one.ops("/readyz")).status == 200
        await bus.start()
        assert (await a.receive_signal("user-joined"))["senderAccountId"] == bob
        assert (await b.receive_signal("user-joined"))["senderAccountId"] == alice
        await a.nothing_more()
        await b.nothing_more()


async def test_a_drained_replica_says_goodbye_before_any_timeout(fleet, chat, issuer):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    async with fleet(2, bus_node_timeout_seconds=60, drain_seconds=0) as (one, two):
        a = await one.connect(room, issuer.token(alice))
        await two.connect(room, issuer.token(bob))
        await a.receive_signal("user-joined")
        two.terminate()
        await a.receive_signal("user-left")
        assert await two.exit_status() == 0


def revocation(session: str, account: str) -> bytes:
    return json.dumps(
        {
            "event_id": guid(), "timestamp": "2026-01-01T00:00:00Z", "event_type": "whatever", "session_id": session,
            "account_id": account, "client_id": None, "device_id": None, "revoked_at": "2026-01-01T00:00:00Z",
        }
    ).encode()  # fmt: skip


async def test_a_revoked_session_ends_everywhere_and_stays_out_also_on_a_replica_that_starts_later(
    fleet, chat, issuer, bus
):
    room, alice, session = guid(), guid(), guid()
    chat.allow(room, alice)
    client = await nats.connect(bus.url)
    stream = client.jetstream()
    await stream.add_stream(name="auth_session_events", subjects=["auth.session.>"])
    async with fleet(2) as (one, two):
        ended = issuer.token(alice, session_id=session.replace("-", "").upper())
        other = await one.connect(room, issuer.token(alice))
        here, there = await one.connect(room, ended), await two.connect(room, ended)
        await client.publish("auth.session.revoked", b"not JSON")
        await client.publish("auth.session.revoked", revocation(guid(), alice))
        await stream.publish("auth.session.revoked", revocation(session.upper(), alice))
        await stream.publish("auth.session.revoked", revocation(session, alice))
        for connection in (here, there):
            code, reason = await connection.closed()
            assert (code, reason) == (4401, "session revoked")
        async with fleet(1) as (three,):
            for sidecar in (one, two, three):
                answer = await sidecar.probe(room, ended)
                assert (answer.status, answer.json["code"]) == (401, "TOKEN_REVOKED")
        await other.send({"type": "ping"})
        assert (await one.metrics())['sphere_sidecar_bus_dropped_total{reason="bad_event"}'] >= 1
        with pytest.raises(InvalidStatus):
            await two.connect(room, ended)
    await client.close()


async def test_a_member_event_makes_the_replicas_concerned_ask_at_once(fleet, chat, issuer, bus):
    room, alice = guid(), guid()
    chat.allow(room, alice)
    async with fleet(2, membership_recheck_seconds=600) as (one, two):
        a, b = await one.connect(room, issuer.token(alice)), await two.connect(room, issuer.token(alice))
        chat.deny(room, alice)
        client = await nats.connect(bus.url)
        await client.publish("chat.member.changed", b"{}")
        event = {"room_id": room.upper(), "account_id": alice.replace("-", "")}
        await client.publish("chat.member.changed", json.dumps(event).encode())
        assert (await a.closed())[0] == 4403
        assert (await b.closed())[0] == 4403
        await client.close()


async def test_people_who_storm_in_on_three_replicas_see_each_other_exactly_once(fleet, chat, issuer):
    room, accounts = guid(), [guid() for _ in range(18)]
    for account in accounts:
        chat.allow(room, account)
    async with fleet(3) as sidecars:
        clients = await asyncio.gather(
            *(sidecars[n % 3].connect(room, issuer.token(account)) for n, account in enumerate(accounts))
        )
        for client, account in zip(clients, accounts, strict=True):
            seen = [p["accountId"] for p in client.welcome["participants"]]
            while len(seen) < 17:
                packet = (await client.receive())["data"]
                assert packet["type"] == "user-joined"
                seen.append(packet["senderAccountId"])
            assert sorted(seen) == sorted(set(accounts) - {account})
            await client.nothing_more()


async def test_the_life_of_the_bus_ca_is_on_the_page(start, tmp_path):
    ca, cert, key = certificates(tmp_path)
    async with run_nats(tmp_path, f"tls {{ cert_file: {str(cert)!r}, key_file: {str(key)!r} }}") as server:
        async with start(bus_url=server.url, bus_tls_ca_file=ca) as sidecar:

            async def shown():
                page = await sidecar.metrics()
                return page.get('sphere_sidecar_certificate_expiry_timestamp_seconds{certificate="bus_ca"}')

            assert await until(shown) == lives(ca=ca.read_bytes())["ca"].end
            await until(lambda: connected(sidecar))
