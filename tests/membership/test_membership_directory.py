from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from sidecar.errors import Refusal, RefusalCode
from sidecar.membership.chat_service import ChatService
from sidecar.membership.directory import Directory
from sidecar.membership.model import Ended, MemberKey, TimedOut, Unverifiable, Updated
from tests.chat_service import ChatServiceDouble


def new_key() -> MemberKey:
    return MemberKey(str(uuid.uuid4()), str(uuid.uuid4()))


async def until(condition: Callable[[], object], *, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Program:
    """A directory over a real channel to the double, and what it told."""

    def __init__(self, target: str, **settings) -> None:
        self.told: list[tuple] = []
        self.cache: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.service = ChatService(
            target=target,
            timeout_seconds=settings.pop("timeout_seconds", 2),
            max_profile_bytes=2048,
            on_request=lambda method, code, _seconds: self.requests.append((method, code)),
        )
        self.directory = Directory(
            service=self.service,
            on_cache=self.cache.append,
            on_change=lambda key, change: self.told.append((key, change)),
            **(
                {"cache_seconds": 30, "deny_seconds": 30, "recheck_seconds": 60, "stale_seconds": 300}
                | settings
            ),
        )

    async def join(self, key: MemberKey):
        membership = await self.directory.admit(key)
        self.directory.follow(key, membership)
        return membership


@asynccontextmanager
async def running(target: str, **settings):
    program = Program(target, **settings)
    await program.service.start()
    await program.directory.start()
    try:
        yield program
    finally:
        await program.directory.close()
        await program.service.close()


@pytest.fixture
async def chat():
    async with ChatServiceDouble() as chat:
        yield chat


async def refused(program: Program, key: MemberKey) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await program.directory.admit(key)
    return caught.value


async def test_a_member_is_admitted_and_a_stranger_is_not(chat):
    key = new_key()
    chat.allow(*key, nick="Ann", account_name="ann", profile={"b": 1, "a": [True, None, "x", 2.5]})
    async with running(chat.target) as program:
        membership = await program.directory.admit(key)
        assert membership.key == key
        assert (membership.nick, membership.account_name) == ("Ann", "ann")
        assert membership.profile == b'{"a":[true,null,"x",2.5],"b":1}'
        assert (await refused(program, new_key())).code is RefusalCode.NOT_A_MEMBER
        assert program.requests == [("GetMembership", "OK"), ("GetMembership", "NOT_FOUND")]


async def test_a_kick_told_by_the_stream_ends_a_live_connection_and_its_cache_entry(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        await until(lambda: chat.watching)
        await program.join(key)
        chat.deny(*key, tell=True)
        await until(lambda: program.told)
        assert program.told == [(key, Ended())]
        assert (await refused(program, key)).code is RefusalCode.NOT_A_MEMBER


async def test_a_kick_is_noticed_by_a_recheck_where_the_service_does_not_watch(chat):
    chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")
    key = new_key()
    chat.allow(*key)
    async with running(chat.target, recheck_seconds=0.2) as program:
        await program.join(key)
        chat.deny(*key)
        await until(lambda: (key, Ended()) in program.told)
        assert chat.calls["WatchMemberships"] == 1
