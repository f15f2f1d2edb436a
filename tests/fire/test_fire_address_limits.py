"""Rates per key: the arithmetic, its bounds, and who shares a limit with whom."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.edge.address import Proxies
from sidecar.edge.limits import MAX_KEYS, HandshakeLimits, RateLimit
from tests.fire.raw import dial
from tests.harness import guid, until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@given(
    rate=st.integers(1, 100),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 0.5, allow_subnormal=False), max_size=200),
)
@settings(deadline=None)
def test_never_more_than_burst_and_rate_allow_and_never_less(rate, burst, pauses):
    """Against the definition: a bucket of `burst` that fills at `rate`, where half of one will do for the next."""
    clock = Clock()
    limit = RateLimit(rate=rate, burst=burst, clock=clock)
    tokens, slack = float(burst), 1e-6
    for pause in pauses:
        clock.now += pause
        tokens = min(burst, tokens + pause * rate)
        wait = limit.take("key")
        if wait:
            assert tokens < 0.5 + slack
            assert wait == pytest.approx((0.5 - tokens) / rate, abs=1e-6)
        else:
            assert tokens >= 0.5 - slack
            tokens -= 1


@given(rate=st.integers(1, 100), burst=st.integers(1, 20), tries=st.integers(1, 300))
def test_who_waits_as_long_as_told_is_let_in(rate, burst, tries):
    clock = Clock()
    limit = RateLimit(rate=rate, burst=burst, clock=clock)
    for _ in range(tries):
        clock.now += limit.take("key")
    clock.now += limit.wait_seconds("key") + 1e-9
    assert not limit.take("key")


@given(st.lists(st.sampled_from("abcdef"), max_size=300))
def test_one_keys_tries_are_not_anothers(keys):
    clock = Clock()
    together = RateLimit(rate=1, burst=3, clock=clock)
    apart = {key: RateLimit(rate=1, burst=3, clock=clock) for key in "abcdef"}
    for key in keys:
        clock.now += 0.25
        assert together.take(key) == apart[key].take(key)


def test_a_rate_of_0_is_no_limit():
    limit = RateLimit(rate=0, burst=1)
    assert not any(limit.take("key") for _ in range(10_000))


def test_a_million_addresses_take_no_more_memory_than_the_keys_that_are_kept():
    clock = Clock()
    limits = HandshakeLimits(
        address_rate=50, address_burst=200, account_rate=5, account_burst=20, failures_per_minute=60
    )
    before = resident()
    for number in range(1_000_000):
        clock.now += 0.00001
        key = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        assert not limits.address(key)
        if number % 4 == 0:
            limits.failed(key, None)
            limits.account(key)
    assert resident() - before < 48 * 2**20
    for limit in (limits._addresses, limits._failures, limits._accounts):
        assert MAX_KEYS * 0.8 < len(limit._next) <= MAX_KEYS


def test_those_let_in_least_recently_are_forgotten_first():
    limit = RateLimit(rate=1, burst=1, max_keys=2)
    for key in ("old", "new"):
        assert not limit.take(key)
    assert limit.take("old")
    assert not limit.take("third")
    assert limit.take("new")
    assert limit.take("third")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_an_ipv6_client_is_its_slash_64_and_a_mapped_one_is_ipv4(one, other, same):
    proxies = Proxies(trusted=[], on_untrusted_header=lambda _peer: None)
    keys = [proxies.client(peer, _Headers([])).limited_as for peer in (one, other)]
    assert (keys[0] == keys[1]) is same


class _Headers:
    def __init__(self, forwarded: list[str]) -> None:
        self.forwarded = forwarded

    def getall(self, key: str, default: list[str]) -> list[str]:
        return self.forwarded if key == "x-forwarded-for" and self.forwarded else default


CLIENTS = st.ip_addresses(v=4, network="198.51.100.0/24").map(str)
PROXIES = st.ip_addresses(v=4, network="10.0.0.0/8").map(str)
ANYTHING = st.one_of(CLIENTS, PROXIES, st.text("0123456789.:abcdef[]%, unknown", max_size=20))


@given(
    claimed=st.lists(ANYTHING, max_size=5), client=CLIENTS, hops=st.lists(PROXIES, max_size=4), peer=PROXIES
)
def test_the_client_is_the_right_most_hop_no_proxy_of_ours_vouches_for(claimed, client, hops, peer):
    """Whatever a client claims to the left of itself changes nothing."""
    proxies = Proxies(trusted=["10.0.0.0/8"], on_untrusted_header=lambda _peer: None)
    lines = [", ".join([*claimed, client, *hops])]
    assert proxies.client(peer, _Headers(lines)).address == client
    assert proxies.client(client, _Headers(lines)).address == client


@given(
    lines=st.lists(st.text(max_size=60), max_size=4), peer=st.one_of(CLIENTS, PROXIES, st.text(max_size=8))
)
def test_no_header_is_a_bug(lines, peer):
    proxies = Proxies(trusted=["10.0.0.0/8"], on_untrusted_header=lambda _peer: None)
    proxies.client(peer, _Headers(lines))


async def test_a_valid_token_is_not_locked_out_by_failures_behind_its_address(start, chat, issuer):
    room, account = guid(), guid()
    chat.allow(room, account)
    async with start(auth_failures_per_minute=3) as sidecar:
        statuses = [(await sidecar.probe(room, "bad")).status for _ in range(12)]
        assert statuses[:3] == [401] * 3
        assert 429 in statuses
        refused = 0
        while (answer := await sidecar.probe(room, issuer.token(account))).status == 429:
            assert int(answer.headers["retry-after"]) == 1
            refused += 1
        assert answer.json["code"] == "WEBSOCKET_EXPECTED"
        assert refused < 200


async def test_good_tokens_get_in_at_once_through_a_flood_of_bad_ones_behind_the_same_address(
    start, chat, issuer
):
    """Eight clients that fail as fast as they can, each with another token at each try, and twenty that belong here."""
    room = guid()
    good = [guid() for _ in range(20)]
    for account in good:
        chat.allow(room, account)
    async with start(auth_failures_per_minute=3, address_handshake_rate=0) as sidecar:
        answers: Counter[bytes] = Counter()

        async def fail() -> None:
            async with dial(sidecar) as peer:
                for number in itertools.count():
                    token = issuer.token(guid(), ttl_seconds=3600 + number)[:-8] + "tampered"
                    peer.send(
                        f"GET /api/chat/realtime/{room} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
                    )
                    head = await peer.reader.readuntil(b"\r\n\r\n")
                    answers[head[9:12]] += 1
                    length = re.search(rb"content-length: (\d+)", head)
                    await peer.reader.readexactly(int(length[1]))

        flood = [asyncio.create_task(fail()) for _ in range(8)]
        try:
            await until(lambda: answers[b"429"] > 100, "the flood has used up its failures")
            for account in good:
                before = answers[b"429"]
                answer = await sidecar.probe(room, issuer.token(account))
                assert answer.json["code"] == "WEBSOCKET_EXPECTED"
                await until(lambda before=before: answers[b"429"] > before, "the flood goes on")
        finally:
            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
        assert set(answers) == {b"401", b"429"}


async def test_an_account_that_did_the_failing_itself_waits_like_its_address(start, chat, issuer):
    """Else whoever has a good token could ask for rooms as fast as the account's own limit allows."""
    token = issuer.token(guid())
    async with start(auth_failures_per_minute=3, handshake_rate=0, address_handshake_rate=0) as sidecar:
        statuses = [(await sidecar.probe(guid(), token)).status for _ in range(40)]
    assert statuses[:3] == [403] * 3
    assert statuses.count(429) > 20


