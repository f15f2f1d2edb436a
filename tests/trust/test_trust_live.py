"""Who is in a room stays right for as long as the connection lives, with the stream of changes and without it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import pytest
from websockets.exceptions import ConnectionClosed

from tests.chat_service import ChatServiceDouble
from tests.harness import Client, Sidecar, guid, until
from tests.trust.trust_issuer import NO_LIMITS
from tests.trust.trust_peers import connect_all, count, kept, within

EVENT_SECONDS = 1.0
RECHECK_SECONDS = 4
UNTIL = 4_000_000_000
STREAM_ALONE = {"membership_recheck_seconds": 3600, "membership_deny_seconds": 3600} | NO_LIMITS
FORBIDDEN = {
    "left": {"left": True},
    "suspended": {"role": -1},
    "timed out": {"timeout_until": UNTIL},
    "never there": None,
}
REFUSED_WITH = {"timed out": "MEMBER_TIMED_OUT"}


def forbid(chat: ChatServiceDouble, room: str, account: str, how: str, *, tell: bool) -> None:
    if (state := FORBIDDEN[how]) is None:
        chat.deny(room, account, tell=tell)
    else:
        chat.allow(room, account, tell=tell, **state)


async def said_goodbye(client: Client, how: str) -> None:
    """Read to the end: a client that does not read on learns nothing of its close."""
    last: dict = {}
    with suppress(ConnectionClosed):
        while True:
            last = await client.receive()
    if how == "timed out":
        assert last["data"] == {"code": "MEMBER_TIMED_OUT", "detail": "2096-10-02T07:06:40.000Z"}
    assert (await client.closed())[0] == 4403


async def listens(sidecar: Sidecar, chat: ChatServiceDouble, token: str, account: str) -> None:
    """Wait until the stream has told something, seen by a remembered no that became a yes."""
    room = guid()
    assert (await sidecar.probe(room, token)).status == 403
    chat.allow(room, account, tell=True)

    async def let_in() -> bool:
        return (await sidecar.probe(room, token)).status == 400

    await until(let_in, "the stream")


async def cannot_rejoin(sidecar: Sidecar, room: str, token: str, how: str) -> None:
    for _ in range(5):
        answer = await sidecar.probe(room, token)
        assert (answer.status, answer.json["code"]) == (403, REFUSED_WITH.get(how, "NOT_A_MEMBER"))


@pytest.mark.parametrize("stream", [True, False], ids=["told by the stream", "found by a re-check"])
async def test_who_may_no_longer_be_there_is_closed_in_time_and_cannot_come_back(start, chat, issuer, stream):
    if not stream:
        chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")
    bound = EVENT_SECONDS if stream else RECHECK_SECONDS
    async with start(**NO_LIMITS, membership_recheck_seconds=3600 if stream else RECHECK_SECONDS) as sidecar:
        if stream:
            await until(lambda: chat.watching)
        room, kept_account = guid(), guid()
        goes = {how: guid() for how in FORBIDDEN}
        tokens = {account: issuer.token(account) for account in (kept_account, *goes.values())}
        for account in tokens:
            chat.allow(room, account)
        stays, *going = await connect_all(sidecar, [(room, token) for token in tokens.values()])
        second_device = await sidecar.connect(room, tokens[goes["left"]])
        for how, account in goes.items():
            forbid(chat, room, account, how, tell=stream)
        gone = [said_goodbye(client, how) for client, how in zip(going, goes, strict=True)]
        await within(bound, asyncio.gather(*gone, said_goodbye(second_device, "left")))
        left = {(await stays.receive_signal("user-left"))["senderAccountId"] for _ in goes}
        assert left == set(goes.values())
        for how, account in goes.items():
            await cannot_rejoin(sidecar, room, tokens[account], how)
        async with kept([stays]):
            assert count(await sidecar.metrics(), "disconnects_total", code="4403") == len(goes) + 1


@pytest.mark.parametrize("stream", [True, False], ids=["told by the stream", "found by a re-check"])
async def test_a_changed_nick_and_profile_reach_later_packets_and_later_joiners(start, chat, issuer, stream):
    if not stream:
        chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")
    async with start(membership_recheck_seconds=3600 if stream else 1) as sidecar:
        if stream:
            await until(lambda: chat.watching)
        room, alice, bob, carol = (guid() for _ in range(4))
        for account in (alice, bob, carol):
            chat.allow(room, account, nick="before")
        a, b = await connect_all(sidecar, [(room, issuer.token(account)) for account in (alice, bob)])
        chat.allow(room, bob, nick="after", profile={"level": 2}, account_name="bob", tell=stream)

        async def bob_as_alice_sees_him() -> dict:
            await b.send({"type": "offer"})
            return (await a.receive_signal("offer"))["senderInfo"]

        async def renamed() -> bool:
            return (await bob_as_alice_sees_him())["nick"] == "after"

        await until(renamed, seconds=EVENT_SECONDS if stream else 1 + EVENT_SECONDS)
        assert (await bob_as_alice_sees_him())["profile"] == {"level": 2}
        c = await sidecar.connect(room, issuer.token(carol))
        shown = {one["accountId"]: one for one in c.welcome["participants"]}
        assert (shown[bob]["name"], shown[bob]["account"]["nick"]) == ("bob", "after")
        assert shown[alice]["account"]["nick"] == "before"


async def test_a_broken_stream_goes_on_where_it_broke_and_tells_what_happened_meanwhile(start, chat, issuer):
    async with start(**STREAM_ALONE) as sidecar:
        room, alice, bob = guid(), guid(), guid()
        chat.allow(room, alice)
        chat.allow(room, bob)
        tokens = [issuer.token(account) for account in (alice, bob)]
        await until(lambda: chat.watching)
        await listens(sidecar, chat, tokens[0], alice)
        a, b = await connect_all(sidecar, [(room, token) for token in tokens])
        chat.break_streams()
        chat.deny(room, alice, tell=True)
        await said_goodbye(a, "never there")
        assert [bool(cursor) for cursor in chat.resumed_after] == [False, True]
        async with kept([b]):
            assert chat.calls["BatchGetMemberships"] == 0, "told by the stream, not found by a re-check"


async def test_a_cursor_that_is_too_old_has_everybody_asked_about_anew(start, chat, issuer):
    async with start(**STREAM_ALONE) as sidecar:
        room, other_room = guid(), guid()
        people = [guid() for _ in range(20)]
        tokens = [issuer.token(account) for account in people]
        for account in people:
            chat.allow(room, account)
            chat.allow(other_room, account)
        await until(lambda: chat.watching)
        await listens(sidecar, chat, tokens[0], people[0])
        going = await connect_all(sidecar, [(room, token) for token in tokens])
        staying = await connect_all(sidecar, [(other_room, token) for token in tokens])
        async with kept(staying):
            for account in people:
                chat.deny(room, account)
            chat.forget_changes()
            await asyncio.gather(*(said_goodbye(client, "left") for client in going))
            assert [bool(cursor) for cursor in chat.resumed_after] == [False, True, False]
            await until(lambda: sum(chat.batch_sizes) >= 2 * len(people))
