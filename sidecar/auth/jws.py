"""A signed token in compact form (RFC 7515 7.1), decoded without believing a word of it."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field

from sidecar.auth import strict_json

MAX_TOKEN_BYTES = 8192
_SEGMENTS = 3
# Extensions that change what the signature covers (RFC 7515 4.1.11, RFC 7797). We implement none.
_REFUSED_PARAMETERS = frozenset({"crit", "b64"})


class Malformed(ValueError):
    """Not a compact JWS, or not the only way to write it. The message never holds a part of the token."""


@dataclass(frozen=True, slots=True)
class Jws:
    """What the header claims and what was signed. `jwk`, `jku`, `x5u` and `x5c` are not even kept."""

    algorithm: str
    kid: str | None
    signing_input: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def decode_compact(token: str) -> Jws:
    """Take a compact JWS apart.

    Raises:
        Malformed: over `MAX_TOKEN_BYTES`, not three segments of canonical base64url (no padding, no stray
            bits), a header that is not an object with unique names, `crit` or `b64` in it.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise Malformed(f"longer than {MAX_TOKEN_BYTES} bytes")
    try:
        encoded = token.encode("ascii")
    except UnicodeEncodeError:
        raise Malformed("characters outside base64url") from None
    segments = encoded.split(b".", _SEGMENTS)
    if len(segments) != _SEGMENTS:
        raise Malformed("not three segments")
    header = _header(_decode_segment(segments[0]))
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise Malformed("alg is not a string")
    if kid is not None and not isinstance(kid, str):
        raise Malformed("kid is not a string")
    return Jws(
        algorithm=algorithm,
        kid=kid,
        signing_input=encoded[: encoded.rindex(b".")],
        payload=_decode_segment(segments[1]),
        signature=_decode_segment(segments[2]),
    )


def _header(document: bytes) -> dict[str, object]:
    try:
        header = strict_json.loads(document)
    except ValueError:
        raise Malformed("the header is not JSON with unique names") from None
    if not isinstance(header, dict):
        raise Malformed("the header is not an object")
    refused = _REFUSED_PARAMETERS.intersection(header)
    if refused:
        raise Malformed(f"header parameter {min(refused)} is not supported")
    return header


def _decode_segment(segment: bytes) -> bytes:
    try:
        decoded = urlsafe_b64decode(segment + b"==")
    except binascii.Error:
        raise Malformed("not base64url") from None
    # The decoder skips what it does not know; only the canonical spelling encodes back to itself.
    if urlsafe_b64encode(decoded).rstrip(b"=") != segment:
        raise Malformed("not canonical base64url")
    return decoded
