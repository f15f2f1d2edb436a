import pytest
from auth_issuer import (
    AUDIENCE,
    ISSUER,
    NOW,
    claims,
    eventually,
    jwk,
    jwks,
    no_wait,
    private_key,
    sign,
)
from jwks_server import serving

from sidecar.auth.keys import KeyRing
from sidecar.auth.verifier import Verifier
from sidecar.errors import Refusal, RefusalCode

FIRST, SECOND = private_key("first"), private_key("second")


class Clock:
    now = NOW

    def __call__(self):
        return self.now


class Trying:
    """A ring over a real file, with a clock and a verifier that the test can look into."""

    def __init__(self, tmp_path, **changes):
        self.file = tmp_path / "jwks.json"
        self.publish(jwk(FIRST, "first"))
        self.clock = Clock()
        self.skews = []
        self.keys = KeyRing(
            algorithms=["RS256"],
            jwks_file=self.file,
            file_poll_seconds=0.01,
            cooldown_seconds=0.0,
            on_refresh=lambda _result: None,
        )
        self.verifier = Verifier(
            keys=self.keys,
            algorithms=["RS256"],
            issuers=[ISSUER],
            audiences=[AUDIENCE],
            leeway_seconds=60,
            clock=self.clock,
            on_fresh=self.skews.append,
            **changes,
        )

    def publish(self, *members):
        self.file.write_bytes(jwks(*members))

    async def code(self, token, *, bot=False):
        try:
            await self.verifier.verify(token, bot=bot)
        except Refusal as refusal:
            return refusal.code
        return None


@pytest.fixture
async def trying(tmp_path):
    made = Trying(tmp_path, cached_tokens=4)
    await made.keys.start()
    yield made
    await made.keys.close()


async def test_a_token_verified_before_is_the_same_principal_without_waiting(trying):
    token = sign(claims(), FIRST)
    first = await trying.verifier.verify(token, bot=False)
    assert no_wait(trying.verifier.verify(token, bot=False)) is first


async def test_a_fresh_token_that_a_key_fits_is_verified_without_waiting(trying):
    assert no_wait(trying.verifier.verify(sign(claims(), FIRST), bot=False)).name == "alice"


async def test_a_remembered_token_expires_all_the_same(trying):
    token = sign(claims(), FIRST)
    assert await trying.code(token) is None
    trying.clock.now = NOW + 359
    assert await trying.code(token) is None
    trying.clock.now = NOW + 360
    assert await trying.code(token) is RefusalCode.TOKEN_EXPIRED


async def test_a_remembered_token_is_not_valid_before_its_time_when_the_clock_is_set_back(trying):
    token = sign(claims(nbf=NOW), FIRST)
    assert await trying.code(token) is None
    trying.clock.now = NOW - 61
    assert await trying.code(token) is RefusalCode.UNAUTHORIZED


async def test_a_remembered_api_key_still_needs_the_scheme_bot(trying):
    token = sign(claims(type="api_key", exp=None), FIRST)
    assert await trying.code(token, bot=True) is None
    assert await trying.code(token) is RefusalCode.UNAUTHORIZED
    assert await trying.code(token, bot=True) is None


async def test_a_remembered_token_is_forgotten_at_once_when_its_key_goes(trying):
    by_first, by_second = sign(claims(), FIRST), sign(claims(), SECOND)
    assert await trying.code(by_first) is None
    trying.publish(jwk(SECOND, "second"))
    assert await trying.code(by_second) is None  # asks for the new set
    assert await trying.code(by_first) is RefusalCode.UNAUTHORIZED
    assert by_first not in repr(trying.verifier.__dict__)


async def test_a_remembered_token_stays_when_another_key_comes(trying):
    token = sign(claims(), FIRST)
    first = await trying.verifier.verify(token, bot=False)
    trying.publish(jwk(FIRST, "first"), jwk(SECOND, "second"))
    generation = trying.keys.generation
    await eventually(lambda: trying.keys.generation > generation)
    assert await trying.verifier.verify(token, bot=False) is first


async def test_an_expired_token_is_told_as_expired_only_when_rightly_signed(trying):
    assert await trying.code(sign(claims(exp=NOW - 60), FIRST)) is RefusalCode.TOKEN_EXPIRED
    assert await trying.code(sign(claims(exp=NOW - 60), SECOND)) is RefusalCode.UNAUTHORIZED


async def test_a_kid_that_is_known_does_not_try_other_keys(trying):
    trying.publish(jwk(FIRST, "first"), jwk(SECOND, "second"))
    assert await trying.code(sign(claims(), SECOND, kid="second")) is None
    assert await trying.code(sign(claims(), SECOND, kid="first")) is RefusalCode.UNAUTHORIZED
    for unknown in ("solar-network", "", None):
        assert await trying.code(sign(claims(jti=str(unknown)), SECOND, kid=unknown)) is None


async def test_clock_skew_is_told_once_for_each_user_token(trying):
    for token in (sign(claims(iat=NOW - 7), FIRST), sign(claims(iat=NOW + 3), FIRST)):
        await trying.code(token)
        await trying.code(token)
    await trying.code(sign(claims(iat=None), FIRST))
    await trying.code(sign(claims(iat=NOW - 99_999, type="api_key", exp=None), FIRST), bot=True)
    await trying.code(sign(claims(iat=NOW - 5, aud="x"), FIRST))
    assert trying.skews == [7, -3]


async def test_the_memory_is_bounded_and_forgets_the_oldest_first(trying):
    tokens = [sign(claims(jti=str(number)), FIRST) for number in range(6)]
    principals = []
    for token in tokens:
        principals.append(await trying.verifier.verify(token, bot=False))
        assert len(trying.verifier._verified) <= 4
    assert await trying.verifier.verify(tokens[5], bot=False) is principals[5]
    assert await trying.verifier.verify(tokens[4], bot=False) is principals[4]
    assert await trying.verifier.verify(tokens[0], bot=False) is not principals[0]


async def test_expired_tokens_give_their_memory_back_and_a_key_that_never_expires_stays(trying):
    for_ever = sign(claims(type="api_key", exp=None), FIRST)
    principal = await trying.verifier.verify(for_ever, bot=True)
    for number in range(3):
        await trying.code(sign(claims(exp=NOW + number), FIRST))
    trying.clock.now = NOW + 1000
    await trying.code(sign(claims(exp=NOW + 2000), FIRST))
    assert len(trying.verifier._verified) == 2
    assert await trying.verifier.verify(for_ever, bot=True) is principal


async def test_the_memory_holds_digests_and_not_tokens(trying):
    token = sign(claims(), FIRST)
    await trying.verifier.verify(token, bot=False)
    kept = repr(trying.verifier._verified)
    assert not any(part in kept for part in token.split("."))


async def test_while_no_keys_were_ever_loaded_the_answer_is_unavailable():
    async with serving() as server:
        server.status = "503 Service Unavailable"
        keys = KeyRing(algorithms=["RS256"], jwks_url=server.url, on_refresh=lambda _result: None)
        judge = Verifier(
            keys=keys, algorithms=["RS256"], issuers=[ISSUER], audiences=[AUDIENCE], leeway_seconds=60
        )
        await keys.start()
        try:
            with pytest.raises(Refusal) as caught:
                await judge.verify(sign(claims()), bot=False)
            assert caught.value.code is RefusalCode.UNAVAILABLE
            with pytest.raises(Refusal) as caught:
                await judge.verify("no token", bot=False)
            assert caught.value.code is RefusalCode.UNAUTHORIZED
        finally:
            await keys.close()
