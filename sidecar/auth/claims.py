"""What a verified token says: claims, judged and turned into a `Principal`."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from enum import StrEnum

from msgspec import Struct

from sidecar.auth import strict_json
from sidecar.errors import Refusal, RefusalCode
from sidecar.guid import canonical_guid

MAX_NAME_CHARACTERS = 256
MAX_SESSION_ID_CHARACTERS = 256
_NUMBER = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?")
# The years 1 to 9999: what RFC 3339 can write. The issuer's "never" is one of the two ends.
_EARLIEST, _AFTER_LATEST = -62_135_596_800, 253_402_300_800


class Use(StrEnum):
    """What a token is for: claim `type`, else `token_use`, else `user`. No other use (`refresh`) authenticates."""

    USER = "user"
    API_KEY = "api_key"


_USES = {str(use): use for use in Use}


class Principal(Struct, frozen=True, gc=False):
    """Who a verified token speaks for. Times are Unix seconds; `name` and `nick` are "" when not claimed.

    `account_id` is a GUID in lower case with dashes. `session_id` is claim `sid`, else `jti`; a GUID is in the same
    form. `expires_at` is None only for an API key that never expires; `valid_from` is the later of `iat` and `nbf`.
    Names are valid Unicode of at most 256 characters.
    """

    account_id: str
    use: Use
    session_id: str | None
    name: str
    nick: str
    issued_at: float | None
    expires_at: float | None
    valid_from: float | None = None

    def check(self, *, bot: bool, now: float, leeway_seconds: float) -> None:
        """Judge what depends on the scheme and the clock; expiry last, so that it is all that is wrong.

        Raises:
            Refusal: UNAUTHORIZED or TOKEN_EXPIRED.
        """
        if bot != (self.use is Use.API_KEY):
            raise unauthorized("API keys, and only they, use the scheme Bot")
        if self.valid_from is not None and self.valid_from > now + leeway_seconds:
            raise unauthorized("the token is not valid yet")
        if self.expires_at is not None and self.expires_at <= now - leeway_seconds:
            raise Refusal(RefusalCode.TOKEN_EXPIRED, "the token has expired")


def unauthorized(message: str) -> Refusal:
    return Refusal(RefusalCode.UNAUTHORIZED, message)


def parse(payload: bytes, *, issuers: AbstractSet[str], audiences: AbstractSet[str]) -> Principal:
    """Read the payload of a token whose signature is verified.

    Raises:
        Refusal: UNAUTHORIZED, for anything but the time and the scheme.
    """
    try:
        claims = strict_json.loads(payload)
    except ValueError:
        raise unauthorized("the token's claims are not JSON with unique names") from None
    if not isinstance(claims, dict):
        raise unauthorized("the token's claims are not an object")
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or issuer not in issuers:
        raise unauthorized("the token's issuer is not accepted")
    if audiences.isdisjoint(_audiences(claims.get("aud"))):
        raise unauthorized("the token is for another audience")
    use = _use(claims)
    expires_at = _time(claims, "exp")
    if expires_at is None and use is not Use.API_KEY:
        raise unauthorized("the token has no exp")
    issued_at, not_before = _time(claims, "iat"), _time(claims, "nbf")
    return Principal(
        account_id=_account_id(claims.get("sub")),
        use=use,
        session_id=_session_id(claims),
        name=_name(claims.get("name")),
        nick=_name(claims.get("nick")),
        issued_at=issued_at,
        expires_at=expires_at,
        valid_from=_later(issued_at, not_before),
    )


def _audiences(value: object) -> list[str]:
    """A string, or an array of nothing but strings (RFC 7519 4.1.3)."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise unauthorized("the token's aud is neither a string nor strings")


def _use(claims: dict[str, object]) -> Use:
    value = claims["type"] if "type" in claims else claims.get("token_use", "user")
    use = _USES.get(value) if isinstance(value, str) else None
    if use is None:
        raise unauthorized("a token of this use does not authenticate")
    return use


def _account_id(value: object) -> str:
    account_id = canonical_guid(value) if isinstance(value, str) else None
    if account_id is None:
        raise unauthorized("the token's sub is not a GUID")
    return account_id


def _session_id(claims: dict[str, object]) -> str | None:
    for claim in ("sid", "jti"):
        value = claims.get(claim)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or len(value) > MAX_SESSION_ID_CHARACTERS or not value.isprintable():
            raise unauthorized(f"the token's {claim} is malformed")
        return canonical_guid(value) or value  # publishers and tokens may spell one differently
    return None


def _time(claims: dict[str, object], claim: str) -> float | None:
    """A NumericDate, also as a number in a string."""
    if claim not in claims:
        return None
    value = claims[claim]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise unauthorized(f"the token's {claim} is not a time")
    if not _EARLIEST <= value < _AFTER_LATEST:  # nor infinity, nor an integer too large for a float
        raise unauthorized(f"the token's {claim} is out of range")
    return float(value)


def _later(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)


def _name(value: object) -> str:
    """A display name that can be sent on: a lone surrogate is not Unicode and would break every receiver."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value[:MAX_NAME_CHARACTERS]
    return value[:MAX_NAME_CHARACTERS].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
