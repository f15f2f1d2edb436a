"""Public keys out of a PEM file or a JWKS, prepared once so that a verification costs only the arithmetic."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm
from jwt.exceptions import InvalidKeyError

from sidecar.auth import strict_json

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

MAX_KEYS = 32  # a token of unknown kid is tried against all that fit
_RSA_BITS = range(2048, 8192 + 1)  # below: breakable; above: a verification takes milliseconds

_VERIFIERS: dict[str, Algorithm] = {
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "RS384": RSAAlgorithm(RSAAlgorithm.SHA384),
    "RS512": RSAAlgorithm(RSAAlgorithm.SHA512),
    "PS256": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256),
    "PS384": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384),
    "PS512": RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512),
    "ES256": ECAlgorithm(ECAlgorithm.SHA256, ec.SECP256R1),
    "ES384": ECAlgorithm(ECAlgorithm.SHA384, ec.SECP384R1),
    "ES512": ECAlgorithm(ECAlgorithm.SHA512, ec.SECP521R1),
    "EdDSA": OKPAlgorithm(),
}
_RSA_ALGORITHMS = frozenset(name for name in _VERIFIERS if name.startswith(("RS", "PS")))
_EC_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

_PEM_BEGIN = b"-----BEGIN "
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_JWK_READERS: dict[str, Callable[[dict[str, object]], object]] = {
    "RSA": RSAAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "OKP": OKPAlgorithm.from_jwk,
}


class BadKeys(ValueError):
    """A key document that cannot be used; the message says why, for an operator."""


@dataclass(frozen=True, slots=True)
class PreparedKey:
    """One public key and the algorithms it may verify. Equal when key, `kid` and algorithms are."""

    fingerprint: str
    kid: str | None
    algorithms: frozenset[str]
    public: PublicKey = field(repr=False, compare=False)

    def verifies(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `message`; False for an algorithm that is not this key's."""
        return algorithm in self.algorithms and _VERIFIERS[algorithm].verify(message, self.public, signature)


def parse_pem(document: bytes, algorithms: Iterable[str]) -> tuple[PreparedKey, ...]:
    """Every public key in a PEM file: SPKI, PKCS#1 or X.509 blocks, several while keys rotate.

    A certificate only carries its key: its chain and dates are not judged.

    Raises:
        BadKeys: no block, a block that is not a public key, or a key no allowed algorithm can use.
    """
    allowed = frozenset(algorithms)
    keys = [_pem_key(match[1].decode(), match[0], allowed) for match in _PEM_BLOCK.finditer(document)]
    if document.count(_PEM_BEGIN) != len(keys):
        raise BadKeys("a PEM block that is cut short")
    return _checked(keys, "no PEM block (-----BEGIN PUBLIC KEY----- …)")


def parse_jwks(document: bytes, algorithms: Iterable[str]) -> tuple[PreparedKey, ...]:
    """The usable keys of a JWKS (RFC 7517 5); keys of other kinds, uses or algorithms are passed over.

    Raises:
        BadKeys: not a JWKS, or no usable key in it.
    """
    allowed = frozenset(algorithms)
    try:
        jwks = strict_json.loads(document)
    except ValueError as error:
        raise BadKeys(f"not JSON ({error})") from None
    members = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(members, list):
        raise BadKeys('not a JWKS: expected {"keys": […]}')
    keys: list[PreparedKey] = []
    problems: list[str] = []
    for position, member in enumerate(members):
        try:
            keys.append(_jwk_key(member, allowed))
        except BadKeys as error:
            problems.append(f"key {position}: {error}")
    return _checked(keys, "no usable key in the JWKS (" + ("; ".join(problems[:3]) or "it is empty") + ")")


def _checked(keys: list[PreparedKey], if_none: str) -> tuple[PreparedKey, ...]:
    if not keys:
        raise BadKeys(if_none)
    if len(keys) > MAX_KEYS:
        raise BadKeys(f"{len(keys)} keys; expected at most {MAX_KEYS}")
    return tuple(dict.fromkeys(keys))


def _pem_key(label: str, block: bytes, allowed: frozenset[str]) -> PreparedKey:
    try:
        if label == "CERTIFICATE":
            public: object = x509.load_pem_x509_certificate(block).public_key()
        elif label in {"PUBLIC KEY", "RSA PUBLIC KEY"}:
            public = load_pem_public_key(block)
        else:
            raise BadKeys(f"a {label} block; expected PUBLIC KEY, RSA PUBLIC KEY or CERTIFICATE")
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, BadKeys):
            raise
        raise BadKeys(f"a {label} block that cannot be parsed") from None
    return _prepared(public, None, allowed)


def _jwk_key(member: object, allowed: frozenset[str]) -> PreparedKey:
    if not isinstance(member, dict):
        raise BadKeys("not an object")
    member = {
        name: value for name, value in member.items() if value is not None
    }  # some serialisers write nulls
    kid, key_ops = member.get("kid"), member.get("key_ops", ["verify"])
    reader = _JWK_READERS.get(str(member.get("kty")))
    if reader is None:
        raise BadKeys("kty is none of RSA, EC, OKP")
    if "d" in member:
        raise BadKeys("a private key; publish public keys only")
    if member.get("use", "sig") != "sig" or not isinstance(key_ops, list) or "verify" not in key_ops:
        raise BadKeys("not for verifying signatures (use, key_ops)")
    if kid is not None and not isinstance(kid, str):
        raise BadKeys("kid is not a string")
    if "alg" in member:
        allowed = allowed.intersection({str(member["alg"])})
    try:
        public = reader(member)
    except (InvalidKeyError, ValueError, TypeError, UnsupportedAlgorithm):
        raise BadKeys("its parameters are not a key") from None
    return _prepared(public, kid, allowed)


def _prepared(public: object, kid: str | None, allowed: frozenset[str]) -> PreparedKey:
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size not in _RSA_BITS:
            raise BadKeys(f"RSA of {public.key_size} bits; expected {_RSA_BITS[0]} to {_RSA_BITS[-1]}")
        fitting = _RSA_ALGORITHMS
    elif isinstance(public, ec.EllipticCurvePublicKey):
        fitting = frozenset({_EC_ALGORITHMS.get(public.curve.name, "")})
    elif isinstance(public, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        fitting = frozenset({"EdDSA"})
    else:
        raise BadKeys("a key that is none of RSA, EC, Ed25519, Ed448")
    usable = fitting & allowed
    if not usable:
        raise BadKeys("no allowed algorithm fits this key")
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PreparedKey(hashlib.sha256(spki).hexdigest(), kid, usable, public)
