"""Peers that fall silent: asked with a ping, given their time, and gone; a cut cable is no different."""

from __future__ import annotations

import asyncio
import contextlib
import time

from tests.cable import laid_cable
from tests.fire.raw import PING, PONG, Peer, begin, dial, frame
from tests.harness import guid, until


@contextlib.asynccontextmanager
async def member(sidecar, chat, issuer, room, **options):
    account = guid()
    chat.allow(room, account)
    async with dial(sidecar, **options) as peer:
        yield await begin(peer, room, issuer.token(account))


async def test_a_peer_that_answers_no_ping_is_closed_with_4408_in_the_promised_time(start, chat, issuer):
    async with (
        start(heartbeat_seconds=1, pong_timeout_seconds=1) as sidecar,
        member(sidecar, chat, issuer, guid()) as peer,
    ):
        got = await peer.frame()
        assert got == (PING, b"", True)
        assert await peer.ended() == (4408, "no pong in time")
        line = await sidecar.logged("connection ended", connection=peer.welcome["connectionId"])
        assert line["code"] == 4408


async def test_any_byte_is_a_sign_of_life(start, chat, issuer):
    answers = [[frame(PONG)] * 6, [frame(PONG, b"unasked")] * 6, [frame(PING)] * 6]
    answers += [[b"\x81", *[b"\x80"] * 5]]  # one frame, a byte at a time

    async def live_on(peer, answers) -> None:
        for answer in answers:
            while (await peer.frame()).opcode != PING:
                pass
            peer.send(answer)

    async with (
        start(heartbeat_seconds=0.5, pong_timeout_seconds=2) as sidecar,
        contextlib.AsyncExitStack() as stack,
    ):
        peers = [await stack.enter_async_context(member(sidecar, chat, issuer, guid())) for _ in answers]
        await asyncio.gather(*map(live_on, peers, answers))
        assert not [line for line in sidecar.log if line["event"] == "connection ended"]


async def test_the_next_ping_does_not_wait_for_the_pong_timeout(start, chat, issuer):
    async with (
        start(heartbeat_seconds=0.2, pong_timeout_seconds=60) as sidecar,
        member(sidecar, chat, issuer, guid()) as peer,
    ):
        for _ in range(3):
            while (await peer.frame()).opcode != PING:
                pass
            peer.send(frame(PONG))


async def test_round_trips_are_measured(start, chat, issuer):
    async with start(heartbeat_seconds=0.3) as sidecar, member(sidecar, chat, issuer, guid()) as peer:
        while (await peer.frame()).opcode != PING:
            pass
        peer.send(frame(PONG))

        async def measured():
            metrics = await sidecar.metrics()
            return metrics["sphere_sidecar_heartbeat_rtt_seconds_count"] and metrics

        metrics = await until(measured, "a round trip")
        assert 0 < metrics["sphere_sidecar_heartbeat_rtt_seconds_sum"] < 10


async def test_heartbeats_may_be_off(start, chat, issuer):
    async with (
        start(heartbeat_seconds=0, pong_timeout_seconds=0.1) as sidecar,
        member(sidecar, chat, issuer, guid()) as quiet,
    ):
        assert quiet.welcome["heartbeatSeconds"] == 0
        async with start(heartbeat_seconds=0.2, pong_timeout_seconds=0.2) as other:
            async with member(other, chat, issuer, guid()) as watched:
                assert (await watched.ended())[0] == 4408
        quiet.say({"type": "ping"})
        assert await quiet.packet() == {"type": "pong"}


async def test_without_a_pong_timeout_pings_are_sent_and_silence_is_borne(start, chat, issuer):
    async with (
        start(heartbeat_seconds=0.2, pong_timeout_seconds=0) as sidecar,
        member(sidecar, chat, issuer, guid()) as peer,
    ):
        assert (await peer.frame()).opcode == PING
        async with start(heartbeat_seconds=0.2, pong_timeout_seconds=0.5) as other:
            async with member(other, chat, issuer, guid()) as watched:
                assert (await watched.ended())[0] == 4408
        peer.say({"type": "ping"})
        assert await peer.packet() == {"type": "pong"}


async def test_a_pulled_cable_is_noticed_though_nothing_is_reset(start, chat, issuer):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    async with (
        laid_cable() as cable,
        start(host="0.0.0.0", heartbeat_seconds=1, pong_timeout_seconds=1) as sidecar,
    ):
        near = await sidecar.connect(room, issuer.token(alice))
        sock = await cable.dial(sidecar.port)
        reader, writer = await asyncio.open_connection(sock=sock)
        far = await begin(Peer(reader, writer), room, issuer.token(bob))
        await near.receive_signal("user-joined")
        for _ in range(2):
            while (await far.frame()).opcode != PING:
                pass
            far.send(frame(PONG))
        pulled = time.monotonic()
        await cable.pull()
        left = await near.receive_signal("user-left")  # the kernel alone would wait for many minutes
        print(f"noticed {time.monotonic() - pulled:.1f} s after the cable was pulled")
        assert left["senderAccountId"] == bob
        line = await sidecar.logged("connection ended", connection=far.welcome["connectionId"])
        assert line["code"] == 4408
        writer.transport.abort()
        await near.close()
