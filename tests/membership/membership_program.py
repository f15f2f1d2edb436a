"""The membership half of the sidecar as `app` wires it, and what it told, for the tests of this folder."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sidecar.errors import Refusal
from sidecar.membership.channel import KEEPALIVE_SECONDS, TlsFiles
from sidecar.membership.chat_service import ChatService, TraceCall, untraced
from sidecar.membership.directory import Directory
from sidecar.membership.model import MemberKey, Membership, MembershipChange


def new_key() -> MemberKey:
    return MemberKey(str(uuid.uuid4()), str(uuid.uuid4()))


async def until(condition: Callable[[], object], *, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Clock:
    """Time as the directory sees it; only the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Program:
    def __init__(
        self,
        target: str,
        *,
        timeout_seconds: float = 2,
        tls: TlsFiles | None = None,
        certificate_poll_seconds: float = 0.05,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        trace_call: TraceCall = untraced,
        cache_seconds: float = 30,
        deny_seconds: float = 30,
        recheck_seconds: float = 3600,
        stale_seconds: float = 300,
    ) -> None:
        self.clock = Clock()
        self.told: list[tuple[MemberKey, MembershipChange]] = []
        self.cache: list[str] = []
        self.requests: Counter[tuple[str, str]] = Counter()
        self.service = ChatService(
            target=target,
            tls=tls,
            timeout_seconds=timeout_seconds,
            max_profile_bytes=2048,
            on_request=self._count_request,
            certificate_poll_seconds=certificate_poll_seconds,
            keepalive_seconds=keepalive_seconds,
            trace_call=trace_call,
        )
        self.directory = Directory(
            service=self.service,
            cache_seconds=cache_seconds,
            deny_seconds=deny_seconds,
            recheck_seconds=recheck_seconds,
            stale_seconds=stale_seconds,
            on_cache=self.cache.append,
            on_change=lambda key, change: self.told.append((key, change)),
            clock=self.clock,
        )

    async def join(self, key: MemberKey) -> Membership:
        membership = await self.directory.admit(key)
        self.directory.follow(key, membership)
        return membership

    async def refusal(self, key: MemberKey) -> Refusal:
        with pytest.raises(Refusal) as caught:
            await self.directory.admit(key)
        return caught.value

    def _count_request(self, method: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.requests[method, code] += 1


@asynccontextmanager
async def running(target: str, **settings) -> AsyncIterator[Program]:
    program = Program(target, **settings)
    await program.service.start()
    await program.directory.start()
    try:
        yield program
    finally:
        await program.directory.close()
        await program.service.close()
