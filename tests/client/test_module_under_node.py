"""The client module against a real sidecar, with Node's own WebSocket and fetch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.node import run_script
from tests.harness import guid

DRIVER = Path(__file__).with_name("module_under_node.mjs")


def drive(sidecar, room: str, token: str, auth: str = "subprotocol"):
    return run_script(DRIVER, f"http://127.0.0.1:{sidecar.port}", room, token, auth)


@pytest.mark.parametrize("auth", ["subprotocol", "query"])
async def test_it_connects_relays_and_keeps_track_of_who_is_there(sidecar, chat, issuer, auth):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    async with drive(sidecar, room, issuer.token(alice), auth) as module:
        module.tell({"do": "connect"})
        welcome = await module.hear(event="welcome")
        other = await sidecar.connect(room, issuer.token(bob))
        assert (await module.hear(event="peers", accounts=[bob]))["accounts"] == [bob]

        module.tell(
            {"do": "send", "type": "wave", "data": {"n": 1}, "target": {"toConnection": other.connection_id}}
        )
        wave = await other.receive_signal("wave")
        assert (wave["data"], wave["senderConnectionId"]) == ({"n": 1}, welcome["connectionId"])
        await other.send({"type": "wave", "data": {"n": 2}, "to": alice})
        heard = await module.hear(event="signal", type="wave")
        assert (heard["data"], heard["senderAccountId"]) == ({"n": 2}, bob)

        module.tell({"do": "ping"})
        assert (await module.hear(event="pinged"))["ms"] > 0
        module.tell({"do": "refresh", "token": issuer.token(alice, ttl_seconds=900)})
        assert (await module.hear(event="refreshed"))["expiresAt"].endswith("Z")

        await other.close()
        await module.hear(event="peers", accounts=[])


async def test_a_stranger_is_told_apart_from_a_server_that_is_away(start, chat, issuer):
    room, alice, stranger = guid(), guid(), guid()
    chat.allow(room, alice)
    async with start() as sidecar:
        async with drive(sidecar, room, issuer.token(stranger)) as module:
            module.tell({"do": "probe"})
            assert (await module.hear(event="probed"))["verdict"] == "stop"
            module.tell({"do": "connect"})
            assert (await module.hear(event="refused"))["code"] == "NOT_A_MEMBER"
            assert (await module.hear(event="closed"))["reason"] == "not-a-member"
            module.tell({"do": "token", "token": "no token at all"})
            module.tell({"do": "probe"})
            probed = await module.hear(event="probed")
            assert (probed["verdict"], probed["status"]) == ("token", 401)
        async with drive(sidecar, room, issuer.token(alice)) as module:
            module.tell({"do": "probe"})
            assert (await module.hear(event="probed"))["verdict"] == "ready"
            sidecar.process.kill()
            await sidecar.exit_status()
            module.tell({"do": "probe"})
            probed = await module.hear(event="probed")
            assert (probed["verdict"], probed["code"]) == ("later", "UNREACHABLE")


async def test_whoever_loses_the_membership_is_out_and_stays_out(start, chat, issuer):
    room, alice = guid(), guid()
    chat.allow(room, alice)
    async with start() as sidecar, drive(sidecar, room, issuer.token(alice)) as module:
        module.tell({"do": "connect"})
        await module.hear(event="welcome")
        chat.deny(room, alice, tell=True)
        assert (await module.hear(event="disconnected"))["code"] == 4403
        assert (await module.hear(event="closed"))["reason"] == "not-a-member"


async def test_it_comes_back_to_a_sidecar_that_drained_and_started_again(start, chat, issuer):
    room, alice = guid(), guid()
    chat.allow(room, alice)
    async with start(drain_seconds=1) as sidecar:
        async with drive(sidecar, room, issuer.token(alice)) as module:
            module.tell({"do": "connect"})
            first = await module.hear(event="welcome")
            sidecar.terminate()
            await module.hear(event="draining")
            assert (await module.hear(event="disconnected"))["code"] == 1012
            await sidecar.exit_status()
            async with start(port=sidecar.port):
                again = await module.hear(event="welcome")
                assert again["connectionId"] != first["connectionId"]


async def test_an_expired_token_is_replaced_and_the_connection_comes_back(start, chat, issuer):
    room, alice = guid(), guid()
    chat.allow(room, alice)
    async with start(on_token_expiry="close", jwt_leeway_seconds=0) as sidecar:
        async with drive(sidecar, room, issuer.token(alice, ttl_seconds=2)) as module:
            module.tell({"do": "connect"})
            await module.hear(event="welcome")
            assert (await module.hear(event="disconnected"))["code"] == 4401
            await module.hear(event="state", state="needs-token")
            module.tell({"do": "token", "token": issuer.token(alice)})
            await module.hear(event="welcome")
