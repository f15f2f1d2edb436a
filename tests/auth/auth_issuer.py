"""An issuer of tokens for the tests: key pairs, and tokens as right or as wrong as asked."""

import asyncio
import json
import time
from base64 import urlsafe_b64encode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "solar-network"
AUDIENCE = "api"
ACCOUNT = "0f8fad5b-d9cb-469f-a165-70867728950e"
NOW = 1_800_000_000
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_POOL = {}


def private_key(name="first", kind="RSA"):
    """The same key for the same name in one test run: RSA keys are slow to make."""
    makers = {
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
        "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
    }
    if (kind, name) not in _POOL:
        _POOL[kind, name] = makers[kind]()
    return _POOL[kind, name]


def key_for(algorithm):
    kinds = {
        "RS": "RSA",
        "PS": "RSA",
        "ES256": "P-256",
        "ES384": "P-384",
        "ES512": "P-521",
        "EdDSA": "Ed25519",
    }
    return private_key(kind=kinds.get(algorithm) or kinds[algorithm[:2]])


def pem(*keys, form=PublicFormat.SubjectPublicKeyInfo):
    return b"".join(key.public_key().public_bytes(Encoding.PEM, form) for key in keys)


def jwk(key, kid=None, **members):
    algorithm = {"RSAPrivateKey": RSAAlgorithm, "ECPrivateKey": ECAlgorithm}.get(
        type(key).__name__, OKPAlgorithm
    )
    described = algorithm.to_jwk(key.public_key(), as_dict=True)
    described.pop("key_ops", None)
    return described | ({"kid": kid} if kid is not None else {}) | members


def jwks(*members):
    return json.dumps({"keys": members}).encode()


def claims(**changes):
    """A user token's claims, right at `NOW`; a change to None leaves the claim out."""
    right = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": ACCOUNT,
        "iat": NOW,
        "exp": NOW + 300,
        "type": "user",
        "sid": "5b0c3c0e-session",
        "name": "alice",
        "nick": "Alice",
    } | changes
    return {name: value for name, value in right.items() if value is not None}


def live_claims(**changes):
    now = time.time()
    return claims(iat=int(now), exp=int(now) + 300, **changes)


def sign(payload, key=None, *, algorithm="RS256", kid="solar-network", headers=None):
    """A token over a dict of claims, or over bytes as they are."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    extra = ({"kid": kid} if kid is not None else {}) | (headers or {})
    return jwt.api_jws.encode(body, key or private_key(), algorithm, headers=extra)


def sign_raw(header, payload, key=None):
    """RS256 over a header and a payload exactly as given, in bytes: for headers no library would write."""
    signing_input = b64(header) + b"." + b64(payload)
    signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(signing_input, key or private_key())
    return (signing_input + b"." + b64(signature)).decode()


def b64(data):
    return urlsafe_b64encode(data).rstrip(b"=")


async def eventually(condition, *, within_seconds=10.0):
    """Wait until `condition()` is true."""
    async with asyncio.timeout(within_seconds):
        while not condition():
            await asyncio.sleep(0.005)


def no_wait(coroutine):
    """Run what must not wait: it ends at the first step, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    finally:
        coroutine.close()
    raise AssertionError("it waited")
