"""Keys and certificates change under a running sidecar that is busy."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import grpc

from tests.auth.auth_issuer import live_claims, private_key, sign
from tests.auth.jwks_server import serving
from tests.authority import Authority
from tests.chat_service import ChatServiceDouble
from tests.harness import Client, Sidecar, guid, run_sidecar, until
from tests.membership import membership_certificates as certificates
from tests.trust import trust_issuer as issuing
from tests.trust.trust_issuer import NEW, NO_LIMITS, OLD, token
from tests.trust.trust_peers import connect_all, count, disconnects, kept

REFRESH_SECONDS = 2
ON_THE_WAY_SECONDS = 1.0
"""For what is said over sockets on a busy machine, beside what the promise bounds."""
LIVE = 200
HANDSHAKES = 400
WORKERS = 8


class Load:
    """Handshakes of accounts nobody saw before, with tokens nobody saw before, without a pause."""

    def __init__(self, sidecar: Sidecar, chat: ChatServiceDouble) -> None:
        self.sidecar = sidecar
        self.chat = chat
        self.keys = [OLD]
        """The keys tokens are signed with at the moment, in turn."""
        self.statuses: Counter[int] = Counter()
        self._under_way: Counter[int] = Counter()
        self._stopped = asyncio.Event()

    @asynccontextmanager
    async def running(self):
        workers = [asyncio.create_task(self._work(number)) for number in range(WORKERS)]
        try:
            yield self
        finally:
            self._stopped.set()
            await asyncio.gather(*workers)

    async def more(self, handshakes: int) -> None:
        target = self.statuses.total() + handshakes
        await until(lambda: self.statuses.total() >= target, "handshakes", 60)

    async def stop_signing_with(self, key, *, go_on_with) -> None:
        self.keys = [go_on_with]
        await until(lambda: not self._under_way[id(key)], "the last handshake with the old key")

    async def _work(self, number: int) -> None:
        while not self._stopped.is_set():
            number += 1
            room, account = guid(), guid()
            self.chat.allow(room, account)
            key = self.keys[number % len(self.keys)]
            self._under_way[id(key)] += 1
            answer = await self.sidecar.probe(room, token(account, key))
            self._under_way[id(key)] -= 1
            self.statuses[answer.status] += 1


async def in_rooms_of_ten(sidecar: Sidecar, chat: ChatServiceDouble, people: int) -> list[Client]:
    rooms = [guid() for _ in range(people // 10)]
    joins = [(room, guid()) for room in rooms for _ in range(10)]
    for room, account in joins:
        chat.allow(room, account)
    return await connect_all(sidecar, [(room, token(account)) for room, account in joins])


async def refused(sidecar: Sidecar, room: str, bad: str) -> bool:
    return (await sidecar.probe(room, bad)).status == 401


async def test_an_overlap_rotation_of_the_jwks_refuses_nobody_and_closes_nothing(chat):
    async with (
        serving(issuing.JWKS_OLD) as jwks,
        run_sidecar(
            **issuing.SETTINGS,
            **NO_LIMITS,
            jwt_jwks_url=jwks.url,
            jwt_jwks_refresh_seconds=REFRESH_SECONDS,
            membership_target=chat.target,
        ) as sidecar,
    ):
        room, account = guid(), guid()
        chat.allow(room, account)
        remembered = token(account)
        assert (await sidecar.probe(room, remembered)).status == 400
        clients = await in_rooms_of_ten(sidecar, chat, LIVE)
        async with kept(clients), Load(sidecar, chat).running() as load:
            await load.more(HANDSHAKES // 4)
            jwks.body = issuing.JWKS_BOTH
            load.keys = [OLD, NEW]  # at once: the sidecar has not seen the new key yet
            await load.more(HANDSHAKES // 2)
            await load.stop_signing_with(OLD, go_on_with=NEW)
            jwks.body = issuing.JWKS_NEW
            gone = REFRESH_SECONDS + ON_THE_WAY_SECONDS
            await until(lambda: refused(sidecar, room, remembered), "the old key goes, cached or not", gone)
            assert await refused(sidecar, room, token(account, OLD))
            await load.more(HANDSHAKES // 4)
            assert set(load.statuses) == {400}, load.statuses
            assert await disconnects(sidecar) == 0


async def test_an_endpoint_that_is_down_keeps_the_keys_and_is_taken_up_again(chat):
    async with (
        serving(issuing.JWKS_OLD) as jwks,
        run_sidecar(
            **issuing.SETTINGS,
            **NO_LIMITS,
            jwt_jwks_url=jwks.url,
            jwt_jwks_refresh_seconds=1,
            membership_target=chat.target,
        ) as sidecar,
    ):
        room, account = guid(), guid()
        chat.allow(room, account)

        async def failing() -> float:
            return count(await sidecar.metrics(), "jwks_failing")

        jwks.status = "503 Service Unavailable"
        await until(failing, "the outage in the metrics")
        assert (await sidecar.probe(room, token(account))).status == 400
        jwks.status, jwks.body = "200 OK", issuing.JWKS_NEW

        async def accepted() -> bool:
            return (await sidecar.probe(room, token(account, NEW))).status == 400

        await until(accepted, "the new key")
        assert not await failing()
        assert await refused(sidecar, room, token(account, OLD))


async def test_hundreds_of_tokens_by_unknown_keys_cost_one_fetch_and_a_standing_mismatch_none(chat):
    async with (
        serving(issuing.JWKS_OLD) as jwks,
        run_sidecar(
            **issuing.SETTINGS, **NO_LIMITS, jwt_jwks_url=jwks.url, membership_target=chat.target
        ) as sidecar,
    ):
        room, account = guid(), guid()
        chat.allow(room, account)
        assert (await sidecar.probe(room, token(account))).status == 400, "kid is not the thumbprint"
        assert len(jwks.requests) == 1
        stranger = private_key("stranger")
        bad = [sign(live_claims(sub=account), stranger, kid=guid()) for _ in range(200)]
        answers = await asyncio.gather(*(sidecar.probe(room, one) for one in bad))
        assert {answer.status for answer in answers} == {401}
        assert len(jwks.requests) == 2


async def test_a_pem_file_that_rotates_with_overlap_refuses_nobody_and_closes_nothing(chat, tmp_path):
    file = tmp_path / "key.pem"

    def publish(pem: bytes) -> None:
        fresh = tmp_path / "fresh.pem"
        fresh.write_bytes(pem)
        fresh.rename(file)

    publish(issuing.PEM_OLD)
    async with run_sidecar(
        **issuing.SETTINGS, **NO_LIMITS, jwt_public_key_file=file, membership_target=chat.target
    ) as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        remembered = token(account)
        assert (await sidecar.probe(room, remembered)).status == 400
        clients = await in_rooms_of_ten(sidecar, chat, 20)
        async with kept(clients), Load(sidecar, chat).running() as load:
            publish(issuing.PEM_BOTH)
            load.keys = [OLD, NEW]
            await load.more(HANDSHAKES // 4)
            await load.stop_signing_with(OLD, go_on_with=NEW)
            publish(issuing.PEM_NEW)
            await until(lambda: refused(sidecar, room, remembered), "the removed key goes")
            await load.more(HANDSHAKES // 8)
            assert set(load.statuses) == {400}, load.statuses
            assert await disconnects(sidecar) == 0


class NamingChat(ChatServiceDouble):
    """Notes whose certificate came with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    async def _begin(self, method: str, context: grpc.aio.ServicerContext) -> None:
        self.names.append(context.auth_context()["x509_common_name"][0].decode())
        await super()._begin(method, context)


