"""From a token to who it speaks for: signature, claims, time, and a memory of what was verified."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from sidecar.auth import claims
from sidecar.auth.claims import Claims, Principal, Use, unauthorized
from sidecar.auth.jws import Jws, Malformed, decode_compact
from sidecar.auth.keyset import PreparedKey
from sidecar.errors import Refusal, RefusalCode

__all__ = ["Principal", "Use", "Verifier"]

_CACHED_TOKENS = 10_000
_LOOKED_AT_PER_INSERT = 2


class Keys(Protocol):
    """What a verifier needs of a key ring."""

    @property
    def loaded(self) -> bool: ...
    def __contains__(self, key: PreparedKey) -> bool: ...
    def candidates(self, kid: str | None, algorithm: str) -> Sequence[PreparedKey]: ...
    async def refresh_on_demand(self) -> bool: ...


class _Verified(NamedTuple):
    claims: Claims
    key: PreparedKey


class Verifier:
    """Judges tokens by the rules of docs/protocol.md, "The token".

    A token verified once is remembered by its SHA-256 until it expires, its key goes or younger tokens need
    the place; its times are still judged at each use.
    """

    def __init__(
        self,
        *,
        keys: Keys,
        algorithms: Sequence[str],
        issuers: Sequence[str],
        audiences: Sequence[str],
        leeway_seconds: float,
        revoked: Container[str | None] = frozenset(),
        on_fresh: Callable[[float], None] = lambda _skew_seconds: None,
        clock: Callable[[], float] = time.time,
        cached_tokens: int = _CACHED_TOKENS,
    ) -> None:
        """`revoked` holds the sessions that ended early.

        `on_fresh` gets now minus `iat` in seconds of each user token seen for the first time.
        """
        self._keys = keys
        self._algorithms = frozenset(algorithms)
        self._issuers = frozenset(issuers)
        self._audiences = frozenset(audiences)
        self._leeway_seconds = leeway_seconds
        self._revoked = revoked
        self._on_fresh = on_fresh
        self._clock = clock
        self._cached_tokens = cached_tokens
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()  # least recently used first

    async def verify(self, token: str, *, bot: bool) -> Principal:
        """Who the token speaks for. Waits only when no key fits and the key source is asked again.

        Raises:
            Refusal: TOKEN_EXPIRED for a token right in everything but `exp`, TOKEN_REVOKED for one whose session has
                ended, UNAUTHORIZED for any other bad one, UNAVAILABLE while no keys could be loaded yet.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._recall(digest)
        if known is not None:
            known.check(bot=bot, now=self._clock(), leeway_seconds=self._leeway_seconds)
            self.check_session(known.principal)
            return known.principal

        jws = self._decode(token)
        key = self._signer(jws) or await self._signer_after_refresh(jws)
        fresh = claims.parse(jws.payload, issuers=self._issuers, audiences=self._audiences)
        now = self._clock()
        fresh.check(bot=bot, now=now, leeway_seconds=self._leeway_seconds)
        self._remember(digest, _Verified(fresh, key), now)
        principal = fresh.principal
        if principal.use is Use.USER and principal.issued_at is not None:
            self._on_fresh(now - principal.issued_at)
        self.check_session(principal)
        return principal

    def check_session(self, principal: Principal) -> None:
        """Look whether the session of a verified token has ended; true until the caller's next await.

        Raises:
            Refusal: TOKEN_REVOKED.
        """
        if principal.session_id in self._revoked:
            raise Refusal(RefusalCode.TOKEN_REVOKED, "the session of this token has ended")

    def _decode(self, token: str) -> Jws:
        try:
            jws = decode_compact(token)
        except Malformed as error:
            raise unauthorized(f"the token is malformed: {error}") from None
        if jws.algorithm not in self._algorithms:
            raise unauthorized("the token's algorithm is not accepted")
        return jws

    def _signer(self, jws: Jws) -> PreparedKey | None:
        for key in self._keys.candidates(jws.kid, jws.algorithm):
            if key.verifies(jws.algorithm, jws.signing_input, jws.signature):
                return key
        return None

    async def _signer_after_refresh(self, jws: Jws) -> PreparedKey:
        if await self._keys.refresh_on_demand():
            key = self._signer(jws)
            if key is not None:
                return key
        if not self._keys.loaded:
            raise Refusal(RefusalCode.UNAVAILABLE, "the issuer's keys are not loaded yet")
        raise unauthorized("the token's signature is not by a key of the issuer")

    def _recall(self, digest: bytes) -> Claims | None:
        entry = self._verified.get(digest)
        if entry is None:
            return None
        if entry.key not in self._keys:
            del self._verified[digest]
            return None
        self._verified.move_to_end(digest)
        return entry.claims

    def _remember(self, digest: bytes, entry: _Verified, now: float) -> None:
        self._verified[digest] = entry
        # The least used have mostly expired: two looked at per new one keep the memory near what lives.
        for oldest in list(islice(self._verified, _LOOKED_AT_PER_INSERT)):
            expires_at = self._verified[oldest].claims.principal.expires_at
            if expires_at is not None and expires_at <= now - self._leeway_seconds:
                del self._verified[oldest]
        while len(self._verified) > self._cached_tokens:
            self._verified.popitem(last=False)
