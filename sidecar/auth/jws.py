"""A signed token in compact form (RFC 7515 7.1), decoded without believing a word of it."""

from __future__ import annotations

from binascii import Error, a2b_base64
from functools import lru_cache

from msgspec import Struct

from sidecar.auth import strict_json

MAX_TOKEN_BYTES = 8192
_DOTS = 2
_KNOWN_HEADERS = 64
# Extensions that change what the signature covers (RFC 7515 4.1.11, RFC 7797). We implement none.
_REFUSED_PARAMETERS = frozenset({"crit", "b64"})

# base64url in the letters of base64; what belongs only to base64, padding too, in one that belongs to neither.
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")
_PADDING = (b"", b"", b"==", b"=")
_LAST_LETTERS = (None, None, b"AQgw", b"AEIMQUYcgkosw048")
"""By the length modulo 4: the letters whose bits beyond the last byte are zero. One letter alone is no byte."""


class Malformed(ValueError):
    """Not a compact JWS, or not the only way to write it. The message never holds a part of the token."""


class Header(Struct, frozen=True, gc=False):
    """What the header claims. `jwk`, `jku`, `x5u` and `x5c` are not even kept."""

    algorithm: str
    kid: str | None


class Jws(Struct, frozen=True, gc=False):
    """A token taken apart; nothing in it is verified."""

    header: Header
    signing_input: bytes
    payload: bytes
    signature: bytes


def encode_compact(token: str) -> bytes:
    """The bytes of what may be a compact JWS.

    Raises:
        Malformed: over `MAX_TOKEN_BYTES`, or not ASCII.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise Malformed(f"longer than {MAX_TOKEN_BYTES} bytes")
    try:
        return token.encode("ascii")
    except UnicodeEncodeError:
        raise Malformed("characters outside base64url") from None


def decode_compact(compact: bytes) -> Jws:
    """Take a compact JWS apart.

    Raises:
        Malformed: not three segments of canonical base64url (no padding, no stray bits), a header that is not
            an object with unique names, `crit` or `b64` in it.
    """
    if compact.count(b".") != _DOTS:
        raise Malformed("not three segments")
    signed, _, signature = compact.translate(_TO_BASE64).rpartition(b".")
    header, _, payload = signed.partition(b".")
    return Jws(
        header=_header(header),
        signing_input=compact[: len(signed)],
        payload=_decode_segment(payload),
        signature=_decode_segment(signature),
    )


@lru_cache(_KNOWN_HEADERS)
def _header(segment: bytes) -> Header:
    """An issuer's tokens share a header or a few, so that it is mostly read once."""
    document = _decode_segment(segment)
    try:
        header = strict_json.loads(document)
    except ValueError:
        raise Malformed("the header is not JSON with unique names") from None
    if not isinstance(header, dict):
        raise Malformed("the header is not an object")
    refused = _REFUSED_PARAMETERS.intersection(header)
    if refused:
        raise Malformed(f"header parameter {min(refused)} is not supported")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise Malformed("alg is not a string")
    if kid is not None and not isinstance(kid, str):
        raise Malformed("kid is not a string")
    return Header(algorithm, kid)


def _decode_segment(segment: bytes) -> bytes:
    over = len(segment) % 4
    try:
        decoded = a2b_base64(segment + _PADDING[over], strict_mode=True)
    except Error:
        raise Malformed("not base64url") from None
    letters = _LAST_LETTERS[over]
    if letters is not None and segment[-1] not in letters:
        raise Malformed("not canonical base64url")
    return decoded
