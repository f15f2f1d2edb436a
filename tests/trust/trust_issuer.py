"""Tokens for the world outside: signed with keys a test rotates, and every way to be wrong."""

from __future__ import annotations

import time

from tests.auth.auth_issuer import AUDIENCE, b64, jwk, jwks, live_claims, pem, private_key, sign, sign_raw

OLD, NEW = private_key("old"), private_key("new")
JWKS_OLD, JWKS_BOTH, JWKS_NEW = (
    jwks(*(jwk(key, kid=f"thumbprint of {name}", alg="RS256", use="sig") for name, key in keys))
    for keys in ([("old", OLD)], [("old", OLD), ("new", NEW)], [("new", NEW)])
)
PEM_OLD, PEM_BOTH, PEM_NEW = pem(OLD), pem(OLD, NEW), pem(NEW)
SETTINGS = {"jwt_audiences": AUDIENCE}
NO_ALGORITHM = b64(b'{"alg":"none"}').decode()
NO_LIMITS = {"handshake_rate": 0, "address_handshake_rate": 0, "auth_failures_per_minute": 0}


def token(account: str, key=OLD, **claims) -> str:
    """A user's token, right unless told otherwise."""
    return sign(live_claims(sub=account) | claims, key)


def bad_tokens(account: str) -> dict[str, str]:
    """Tokens nobody may get in or stay in with, by what is wrong; `account` is the one they claim."""
    good = token(account)
    head, claims, signature = good.split(".")
    right = live_claims(sub=account)
    now = time.time()
    return {
        "empty": "",
        "no token": "nonsense",
        "no signature": f"{head}.{claims}.",
        "algorithm none": f"{NO_ALGORITHM}.{claims}.",
        "another key": sign(right, private_key("stranger")),
        "another payload": f"{head}.{sign(right | {'nick': 'x'}).split('.')[1]}.{signature}",
        "a key it brings along": sign(right, NEW, headers={"jwk": jwk(NEW)}),
        "crit": sign(right, OLD, headers={"crit": ["exp"]}),
        "two algorithms": sign_raw(b'{"alg":"none","alg":"RS256"}', b"{}", OLD),
        "huge": sign(right | {"profile": "x" * 30_000}, OLD),
        "expired": sign(right | {"exp": int(now) - 3600}, OLD),
        "not yet": sign(right | {"nbf": int(now) + 3600}, OLD),
        "no exp": sign({name: value for name, value in right.items() if name != "exp"}, OLD),
        "another issuer": sign(right | {"iss": "elsewhere"}, OLD),
        "another audience": sign(right | {"aud": "elsewhere"}, OLD),
        "refresh token": sign(right | {"type": "refresh"}, OLD),
        "API key": sign(right | {"type": "api_key"}, OLD),
        "no GUID": sign(right | {"sub": "me"}, OLD),
    }
