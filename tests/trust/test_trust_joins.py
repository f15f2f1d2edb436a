"""What joining costs the chat service, and how long an answer counts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import grpc
from websockets.exceptions import InvalidStatus

from tests.harness import guid, until
from tests.trust.trust_issuer import NO_LIMITS
from tests.trust.trust_peers import count, within

JOINS = 1000
ROOM_FOR_ALL = {"max_room_connections": 0, "max_connections_per_account": 0} | NO_LIMITS


async def shake_hands(port: int, room: str, token: str, opened: list[asyncio.StreamWriter]) -> bytes:
    """A bare WebSocket handshake; the status line. The connection stays, among the `opened`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    opened.append(writer)
    lines = (
        f"GET /sphere/chat/realtime/{room} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Authorization: Bearer {token}",
    )
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return await reader.readline()


async def test_a_thousand_joins_at_once_by_one_account_make_one_call(start, chat, issuer):
    room, account = guid(), guid()
    chat.allow(room, account)
    chat.delay_seconds = 3  # they all come while the question is on its way
    settings = ROOM_FOR_ALL | {"membership_cache_seconds": 0, "membership_timeout_ms": 10_000}
    async with start(**settings) as sidecar:
        token = issuer.token(account)
        opened: list[asyncio.StreamWriter] = []
        try:
            joins = (shake_hands(sidecar.port, room, token, opened) for _ in range(JOINS))
            statuses = Counter(await asyncio.gather(*joins))
            assert statuses == {b"HTTP/1.1 101 Switching Protocols\r\n": JOINS}
            metrics = await sidecar.metrics()
            assert count(metrics, "handshakes_total", outcome="accepted") == JOINS
            assert chat.calls["GetMembership"] == 1
            assert count(metrics, "membership_requests_total", method="GetMembership") == 1
        finally:
            for writer in opened:
                writer.transport.abort()


async def test_an_invitation_counts_seconds_after_a_refusal(start, chat, issuer):
    async with start(**NO_LIMITS) as sidecar:
        room, account = guid(), guid()
        token = issuer.token(account)
        refused_at = time.monotonic()
        assert (await sidecar.probe(room, token)).json["code"] == "NOT_A_MEMBER"
        asked = chat.calls["GetMembership"]
        for _ in range(20):
            if (await sidecar.probe(room, token)).status == 403 and time.monotonic() < refused_at + 2:
                assert chat.calls["GetMembership"] == asked, "a no is remembered, for a moment"
        chat.allow(room, account)

        async def let_in() -> bool:
            return (await sidecar.probe(room, token)).status == 400

        await within(5, until(let_in))


async def test_a_kick_forgets_the_cached_yes_whoever_tells_it(start, chat, issuer):
    """Cached for 30 s by default: without forgetting, the last probe of each would still be a yes."""
    async with start(**NO_LIMITS, membership_recheck_seconds=1) as sidecar:
        room, told, found = guid(), guid(), guid()
        tokens = {account: issuer.token(account) for account in (told, found)}
        for account, token in tokens.items():
            chat.allow(room, account)
            assert (await sidecar.probe(room, token)).status == 400

        async def is_refused(account: str) -> bool:
            return (await sidecar.probe(room, tokens[account])).json["code"] == "NOT_A_MEMBER"

        await until(lambda: chat.watching)
        chat.deny(room, told, tell=True)  # not connected: only the cache knows
        await until(lambda: is_refused(told), seconds=1)

        client = await sidecar.connect(room, tokens[found])
        chat.deny(room, found)
        assert (await client.closed())[0] == 4403  # by the re-check
        assert await is_refused(found)


async def test_a_kick_while_the_handshake_waits_for_the_answer_lets_nobody_in(start, chat, issuer):
    async with start(**NO_LIMITS) as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        await until(lambda: chat.watching)
        chat.delay_seconds = 0.5
        joining = asyncio.create_task(sidecar.connect(room, issuer.token(account)))
        await until(lambda: chat.calls["GetMembership"])
        chat.deny(room, account, tell=True)
        chat.allow(room, account)  # the answer on its way still says yes
        try:
            client = await joining
        except InvalidStatus as refused:
            assert refused.response.status_code == 403
        else:
            raise AssertionError(f"let in: {client.welcome}")


async def test_an_answer_that_takes_longer_than_the_deadline_is_a_503_at_the_deadline(start, chat, issuer):
    async with start(**NO_LIMITS, membership_timeout_ms=300) as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        chat.delay_seconds = 30
        answer = await within(5, sidecar.probe(room, issuer.token(account)))
        assert (answer.status, answer.json["code"]) == (503, "MEMBERSHIP_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        assert chat.calls["GetMembership"] == 1, "not asked again"
        chat.delay_seconds = 0
        assert grpc.StatusCode.DEADLINE_EXCEEDED.name in str(
            [name for name, value in (await sidecar.metrics()).items() if value]
        )
