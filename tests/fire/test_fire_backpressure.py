"""Readers that stop reading, senders that do not: bounded for each, bounded in sum, and no one waits for anyone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import pytest
from sanic.server.protocols.http_protocol import HttpProtocol

from sidecar import errors
from sidecar.edge import listener
from sidecar.transport.backlog import Backlog
from tests.fire.faults import one_world
from tests.fire.raw import PING, TEXT, begin, dial, frame, upgrade
from tests.harness import guid, until

MB = 2**20
BIG = frame(TEXT, b'{"type":"offer","data":"%b"}' % (b"x" * 30_000))


@contextlib.asynccontextmanager
async def member(sidecar, chat, issuer, room, **options):
    account = guid()
    chat.allow(room, account)
    async with dial(sidecar, **options) as peer:
        yield await begin(peer, room, issuer.token(account))


def resident(sidecar) -> int:
    return int(Path(f"/proc/{sidecar.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_reader_that_stops_is_closed_with_1013_and_told_if_it_reads_again(start, chat, issuer):
    room = guid()
    async with (
        start(send_buffer_bytes=300_000, message_rate=0) as sidecar,
        member(sidecar, chat, issuer, room) as sender,
        member(sidecar, chat, issuer, room, receive_buffer=4096) as slow,
    ):
        await sender.signal("user-joined")
        slow.stop_reading()

        async def gone() -> bool:
            sender.send(BIG)
            return slow_left.done()

        slow_left = asyncio.create_task(sender.signal("user-left"))
        await until(gone, "the slow reader is out of the room")
        slow.read_again()
        assert await slow.ended() == (1013, "too slow at reading what the room sends")
        line = await sidecar.logged("connection ended", connection=slow.welcome["connectionId"])
        assert line["code"] == 1013
        metrics = await sidecar.metrics()
        assert metrics['sphere_sidecar_messages_dropped_total{reason="slow_consumer"}'] == 1


async def test_one_that_a_single_write_is_too_much_for_is_counted_once(start, chat, issuer):
    room = guid()
    async with (
        start(send_buffer_bytes=1000) as sidecar,
        member(sidecar, chat, issuer, room) as sender,
        member(sidecar, chat, issuer, room, receive_buffer=4096) as slow,
    ):
        await sender.signal("user-joined")
        slow.stop_reading()
        for _ in range(20):
            sender.send(BIG)
        await sender.signal("user-left")
        metrics = await sidecar.metrics()
        assert metrics['sphere_sidecar_messages_dropped_total{reason="slow_consumer"}'] == 1


async def test_a_reader_that_never_reads_again_is_cut(start, chat, issuer):
    room = guid()
    async with (
        start(send_buffer_bytes=100_000, message_rate=0) as sidecar,
        member(sidecar, chat, issuer, room) as sender,
        member(sidecar, chat, issuer, room, receive_buffer=4096) as slow,
    ):
        await sender.signal("user-joined")
        slow.stop_reading()
        sender.send(*[BIG] * 200)
        await sender.signal("user-left")
        await sidecar.logged("connection ended", connection=slow.welcome["connectionId"], code=1013)


async def test_a_slow_reader_within_its_buffer_loses_nothing(start, chat, issuer):
    room = guid()
    async with (
        start(send_buffer_bytes=2 * MB, message_rate=0) as sidecar,
        member(sidecar, chat, issuer, room) as sender,
        member(sidecar, chat, issuer, room, receive_buffer=4096) as slow,
    ):
        slow.stop_reading()
        for number in range(40):
            sender.send(frame(TEXT, json.dumps({"type": "offer", "data": [number, "x" * 30_000]}).encode()))
        sender.say({"type": "ping", "data": "all sent"})
        while (await sender.packet()) != {"type": "pong", "data": "all sent"}:
            pass
        slow.read_again()
        for number in range(40):
            assert (await slow.signal("offer"))["data"][0] == number


async def test_the_welcome_is_not_counted_against_its_reader(start, chat, issuer):
    """Sixty profiles are more than this buffer; who reads them slowly is still welcome."""
    room = guid()
    async with (
        start(send_buffer_bytes=20_000, message_rate=0) as sidecar,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(60):
            account = guid()
            chat.allow(room, account, profile={"bio": "b" * 1900})
            peer = await stack.enter_async_context(dial(sidecar))
            await begin(peer, room, issuer.token(account))
            stack.push_async_callback(_cancelled, asyncio.create_task(peer.gone()))
        async with member(sidecar, chat, issuer, room, receive_buffer=2048) as last:
            assert len(last.welcome["participants"]) == 60
            last.say({"type": "ping"})
            assert await last.packet() == {"type": "pong"}


async def _cancelled(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_fifty_stalled_readers_in_a_busy_room_are_bounded_in_sum_and_slow_nobody(start, chat, issuer):
    room, total = guid(), 12 * MB
    async with (
        start(
            total_buffer_bytes=total,
            message_rate=0,
            address_handshake_rate=0,
            metrics_max_rooms=0,
        ) as sidecar,
        contextlib.AsyncExitStack() as stack,
    ):
        sender = await stack.enter_async_context(member(sidecar, chat, issuer, room))
        reader = await stack.enter_async_context(member(sidecar, chat, issuer, room))
        stalled = [
            await stack.enter_async_context(member(sidecar, chat, issuer, room, receive_buffer=4096))
            for _ in range(50)
        ]
        for peer in stalled:
            peer.stop_reading()
        before = peak = resident(sidecar)
        waits: list[float] = []
        drained = asyncio.create_task(sender.gone())
        for number in range(400):
            begun = time.perf_counter()
            sender.send(frame(TEXT, json.dumps({"type": "offer", "data": [number, "x" * 10_000]}).encode()))
            assert (await reader.signal("offer"))["data"][0] == number  # nobody waits for a peer
            waits.append(time.perf_counter() - begun)
            peak = max(peak, resident(sidecar))
        waits.sort()
        print(f"50 stalled: {(peak - before) / MB:.1f} MB more at the most, p99 {waits[-4] * 1000:.1f} ms")
        assert peak - before < total + 12 * MB  # where each alone might hold 50 MB together
        for peer in stalled:
            await sidecar.logged("connection ended", connection=peer.welcome["connectionId"], code=1013)
        metrics = await sidecar.metrics()
        assert metrics['sphere_sidecar_messages_dropped_total{reason="slow_consumer"}'] == 50
        assert metrics["sphere_sidecar_connections"] == 2
        await _cancelled(drained)


@pytest.mark.parametrize(
    "flood", [frame(TEXT, b'{"type":"ping","data":"%b"}' % (b"x" * 1000)), frame(PING, b"x" * 125)]
)
async def test_a_sender_that_does_not_read_its_answers_is_read_no_more(start, chat, issuer, flood):
    """What it may pile up is bounded by the buffers of both kernels, not by how much it sends."""
    room = guid()
    async with (
        start(message_rate=0, heartbeat_seconds=2, pong_timeout_seconds=3) as sidecar,
        member(sidecar, chat, issuer, room, receive_buffer=4096) as peer,
    ):
        peer.stop_reading()
        before = resident(sidecar)
        chunk = flood * 200

        async def send_on() -> None:
            while True:
                peer.send(chunk)
                await peer.writer.drain()

        sending = asyncio.create_task(send_on())
        line = await sidecar.logged("connection ended", connection=peer.welcome["connectionId"])
        assert line["code"] == 1013
        assert resident(sidecar) - before < 8 * MB
        await _cancelled(sending)


class _Slow:
    def __init__(self, backlog: Backlog) -> None:
        self.backlog = backlog
        self.cut = False

    def give_up(self) -> None:
        self.cut = True


def test_the_sum_counts_what_is_unsent_and_the_slowest_go_first():
    backlog = Backlog(limit_bytes=100)
    small, large, medium = (_Slow(backlog) for _ in range(3))
    backlog.update(small, 20)
    backlog.update(large, 45)
    backlog.update(medium, 30)
    backlog.update(medium, 35)
    assert backlog.bytes == 100
    backlog.update(small, 21)
    assert (small.cut, large.cut, medium.cut) == (False, True, False)
    assert backlog.bytes == 56
    backlog.forget(medium)
    backlog.forget(medium)
    assert backlog.bytes == 21
    backlog.update(medium, 200)
    assert medium.cut
    assert backlog.bytes == 21


def test_a_sum_of_0_is_no_limit():
    backlog = Backlog(limit_bytes=0)
    slow = _Slow(backlog)
    backlog.update(slow, 2**40)
    assert not slow.cut


async def test_answers_left_unread_before_the_upgrade_do_not_lift_the_bound(issuer, monkeypatch):
    """The transport said that nothing more fits before the connection had it, and does not say so again."""
    before: list[HttpProtocol] = []

    class Noted(listener._ImpatientHttp):
        def connection_made(self, transport):
            before.append(self)
            super().connection_made(transport)

    monkeypatch.setattr(listener, "_ImpatientHttp", Noted)
    room, account = guid(), guid()
    async with one_world(issuer) as world, dial(world, receive_buffer=4096) as slow:
        await until(lambda: before, "the connection is accepted")
        http = before[-1]
        world.chat.allow(room, account)
        sender = await world.join(room)
        slow.stop_reading()
        while http._can_write.is_set():
            http.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n" * 100)
        slow.send(upgrade(room, issuer.token(account)))
        joined = await sender.receive_signal("user-joined")
        connection = world.running.connections.by_id[joined["senderConnectionId"]]
        for _ in range(60):
            await sender.send({"type": "offer", "data": "x" * 60_000})
        await sender.receive_signal("user-left")
        assert connection.disconnect is errors.SLOW_CONSUMER
        await sender.close()
