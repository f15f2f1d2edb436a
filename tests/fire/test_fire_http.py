"""Bad peers before the upgrade: slow, silent, endless, garbled. Bounded in time and memory; nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.edge.lobby import (
    BACKLOG,
    BACKLOG_AT_LEAST,
    FILES_AT_MOST,
    FILES_OF_OUR_OWN,
    OPS_PLACES,
    WAITING_AT_LEAST,
    places,
)
from tests.fire.raw import begin, dial, upgrade
from tests.harness import DEADLINE_SECONDS, guid, until

HEAD_SECONDS = 10
FILES = "process_open_fds"
DEAF = 5
LATEST_SECONDS = (
    3 * HEAD_SECONDS
)  # looked at every 5 s; the last begins after 5 s; the rest is for a busy machine


async def joins(world) -> None:
    """Somebody else gets in and is heard."""
    room, account = guid(), guid()
    world.chat.allow(room, account)
    async with dial(world.sidecar) as peer:
        await begin(peer, room, world.issuer.token(account))
        peer.say({"type": "ping", "data": 1})
        assert (await peer.packet()) == {"type": "pong", "data": 1}


async def answer(peer) -> bytes:
    """All that comes until the end. What came before a reset counts: `read(-1)` would lose it."""
    got = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := await peer.reader.read(65_536):
            got += chunk
    return bytes(got)


async def test_slow_silent_and_lingering_peers_are_cut_and_nobody_else_notices(world):
    """All at once: heads that never end, heads never begun, bodies trickled, answers never read, and upgrades refused
    while the clock ticks (every 5 s; Sanic stops its clock for good if an upgrade is being judged just then)."""
    world.chat.delay_seconds = 1.2
    files = (await world.sidecar.metrics())[FILES]

    async def trickle(peer, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in data:
                peer.send(bytes([byte]))
                await asyncio.sleep(0.5)

    async def linger(peer, number: int) -> None:
        await asyncio.sleep(number)
        token = world.issuer.token(guid())
        peer.send(upgrade(guid(), token).replace(b"Connection: Upgrade\r\n", b""))

    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(dial(world.sidecar)) for _ in range(306)]
        silent, slow, bodies, lingering = peers[:100], peers[100:200], peers[200:300], peers[300:]
        for _ in range(DEAF):
            deaf = await stack.enter_async_context(dial(world.sidecar, receive_buffer=4096))
            deaf.stop_reading()
            deaf.send(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 1500)
        for peer in bodies:
            peer.send(b"POST /api/chat/realtime/x HTTP/1.1\r\nHost: x\r\nContent-Length: 16000\r\n\r\n")
        work = [asyncio.create_task(trickle(peer, upgrade(guid(), "x") * 100)) for peer in slow]
        work += [asyncio.create_task(trickle(peer, b"x" * 16_000)) for peer in bodies]
        work += [asyncio.create_task(linger(peer, number)) for number, peer in enumerate(lingering)]

        try:
            async with asyncio.timeout(LATEST_SECONDS):
                ended = asyncio.gather(*(answer(peer) for peer in peers))
                for _ in range(3):
                    await joins(world)
                answers = await ended

                async def all_cut() -> bool:
                    return (await world.sidecar.metrics())[FILES] <= files + 1

                await until(all_cut, "those that do not read are cut")
        finally:
            world.chat.delay_seconds = 0
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    assert set(answers[: len(silent)]) == {b""}
    assert all(one.startswith(b"HTTP/1.1 408") or not one for one in answers[100:200])
    assert all(one.startswith(b"HTTP/1.1 404") for one in answers[200:300])
    assert all(one.startswith(b"HTTP/1.1 403") for one in answers[300:])


FEW = {"open_files": 300, "max_connections": 100}
PLACES, _ = places(**FEW)


async def test_silent_sockets_without_number_do_not_keep_others_out(start, chat, issuer):
    """More of them than files may be open: those silent the longest make way."""
    room, account = guid(), guid()
    chat.allow(room, account)
    async with start(**FEW) as sidecar, contextlib.AsyncExitStack() as stack:
        begun = await stack.enter_async_context(dial(sidecar))
        begun.send(upgrade(room, issuer.token(account))[:-2])
        silent = []
        for _ in range(8):
            silent += [await stack.enter_async_context(dial(sidecar)) for _ in range(50)]
            async with dial(sidecar) as peer:
                await begin(peer, room, issuer.token(account))
                assert (await sidecar.ops("/livez")).status == 200
        assert await begun.gone() == b""
        for peer in silent[:-PLACES]:
            assert await peer.gone() == b""
        assert not silent[-1].reader.at_eof()
        await sidecar.logged("too many sockets: those silent the longest are cut", listener="signaling")


async def test_a_handshake_that_is_judged_does_not_make_way_for_silent_sockets(start, chat, issuer):
    room, account = guid(), guid()
    chat.allow(room, account)
    chat.delay_seconds = 1.0
    async with start(**FEW) as sidecar, contextlib.AsyncExitStack() as stack:
        peer = await stack.enter_async_context(dial(sidecar))
        judged = asyncio.create_task(begin(peer, room, issuer.token(account)))
        await until(lambda: chat.calls["GetMembership"], "the handshake waits for the chat service")
        silent = [await stack.enter_async_context(dial(sidecar)) for _ in range(PLACES + 20)]
        assert await silent[0].gone() == b""
        await judged


@given(open_files=st.integers(1024, 1 << 20), max_connections=st.integers(0, 1 << 20))
def test_all_sockets_fit_into_the_open_files(open_files, max_connections):
    sockets, backlog = places(open_files=open_files, max_connections=max_connections)
    assert sockets >= max_connections + WAITING_AT_LEAST
    assert BACKLOG_AT_LEAST <= backlog <= BACKLOG
    if max_connections <= open_files - FILES_OF_OUR_OWN - WAITING_AT_LEAST - BACKLOG_AT_LEAST:
        assert sockets + backlog <= open_files - FILES_OF_OUR_OWN


async def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        async with start() as sidecar:
            raised, _ = resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised == (FILES_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, FILES_AT_MOST))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /api/chat/realtime/x HTTP/1.1\r\nX: " + b"x" * 100_000,
        b"GET /api/chat/realtime/x HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"GET /" + b"x" * 100_000,
        b"x" * 100_000,
    ],
    ids=["one long header", "many headers", "a long path", "no line at all"],
)
async def test_an_oversized_head_is_refused_and_not_collected(world, head):
    async with dial(world.sidecar) as peer:
        peer.send(head)
        answer = await peer.gone()
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400", b"HTTP/1.1 431")) or not answer
    await joins(world)


async def test_a_head_without_end_takes_no_memory(world):
    before = (await world.sidecar.metrics())["process_resident_memory_bytes"]
    async with dial(world.sidecar) as peer:
        peer.send(b"GET /api/chat/realtime/x HTTP/1.1\r\n")
        for _ in range(64):
            peer.send(b"X: y\r\n" * 170_000)
            with contextlib.suppress(ConnectionError):
                await peer.writer.drain()
    after = (await world.sidecar.metrics())["process_resident_memory_bytes"]
    assert after - before < 24 * 2**20


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n\xff\xfe: \x00\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%zz%00/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n",
    ],
)
async def test_garbage_is_answered_with_an_error_or_nothing_and_then_cut(world, garbage):
    bugs = len([line for line in world.sidecar.log if line.get("level") == "error"])
    async with dial(world.sidecar) as peer:
        peer.send(garbage, b"\xff" * 4096)
        peer.writer.write_eof()
        answer = await peer.gone()
        assert not answer or answer[9:10] == b"4", answer[:100]
    await joins(world)
    assert len([line for line in world.sidecar.log if line.get("level") == "error"]) == bugs, (
        world.sidecar.log[-3:]
    )


async def test_garbage_pipelined_behind_a_handshake_is_judged_as_frames(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    async with dial(world.sidecar) as peer:
        await begin(peer, room, world.issuer.token(account), then=[b"GET / HTTP/1.1\r\n\r\n" * 5000])
        assert (await peer.ended())[0] == 1002


async def test_a_thousand_pipelined_requests_are_answered_in_order_or_cut(world):
    bad = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    async with dial(world.sidecar) as peer:
        peer.send(bad * 1000)
        await joins(world)
        for _ in range(1000):
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
            await peer.reader.readuntil(b'"}')


async def test_who_hangs_up_during_the_handshake_leaves_nothing(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    world.chat.delay_seconds = 0.3
    try:
        for _ in range(20):
            async with dial(world.sidecar) as peer:
                peer.send(upgrade(room, world.issuer.token(account)))
    finally:
        world.chat.delay_seconds = 0
    await joins(world)
    alone = await world.join(room, account)
    assert alone.welcome["participants"] == []
    await alone.close()


async def test_a_token_in_a_url_that_cannot_be_read_is_not_repeated(world):
    async with dial(world.sidecar) as peer:
        peer.send(b"GET http://[::1?tk=secret-token HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"secret-token" not in await peer.gone()
    await joins(world)
    assert not [line for line in world.sidecar.raw_log if "secret-token" in line]


async def test_no_header_of_one_client_fails_the_questions_of_all(world):
    """The chat service's client refuses what HTTP lets through: five such failures and it is asked no more."""
    traceparent = f"traceparent: 00-{'a' * 32}-{'b' * 16}-01"
    for state in ("vendor=é", "vendor=\x01", "vendor=" + "x" * 12_000):
        for _ in range(5):
            room, account = guid(), guid()
            world.chat.allow(room, account)
            async with dial(world.sidecar) as peer:
                await begin(peer, room, world.issuer.token(account), traceparent, f"tracestate: {state}")
    assert (await world.sidecar.metrics())["sphere_sidecar_membership_breaker_open"] == 0


