"""What one peer may do: rates, malformed packets, floods. The sizes of messages are with the conformance tests."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from sidecar.transport.frames import PIECES_A_MESSAGE
from tests.fire.raw import BINARY, CONT, PING, PONG, TEXT, begin, close, dial, frame
from tests.harness import guid, until


@contextlib.asynccontextmanager
async def member(sidecar, chat, issuer, room=None):
    room, account = room or guid(), guid()
    chat.allow(room, account)
    async with dial(sidecar) as peer:
        yield await begin(peer, room, issuer.token(account))


OFFER = frame(TEXT, b'{"type":"offer","data":{}}')


async def test_what_is_too_fast_is_dropped_with_an_error_and_counted(start, chat, issuer):
    async with start(message_rate=0.01, message_burst=3) as sidecar:
        room, reader = guid(), guid()
        chat.allow(room, reader)
        other = await sidecar.connect(room, issuer.token(reader))
        async with member(sidecar, chat, issuer, room) as peer:
            peer.send(*[OFFER] * 5)
            for _ in range(2):
                packet = await peer.packet()
                assert packet["type"] == "error"
                assert packet["data"] == {"code": "RATE_LIMITED"}
            for _ in range(3):
                await other.receive_signal("offer")
            await other.nothing_more()
            metrics = await sidecar.metrics()
            assert metrics['sphere_sidecar_messages_dropped_total{reason="rate_limited"}'] == 2
            assert metrics[f'sphere_sidecar_room_messages_received_total{{room="{room}",type="offer"}}'] == 3


async def test_going_on_regardless_ends_with_4429_after_200_more(start, chat, issuer):
    async with (
        start(message_rate=0.01, message_burst=1) as sidecar,
        member(sidecar, chat, issuer) as peer,
    ):
        peer.send(*[OFFER] * 201)
        for _ in range(200):
            assert (await peer.packet())["data"]["code"] == "RATE_LIMITED"
        peer.say({"type": "ping"})
        code, reason = await peer.ended()
        assert (code, reason) == (4429, "went on sending after RATE_LIMITED")


async def test_a_pause_of_a_second_forgives(start, chat, issuer):
    async with (
        start(message_rate=0.001, message_burst=1) as sidecar,
        member(sidecar, chat, issuer) as peer,
    ):
        peer.send(*[OFFER] * 150)
        for _ in range(149):
            assert (await peer.packet())["data"]["code"] == "RATE_LIMITED"
        await asyncio.sleep(1.05)  # the pause is what is tested
        peer.send(*[OFFER] * 150)
        for _ in range(150):
            assert (await peer.packet())["data"]["code"] == "RATE_LIMITED"


async def test_the_burst_refills_at_the_rate(start, chat, issuer):
    async with (
        start(message_rate=20, message_burst=1) as sidecar,
        member(sidecar, chat, issuer) as peer,
    ):

        async def allowed() -> bool:
            peer.say({"type": "ping", "data": 1})
            return (await peer.packet())["type"] == "pong"

        await until(allowed, "the first is allowed")
        await until(allowed, "another one is, later")


async def test_a_rate_of_0_is_no_limit(start, chat, issuer):
    async with start(message_rate=0) as sidecar, member(sidecar, chat, issuer) as peer:
        peer.send(*(frame(TEXT, b'{"type":"ping","data":%d}' % number) for number in range(3000)))
        for number in range(3000):
            assert (await peer.packet())["data"] == number


@pytest.mark.parametrize(
    "flood",
    [frame(PING), frame(PONG), frame(CONT, fin=False), frame(CONT, b" ", fin=False) * PIECES_A_MESSAGE],
    ids=["ping", "pong", "empty", "small"],
)
async def test_frames_that_are_no_messages_count_too(start, chat, issuer, flood):
    """Else they would be a way to keep the loop busy that no limit sees."""
    async with start(message_rate=1, message_burst=10) as sidecar, member(sidecar, chat, issuer) as peer:
        peer.send(frame(TEXT, b"{", fin=False) if flood[0] == CONT else b"", *[flood] * 1000)
        assert (await peer.ended())[0] == 4429


async def test_a_flood_leaves_the_others_their_turn(start, chat, issuer):
    """Ten peers send as fast as they can for as long as it takes; a call beside them goes on."""
    chunk = frame(CONT, b"x", fin=False) * 8000
    async with start(message_rate=0, max_message_bytes=0) as sidecar, contextlib.AsyncExitStack() as stack:
        flooders = [await stack.enter_async_context(member(sidecar, chat, issuer)) for _ in range(10)]
        alice = await stack.enter_async_context(member(sidecar, chat, issuer))

        async def flood(peer) -> None:
            peer.send(frame(TEXT, b"{", fin=False))
            while True:
                peer.send(chunk)
                await peer.writer.drain()

        tasks = [asyncio.create_task(flood(peer)) for peer in flooders]
        try:
            waits = []
            for number in range(50):
                begun = time.perf_counter()
                alice.say({"type": "ping", "data": number})
                assert (await alice.packet())["data"] == number
                waits.append(time.perf_counter() - begun)
            print(f"beside ten floods an answer took {max(waits) * 1000:.0f} ms at the most")
            assert not [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    "bad",
    [frame(TEXT, b"{"), frame(BINARY, b"\xff"), frame(TEXT, b'{"type":"user-left"}')],
    ids=["no JSON", "no UTF-8", "the server's to say"],
)
async def test_twenty_malformed_packets_within_a_minute_end_with_1008(start, chat, issuer, bad):
    async with start() as sidecar, member(sidecar, chat, issuer) as peer:
        for _ in range(19):
            peer.send(bad)
            assert (await peer.packet())["type"] == "error"
        peer.say({"type": "ping", "data": "still here"})
        assert (await peer.packet())["data"] == "still here"
        peer.send(bad)
        assert (await peer.packet())["type"] == "error"
        assert await peer.ended() == (1008, "20 malformed packets within a minute")
        metrics = await sidecar.metrics()
        assert metrics['sphere_sidecar_messages_dropped_total{reason="malformed"}'] == 20


async def test_who_is_not_there_is_no_malformed_packet(start, chat, issuer):
    async with start() as sidecar, member(sidecar, chat, issuer) as peer:
        for _ in range(30):
            peer.say({"type": "offer", "data": {}, "to": guid()})
            assert (await peer.packet())["data"]["code"] == "TARGET_NOT_IN_ROOM"


async def test_after_our_close_nothing_a_peer_sends_is_kept(start, chat, issuer):
    """The 5 seconds it has to answer are no time to fill our memory in."""
    async with (
        start(max_connection_seconds=1) as sidecar,
        member(sidecar, chat, issuer) as peer,
    ):
        before = (await sidecar.metrics())["process_resident_memory_bytes"]
        assert (await peer.ended())[0] == 4401
        peer.send(frame(TEXT, b"", length=2**40), b"x" * 2**20)
        for _ in range(64):
            peer.send(b"x" * 2**20)
            with contextlib.suppress(ConnectionError):
                await peer.writer.drain()
        after = (await sidecar.metrics())["process_resident_memory_bytes"]
        assert after - before < 24 * 2**20
        line = await sidecar.logged("connection ended", connection=peer.welcome["connectionId"])
        assert line["code"] == 4401


async def test_a_peer_that_does_not_answer_our_close_is_cut(start, chat, issuer):
    async with (
        start(max_connection_seconds=1) as sidecar,
        member(sidecar, chat, issuer) as peer,
    ):
        assert (await peer.ended())[0] == 4401
        assert await peer.gone() == b""
        await sidecar.logged("connection ended", code=4401)


async def test_a_peer_that_closes_only_its_half_leaves_the_room_at_once(start, chat, issuer):
    room = guid()
    async with (
        start() as sidecar,
        member(sidecar, chat, issuer, room) as alice,
        member(sidecar, chat, issuer, room) as bob,
    ):
        await alice.signal("user-joined")
        bob.writer.write_eof()
        await alice.signal("user-left")
        line = await sidecar.logged("connection ended", connection=bob.welcome["connectionId"])
        assert line["code"] == 1006


async def test_a_close_is_answered_even_where_messages_are_limited(start, chat, issuer):
    async with (
        start(message_rate=0.01, message_burst=1) as sidecar,
        member(sidecar, chat, issuer) as peer,
    ):
        peer.send(*[OFFER] * 50, close(1000))
        assert await peer.ended() == (1000, "")