async def test_a_client_certificate_that_rotates_fails_no_call_and_closes_nothing(tmp_path):
    authority = Authority()
    chat = NamingChat()
    chat.delay_seconds = 0.1  # so that calls are always under way
    await chat.start(
        credentials=certificates.server_credentials(authority, authority.issue("chat"), mutual=True)
    )
    try:
        files = certificates.write(tmp_path, ca=authority.pem, pair=authority.issue("first"))
        (tmp_path / "jwt.pem").write_bytes(issuing.PEM_OLD)
        async with run_sidecar(
            **issuing.SETTINGS,
            **NO_LIMITS,
            jwt_public_key_file=tmp_path / "jwt.pem",
            membership_target=chat.target,
            membership_tls_ca_file=files.ca,
            membership_tls_cert_file=files.cert,
            membership_tls_key_file=files.key,
            membership_recheck_seconds=1,
        ) as sidecar:
            clients = await in_rooms_of_ten(sidecar, chat, 50)
            async with kept(clients), Load(sidecar, chat).running() as load:
                await load.more(WORKERS)
                assert set(chat.names) == {"first"}
                certificates.write(tmp_path, ca=authority.pem, pair=authority.issue("second"))
                await until(lambda: "second" in chat.names, "the new certificate")
                await until(lambda: chat.names[-100:] == ["second"] * 100, "the old one is no longer shown")
                assert set(load.statuses) == {400}, load.statuses
                metrics = await sidecar.metrics()
                assert count(metrics, "disconnects_total") == 0
                assert count(metrics, "membership_stale") == 0
                calls = {"GetMembership", "BatchGetMemberships"}
                failed = [
                    (name, value)
                    for name, value in metrics.items()
                    if "membership_requests_total" in name
                    and value
                    and any(call in name for call in calls)
                    and 'code="OK"' not in name
                ]
                assert not failed
    finally:
        await chat.stop()
