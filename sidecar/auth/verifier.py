"""From a token to who it speaks for: signature, claims, time, and a memory of what was verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from hashlib import sha256
from itertools import islice
from typing import Protocol

from sidecar.auth import claims
from sidecar.auth.claims import Principal, Use, unauthorized
from sidecar.auth.jws import Jws, Malformed, decode_compact, encode_compact
from sidecar.auth.keyset import PreparedKey
from sidecar.errors import Refusal, RefusalCode

__all__ = ["Principal", "Use", "Verifier"]

_CACHED_TOKENS = 10_000
_FIRST_LOOK = 64
"""So many remembered tokens are not worth looking through for expired ones."""


class Keys(Protocol):
    """What a verifier needs of a key ring."""

    @property
    def loaded(self) -> bool: ...
    @property
    def removals(self) -> int:
        """Grows whenever a key is no longer one."""
        ...

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[PreparedKey]: ...
    async def refresh_on_demand(self) -> bool: ...


class Verifier:
    """Judges tokens by the rules of docs/protocol.md, "The token".

    A token verified once is remembered by its SHA-256 until it expires, a key goes or younger tokens need the
    place; its times are still judged at each use.
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
        self._removals = keys.removals
        self._verified: dict[bytes, Principal] = {}  # by digest, the oldest first, which mostly expires first
        self._look_at = min(_FIRST_LOOK, cached_tokens)  # so many: time to look for what may be forgotten

    async def verify(self, token: str, *, bot: bool) -> Principal:
        """Who the token speaks for. Waits only when no key fits and the key source is asked again.

        Raises:
            Refusal: TOKEN_EXPIRED for a token right in everything but `exp`, TOKEN_REVOKED for one whose session has
                ended, UNAUTHORIZED for any other bad one, UNAVAILABLE while no keys could be loaded yet.
        """
        compact = _encode(token)
        digest = sha256(compact).digest()
        known = self._recall(digest)
        if known is not None:
            known.check(bot=bot, now=self._clock(), leeway_seconds=self._leeway_seconds)
            self.check_session(known)
            return known

        jws = self._decode(compact)
        if not self._is_signed(jws):
            await self._refresh_for(jws)
        fresh = claims.parse(jws.payload, issuers=self._issuers, audiences=self._audiences)
        now = self._clock()
        fresh.check(bot=bot, now=now, leeway_seconds=self._leeway_seconds)
        self._remember(digest, fresh, now)
        if fresh.use is Use.USER and fresh.issued_at is not None:
            self._on_fresh(now - fresh.issued_at)
        self.check_session(fresh)
        return fresh

    def check_session(self, principal: Principal) -> None:
        """Look whether the session of a verified token has ended; true until the caller's next await.

        Raises:
            Refusal: TOKEN_REVOKED.
        """
        if principal.session_id in self._revoked:
            raise Refusal(RefusalCode.TOKEN_REVOKED, "the session of this token has ended")

    def _decode(self, compact: bytes) -> Jws:
        try:
            jws = decode_compact(compact)
        except Malformed as error:
            raise _malformed(error) from None
        if jws.header.algorithm not in self._algorithms:
            raise unauthorized("the token's algorithm is not accepted")
        return jws

    def _is_signed(self, jws: Jws) -> bool:
        algorithm = jws.header.algorithm
        for key in self._keys.candidates(jws.header.kid, algorithm):
            if key.verifies(algorithm, jws.signing_input, jws.signature):
                return True
        return False

    async def _refresh_for(self, jws: Jws) -> None:
        """Look for a key of `jws` where keys come from. Raises: Refusal."""
        if await self._keys.refresh_on_demand() and self._is_signed(jws):
            return
        if not self._keys.loaded:
            raise Refusal(RefusalCode.UNAVAILABLE, "the issuer's keys are not loaded yet")
        raise unauthorized("the token's signature is not by a key of the issuer")

    def _recall(self, digest: bytes) -> Principal | None:
        if self._removals != self._keys.removals:
            self._removals = self._keys.removals
            self._verified.clear()  # the few that another key signed are verified again
        return self._verified.get(digest)

    def _remember(self, digest: bytes, principal: Principal, now: float) -> None:
        self._verified[digest] = principal
        if len(self._verified) > self._look_at:
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Forget what expired, then the oldest over seven eighths: one pass for many new tokens."""
        ended = now - self._leeway_seconds
        expired = [
            digest
            for digest, principal in self._verified.items()
            if principal.expires_at is not None and principal.expires_at <= ended
        ]
        over = len(self._verified) - len(expired) - max(self._cached_tokens * 7 // 8, 1)
        for digest in expired:
            del self._verified[digest]
        for digest in list(islice(self._verified, max(over, 0))):
            del self._verified[digest]
        self._look_at = min(max(2 * len(self._verified), _FIRST_LOOK), self._cached_tokens)


def _encode(token: str) -> bytes:
    try:
        return encode_compact(token)
    except Malformed as error:
        raise _malformed(error) from None


def _malformed(error: Malformed) -> Refusal:
    return unauthorized(f"the token is malformed: {error}")
