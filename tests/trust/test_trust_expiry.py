"""A connection lives no longer than its token and its time allow, and a newer token prolongs both."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.auth.auth_issuer import live_claims, private_key, sign
from tests.harness import Client, guid, run_sidecar
from tests.trust import trust_issuer as issuing
from tests.trust.trust_issuer import NO_LIMITS, token
from tests.trust.trust_peers import still_there, within

LATE_SECONDS = 1.0
EARLY_SECONDS = 0.01  # of two clocks


@pytest.fixture
def run(chat, tmp_path):
    key_file = tmp_path / "jwt.pem"
    key_file.write_bytes(issuing.PEM_OLD)

    def start(**settings):
        return run_sidecar(
            **issuing.SETTINGS,
            **NO_LIMITS,
            jwt_public_key_file=key_file,
            membership_target=chat.target,
            **settings,
        )

    return start


async def refresh(client: Client, new: object) -> dict:
    await client.send({"type": "auth.refresh", "data": {"token": new}})
    return await client.receive()


async def closes_at(client: Client, when: float, reason: str) -> None:
    """Fail unless the connection ends at `when` (seconds since the epoch), or at most a second later."""
    code, why = await within(when + LATE_SECONDS - time.time(), client.closed())
    assert time.time() >= when - EARLY_SECONDS
    assert (code, why) == (4401, reason)


async def test_at_exp_the_connection_closes_and_no_bad_token_prolongs_or_ends_it(run, chat):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    async with run(on_token_expiry="close") as sidecar:
        expires = int(time.time()) + 5
        a = await sidecar.connect(room, token(alice, exp=expires))
        b = await sidecar.connect(room, token(bob, exp=expires + 300))
        await a.receive_signal("user-joined")
        for what, bad in issuing.bad_tokens(alice).items():
            answer = await refresh(a, bad)
            assert answer["type"] == "error", what
            expected = {"expired": "TOKEN_EXPIRED", "huge": "INVALID_MESSAGE"}.get(what, "TOKEN_INVALID")
            assert answer["data"]["code"] in {expected, "TOKEN_INVALID"}, what
        assert (await refresh(a, token(guid())))["data"]["code"] == "TOKEN_OF_ANOTHER_ACCOUNT"
        for no_token in (None, 7, ["x"], {}):
            assert (await refresh(a, no_token))["data"]["code"] == "INVALID_MESSAGE"
        await a.send({"type": "offer", "data": "untouched"})
        assert (await b.receive_signal("offer"))["senderAccountId"] == alice
        assert time.time() < expires, "this machine is too slow for this test"
        await closes_at(a, expires, "token expired")
        assert (await b.receive_signal("user-left"))["senderAccountId"] == alice
        await still_there([b])


async def test_a_new_token_moves_the_end_to_its_own_exp(run, chat):
    room, alice = guid(), guid()
    chat.allow(room, alice)
    async with run(on_token_expiry="close") as sidecar:
        now = int(time.time())
        a = await sidecar.connect(room, token(alice, exp=now + 3))
        answer = await refresh(a, token(alice, exp=now + 6))
        assert answer["type"] == "auth.refreshed"
        await closes_at(a, now + 6, "token expired")
        assert (await sidecar.probe(room, token(alice))).status == 400, "it may come back with a new token"


async def test_who_was_admitted_past_exp_within_the_leeway_stays_to_its_end(run, chat):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice)
    chat.allow(room, bob)
    async with run(on_token_expiry="close", jwt_leeway_seconds=6) as sidecar:
        expired = int(time.time()) - 2
        a = await sidecar.connect(room, token(alice, exp=expired))
        b = await sidecar.connect(room, token(bob, exp=expired))
        assert (await refresh(b, token(bob)))["type"] == "auth.refreshed"
        await closes_at(a, expired + 6, "token expired")
        await still_there([b])
        refused = await sidecar.probe(room, token(alice, exp=expired))
        assert (refused.status, refused.json["code"]) == (401, "TOKEN_EXPIRED")


async def test_max_connection_seconds_ends_whoever_brings_no_new_token(run, chat):
    room, alice, bob, bot = guid(), guid(), guid(), guid()
    for account in (alice, bob, bot):
        chat.allow(room, account)
    forever = sign(
        {name: value for name, value in live_claims(sub=bot, type="api_key").items() if name != "exp"},
        issuing.OLD,
    )
    async with run(max_connection_seconds=3) as sidecar:
        a = await sidecar.connect(room, token(alice))
        opened = time.time()
        b = await sidecar.connect(room, token(bob))
        c = await sidecar.connect(room, headers={"Authorization": f"Bot {forever}"})
        await a.receive_signal("user-joined")
        bad = sign(live_claims(sub=alice), private_key("stranger"))
        await asyncio.sleep(1)
        while (await refresh(a, bad))["type"] != "error":
            pass
        while (await refresh(b, token(bob)))["type"] != "auth.refreshed":
            pass
        refreshed = time.time()
        too_old = "no newer token came for too long"
        await asyncio.gather(
            closes_at(a, opened + 3 - LATE_SECONDS / 2, too_old),
            closes_at(c, opened + 3 - LATE_SECONDS / 2, too_old),
            closes_at(b, refreshed + 3 - LATE_SECONDS / 2, too_old),
        )


async def test_by_default_a_connection_outlives_its_token(run, chat):
    room, alice = guid(), guid()
    chat.allow(room, alice)
    async with run(jwt_leeway_seconds=0) as sidecar:
        expires = int(time.time()) + 2
        a = await sidecar.connect(room, token(alice, exp=expires))

        while (await sidecar.probe(room, token(alice, exp=expires))).status != 401:
            await asyncio.sleep(0.05)
        await still_there([a])
        assert (await refresh(a, token(alice, exp=expires)))["data"]["code"] == "TOKEN_EXPIRED"
        await still_there([a])