async def test_an_expired_token_is_no_failure_of_its_address(start, chat, issuer):
    room, account = guid(), guid()
    old = issuer.token(account, ttl_seconds=-3600)
    async with start(auth_failures_per_minute=2) as sidecar:
        for _ in range(20):
            assert (await sidecar.probe(room, old)).json["code"] == "TOKEN_EXPIRED"


async def test_an_expired_token_is_told_so_whatever_others_behind_its_address_did(start, chat, issuer):
    """Its owner cannot know otherwise that a new one would do."""
    room, old = guid(), issuer.token(guid(), ttl_seconds=-3600)
    async with start(auth_failures_per_minute=3) as sidecar:
        statuses = [(await sidecar.probe(room, "bad")).status for _ in range(12)]
        assert 429 in statuses
        for _ in range(20):
            assert (await sidecar.probe(room, old)).json["code"] == "TOKEN_EXPIRED"


async def test_a_page_that_uses_someones_cookie_uses_up_nothing_of_theirs(start, chat, issuer):
    room, account = guid(), guid()
    chat.allow(room, account)
    token = issuer.token(account)
    foreign = {"Cookie": f"AuthToken={token}", "Origin": "https://evil.example"}
    async with start(auth_failures_per_minute=3, handshake_rate=0, address_handshake_rate=0) as sidecar:
        statuses = [(await sidecar.probe(room, **foreign)).status for _ in range(20)]
        assert set(statuses) <= {403, 429}
        for _ in range(20):
            await sidecar.probe(room, **foreign)
            assert (await sidecar.probe(room, token)).json["code"] == "WEBSOCKET_EXPECTED"
