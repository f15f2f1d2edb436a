"""How often, and how evenly, the chat service is asked about live connections. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from sidecar.errors import Refusal
from sidecar.membership.directory import Directory
from sidecar.membership.model import MemberKey, Membership
from sidecar.membership.questions import MAX_QUESTIONS
from sidecar.membership.service import Metadata, Reason, Unavailable, WatchEvent, WatchUnimplemented
from tests.membership.membership_virtual_time import VirtualTimeLoop

RECHECK = 15.0
STALE = 300.0
LIVE = 10_000
KEYS = [MemberKey(f"room-{number // 10}", f"account-{number}") for number in range(LIVE)]


def member(key: MemberKey) -> Membership:
    return Membership(key, 0, 1.0, None, None, "", "", "", b"{}", None)


class CountingService:
    def __init__(self) -> None:
        self.up = True
        self.batches: list[tuple[float, int]] = []
        self.gets = 0
        self.most_gets = 0

    async def get(self, key: MemberKey, *, metadata: Metadata = ()) -> Membership | None:
        self.gets += 1
        self.most_gets = max(self.most_gets, self.gets)
        await asyncio.sleep(0.005)
        self.gets -= 1
        if not self.up:
            raise Unavailable(Reason.UNREACHABLE)
        return member(key)

    async def batch(self, keys: Sequence[MemberKey]) -> dict[MemberKey, Membership]:
        self.batches.append((asyncio.get_running_loop().time(), len(keys)))
        await asyncio.sleep(0.005)
        if not self.up:
            raise Unavailable(Reason.UNREACHABLE)
        return {key: member(key) for key in keys}

    async def watch(self, resume_after: str) -> AsyncGenerator[WatchEvent, None]:
        raise WatchUnimplemented
        yield

    def most_keys_within(self, seconds: float) -> int:
        """The most keys asked about in any window of that length."""
        most = first = asked = 0
        for at, count in self.batches:
            asked += count
            while self.batches[first][0] <= at - seconds:
                asked -= self.batches[first][1]
                first += 1
            most = max(most, asked)
        return most


@pytest.fixture
def virtual():
    loop = VirtualTimeLoop()
    yield loop
    loop.close()


def live_directory(service: CountingService, loop: VirtualTimeLoop, live: int) -> Directory:
    directory = Directory(
        service=service,
        cache_seconds=30,
        deny_seconds=3,
        recheck_seconds=RECHECK,
        stale_seconds=STALE,
        clock=loop.time,
    )
    for key in KEYS[:live]:
        directory.follow(key, member(key))
    return directory


@pytest.mark.parametrize(("live", "calls_a_minute"), [(1, 5), (1000, 36), (LIVE, 200)])
def test_every_live_key_is_asked_about_once_an_interval_in_few_calls(virtual, live, calls_a_minute):
    service = CountingService()

    async def run() -> None:
        directory = live_directory(service, virtual, live)
        await directory.start()
        await asyncio.sleep(150)
        await directory.close()

    virtual.run_until_complete(run())
    keys = sum(count for _, count in service.batches)
    assert live * 150 / RECHECK <= keys <= live * 150 / RECHECK * 1.25
    assert len(service.batches) / 2.5 <= calls_a_minute


def test_ten_thousand_who_came_at_once_are_spread_over_the_interval_and_an_outage_changes_nothing(virtual):
    service = CountingService()

    async def run() -> None:
        directory = live_directory(service, virtual, LIVE)
        await directory.start()
        await asyncio.sleep(60)
        service.up = False
        await asyncio.sleep(60)
        assert directory.stale
        service.up = True
        await asyncio.sleep(2 * RECHECK)
        assert not directory.stale
        await directory.close()

    virtual.run_until_complete(run())
    assert service.most_keys_within(1.0) <= LIVE / 4


def test_ten_thousand_who_join_at_once_are_asked_about_a_few_at_a_time(virtual):
    service = CountingService()

    async def run() -> int:
        directory = live_directory(service, virtual, 0)
        outcomes = await asyncio.gather(*(directory.admit(key) for key in KEYS), return_exceptions=True)
        await directory.close()
        return sum(isinstance(one, Membership) for one in outcomes)

    assert virtual.run_until_complete(run()) == LIVE
    assert service.most_gets == MAX_QUESTIONS


def test_ten_thousand_who_join_in_an_outage_are_refused_after_a_handful_of_calls(virtual):
    service = CountingService()
    service.up = False

    async def run() -> None:
        directory = live_directory(service, virtual, 0)
        outcomes = await asyncio.gather(*(directory.admit(key) for key in KEYS), return_exceptions=True)
        assert all(isinstance(one, Refusal) for one in outcomes)
        assert virtual.time() < 0.1
        await directory.close()

    virtual.run_until_complete(run())
    assert service.most_gets <= MAX_QUESTIONS
