"""A deploy: not ready at once, everybody asked to reconnect in turn, exit 0; and what cuts that short."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time

import pytest
from websockets.exceptions import InvalidStatus

from tests.fire.raw import begin, dial
from tests.harness import guid, until


async def people(sidecar, chat, issuer, number: int) -> list:
    clients = []
    for _ in range(number):
        room, account = guid(), guid()
        chat.allow(room, account)
        clients.append(await sidecar.connect(room, issuer.token(account)))
    return clients


async def last_word(client) -> tuple[dict, int, str, float]:
    """The last packet, the close after it, and when."""
    packet = {}
    with contextlib.suppress(Exception):
        while True:
            packet = await client.receive()
    code, reason = await client.closed()
    return packet, code, reason, time.monotonic()


async def test_sigterm_asks_everyone_to_reconnect_spread_over_the_time_and_exits_0(start, chat, issuer):
    async with start(drain_seconds=3, address_handshake_rate=0) as sidecar:
        clients = await people(sidecar, chat, issuer, 12)
        probe = guid(), guid()
        chat.allow(*probe)
        sidecar.terminate()
        await until(lambda: _status(sidecar, "/readyz", 503), "not ready")
        assert (await sidecar.ops("/livez")).status == 200
        refused = await sidecar.probe(probe[0], issuer.token(probe[1]))
        assert (refused.status, refused.json["code"]) == (503, "UNAVAILABLE")
        assert int(refused.headers["retry-after"]) >= 1
        with pytest.raises(InvalidStatus):
            await sidecar.connect(probe[0], issuer.token(probe[1]))
        assert (await sidecar.metrics())["sphere_sidecar_draining"] == 1
        words = await asyncio.gather(*(last_word(client) for client in clients))
        for packet, code, reason, _ in words:
            assert packet["type"] == "webrtc"
            assert packet["data"]["message"]
            assert 0 <= packet["data"]["reconnectAfterMs"] <= 1000
            assert (code, reason) == (1012, "this sidecar is restarting")
        times = sorted(at for *_, at in words)
        assert times[-1] - times[0] > 2  # a quarter of a second apart, never all at once
        assert await sidecar.exit_status() == 0
        assert len([line for line in sidecar.log if line["event"] == "connection ended"]) == 12


async def _status(sidecar, path: str, status: int) -> bool:
    return (await sidecar.ops(path)).status == status


async def test_a_room_moves_as_one(start, chat, issuer):
    """Whoever shares a call is asked one after the other, so that without a bus they are not long apart."""
    async with start(drain_seconds=2) as sidecar:
        order: list[int] = []

        async def leave(number: int, client) -> None:
            await last_word(client)
            order.append(number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                room = guid()
                for _ in range(2):
                    account = guid()
                    chat.allow(room, account)
                    client = await sidecar.connect(room, issuer.token(account))
                    tasks.create_task(leave(number, client))
            sidecar.terminate()
        assert [order[at] == order[at + 1] for at in range(0, 16, 2)] == [True] * 8
        assert await sidecar.exit_status() == 0


async def test_a_second_sigterm_ends_the_drain(start, chat, issuer):
    async with start(drain_seconds=600) as sidecar:
        clients = await people(sidecar, chat, issuer, 3)
        sidecar.terminate()
        await sidecar.logged("draining")
        sidecar.terminate()
        for client in clients:
            packet, code, *_ = await last_word(client)
            assert "reconnectAfterMs" in packet["data"]
            assert code == 1012
        assert await sidecar.exit_status() == 0


async def test_a_peer_that_does_not_answer_does_not_hold_the_exit_up(start, chat, issuer):
    async with start(drain_seconds=0.1) as sidecar, dial(sidecar, receive_buffer=4096) as peer:
        room, account = guid(), guid()
        chat.allow(room, account)
        await begin(peer, room, issuer.token(account))
        peer.stop_reading()
        sidecar.terminate()
        assert await sidecar.exit_status() == 0
        assert [line["code"] for line in sidecar.log if line["event"] == "connection ended"] == [1012]


async def test_post_drain_does_the_same_without_exiting(start, chat, issuer):
    async with start(drain_seconds=1) as sidecar:
        clients = await people(sidecar, chat, issuer, 3)
        assert (await sidecar.ops("/drain", method="POST")).status == 202
        assert (await sidecar.ops("/readyz")).status == 503
        for client in clients:
            packet, code, *_ = await last_word(client)
            assert "reconnectAfterMs" in packet["data"]
            assert code == 1012
        assert (await sidecar.ops("/drain", method="POST")).status == 202
        assert (await sidecar.ops("/livez")).status == 200
        assert sidecar.process.returncode is None
        sidecar.terminate()
        assert await sidecar.exit_status() == 0


async def test_nobody_there_is_nothing_to_wait_for(start):
    async with start(drain_seconds=600) as sidecar:
        sidecar.terminate()
        assert await sidecar.exit_status() == 0


async def test_after_kill_9_a_new_process_takes_the_same_people_back(start, chat, issuer):
    room, accounts = guid(), [guid(), guid()]
    for account in accounts:
        chat.allow(room, account)
    async with start() as first:
        clients = [await first.connect(room, issuer.token(account)) for account in accounts]
        first.process.kill()
        for client in clients:
            assert (await client.closed())[0] == 1006
        await first.exit_status()
        async with start(port=first.port) as second:
            a = await second.connect(room, issuer.token(accounts[0]))
            b = await second.connect(room, issuer.token(accounts[1]))
            await b.send({"type": "offer", "data": 1})
            assert (await a.receive_signal("offer"))["senderAccountId"] == accounts[1]


async def test_who_waits_for_the_chat_service_when_it_ends_is_told_of_the_restart(start, chat, issuer):
    chat.delay_seconds = 30
    async with start(membership_timeout_ms=60_000) as sidecar:
        asking = asyncio.create_task(sidecar.probe(guid(), issuer.token(guid())))
        await until(lambda: chat.calls["GetMembership"], "the question is asked")
        sidecar.terminate()
        answer = await asking
        assert (answer.status, answer.json["code"]) == (503, "UNAVAILABLE")
        assert await sidecar.exit_status() == 0


async def test_a_start_that_waits_is_ended_by_a_signal():
    """Keys whose server takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as place:
        ops_port = place.getsockname()[1]
        place.close()
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
        environ |= {
            "SIDECAR_HOST": "127.0.0.1",
            "SIDECAR_PORT": "0",
            "SIDECAR_OPS_HOST": "127.0.0.1",
            "SIDECAR_OPS_PORT": str(ops_port),
            "SIDECAR_JWT_JWKS_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/",
            "SIDECAR_JWT_AUDIENCES": "api",
            "SIDECAR_MEMBERSHIP_TARGET": "127.0.0.1:1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sidecar", "serve", env=environ, stderr=asyncio.subprocess.PIPE
        )
        asked, _ = await asyncio.to_thread(silent.accept)
        with asked:
            process.terminate()
            _, log = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0
        assert b'"started"' not in log