async def test_cookies_full_of_backslashes_take_no_time(world):
    """Sanic's parser looks at the rest again for each: these heads together would take the loop half a minute."""
    cookie = 'Cookie: other="' + "\\a" * 7_500 + '"'
    head = f"GET /api/chat/realtime/{guid()} HTTP/1.1\r\nHost: x\r\n{cookie}\r\n\r\n"
    async with dial(world.sidecar) as peer, asyncio.timeout(DEADLINE_SECONDS):
        for _ in range(180):
            peer.send(head.encode())
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401")
            await peer.reader.readuntil(b'"}')


async def test_who_does_not_read_the_answers_makes_way(world):
    """At the operators' listener, which has few places; Sanic would wait for each of these peers for ever."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(OPS_PLACES + 8):
            peer = await stack.enter_async_context(
                dial(world.sidecar, port=world.sidecar.ops_port, receive_buffer=4096)
            )
            peer.stop_reading()
            peer.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        for _ in range(20):
            assert (await world.sidecar.ops("/livez")).status == 200


async def test_a_preflight_with_a_body_is_no_error_in_the_log(sidecar):
    async with dial(sidecar) as peer:
        peer.send(
            f"OPTIONS /api/chat/realtime/{guid()} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".encode()
        )
        peer.send(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        await sidecar.logged("handshake refused", status=404)
    assert not [line for line in sidecar.log if line["level"] == "error"]
