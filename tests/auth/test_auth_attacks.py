"""Every known way to get a token accepted that the issuer did not sign that way; each stays refused."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode

import pytest
from auth_issuer import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    NOW,
    b64,
    claims,
    jwk,
    jwks,
    key_for,
    no_wait,
    pem,
    private_key,
    sign,
    sign_raw,
)
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

from sidecar.auth.jws import MAX_TOKEN_BYTES
from sidecar.auth.keyset import parse_jwks
from sidecar.auth.verifier import Verifier
from sidecar.errors import Refusal, RefusalCode

HEADER = b'{"alg":"RS256","kid":"k"}'
GOOD = json.dumps(claims()).encode()
BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Keys:
    """A key set that stands still, and tells how often it was asked to refresh."""

    def __init__(self, *members, algorithms=ALGORITHMS):
        self.keys = parse_jwks(jwks(*members), algorithms)
        self.loaded = True
        self.removals = 0
        self.refreshes = 0

    def candidates(self, kid, algorithm):
        fitting = [key for key in self.keys if algorithm in key.algorithms]
        return [key for key in fitting if key.kid == kid] or fitting

    async def refresh_on_demand(self):
        self.refreshes += 1
        return False


def verifier(keys=None, algorithms=ALGORITHMS, **changes):
    return Verifier(
        keys=keys or Keys(jwk(private_key())),
        algorithms=algorithms,
        issuers=[ISSUER],
        audiences=[AUDIENCE],
        leeway_seconds=60,
        clock=lambda: NOW,
        **changes,
    )


def refused(token, judge=None, *, bot=False):
    with pytest.raises(Refusal) as caught:
        no_wait((judge or verifier()).verify(token, bot=bot))
    assert caught.value.code is RefusalCode.UNAUTHORIZED
    assert caught.value.status == 401
    assert len(token) < 8 or token not in f"{caught.value.message}{caught.value.detail}"
    return caught.value.message


def unsigned(header, signature=b""):
    return (b64(json.dumps(header).encode()) + b"." + b64(GOOD) + b"." + b64(signature)).decode()


def test_the_same_header_and_claims_are_accepted_when_nothing_is_wrong():
    assert no_wait(verifier().verify(sign_raw(HEADER, GOOD), bot=False)).name == "alice"


@pytest.mark.parametrize("spelling", ["none", "None", "NONE", "nOnE", "none ", "", "\u0000none"])
@pytest.mark.parametrize("signature", [b"", b"x", bytes(256)])
def test_algorithm_none_in_any_spelling(spelling, signature):
    refused(unsigned({"alg": spelling}, signature))


@pytest.mark.parametrize(
    "algorithm", [None, 1, ["RS256"], {"RS256": 1}, True, "rs256", "RS256\n", "RS1", "ES256K", "ES521"]
)
def test_an_algorithm_that_is_not_exactly_one_of_ours(algorithm):
    refused(sign_raw(json.dumps({"alg": algorithm}).encode(), GOOD))
    refused(sign_raw(b"{}", GOOD))


@pytest.mark.parametrize(
    ("algorithm", "digest"), [("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")]
)
def test_hmac_with_the_public_key_as_the_secret(algorithm, digest):
    public = pem(private_key())
    n = jwk(private_key())["n"].encode()
    for secret in (public, public.strip(), n, b"", jwks(jwk(private_key()))):
        signing_input = b64(json.dumps({"alg": algorithm}).encode()) + b"." + b64(GOOD)
        mac = hmac.new(secret, signing_input, hashlib.new(digest).name).digest()
        refused((signing_input + b"." + b64(mac)).decode())


@pytest.mark.parametrize("signed", ALGORITHMS)
def test_a_header_that_names_another_algorithm_than_the_signature(signed):
    keys = Keys(*(jwk(key_for(algorithm), algorithm) for algorithm in ALGORITHMS))
    judge = verifier(keys)
    token = sign(claims(), key_for(signed), algorithm=signed)
    assert no_wait(judge.verify(token, bot=False)).name == "alice"
    for claimed in set(ALGORITHMS) - {signed}:
        header = b64(json.dumps({"alg": claimed}).encode()).decode()
        refused(f"{header}.{token.partition('.')[2]}", judge)


def test_an_algorithm_the_operator_did_not_allow_although_the_key_could():
    keys = Keys(jwk(private_key()))
    refused(sign(claims(), algorithm="PS256"), verifier(keys, algorithms=["RS256"]))
    assert keys.refreshes == 0


def test_an_algorithm_another_than_the_one_the_jwk_names():
    refused(sign(claims(), algorithm="PS256"), verifier(Keys(jwk(private_key(), alg="RS256"))))


@pytest.mark.parametrize("where", ["jwk", "jku", "x5u", "x5c", "x5t", "kid"])
def test_a_key_the_token_brings_along(where):
    own = private_key("attacker")
    brought = {
        "jwk": jwk(own, "solar-network"),
        "jku": "http://127.0.0.1:9/jwks",
        "x5u": "http://127.0.0.1:9/cert",
        "x5c": [b64(b"certificate").decode()],
        "x5t": "thumbprint",
        "kid": "../../../../dev/null",
    }
    refused(sign(claims(), own, headers={where: brought[where]}))


def test_a_good_token_is_not_the_worse_for_naming_its_certificate():
    token = sign(claims(), headers={"x5t": "thumbprint", "jku": "http://127.0.0.1:9/jwks"})
    assert no_wait(verifier().verify(token, bot=False)).name == "alice"


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"RS256","crit":["exp"],"exp":1}',
        b'{"alg":"RS256","crit":[]}',
        b'{"alg":"RS256","crit":null}',
        b'{"alg":"RS256","b64":false,"crit":["b64"]}',
        b'{"alg":"RS256","b64":true}',
        b'{"alg":"RS256","alg":"RS256"}',
        b'{"alg":"none","alg":"RS256"}',
        b'{"alg":"RS256","a\\u006cg":"none"}',
        b'{"alg":"RS256","kid":"a","kid":"b"}',
        b'{"alg":"RS256","jwk":{"kty":"RSA","kty":"oct"}}',
        b'{"alg":"RS256","kid":1}',
        b'{"alg":"RS256","kid":["k"]}',
        b'{"alg":"RS256","x":NaN}',
        b'{"alg":"RS256","x":' + b"[" * 3000 + b"]" * 3000 + b"}",
        b'{"alg":"RS256"} x',
        b'{"alg":"RS256"}{}',
        b'["RS256"]',
        b'"RS256"',
        b"null",
        b"",
        b"{",
        b"\xef\xbb\xbf" + HEADER,
        HEADER.decode().encode("utf-16"),
        b'{"alg":"RS256","x":"\xff"}',
        b'{"alg":"RS256","x":"\xed\xa0\x80"}',
    ],
)
def test_a_signed_header_that_two_parsers_could_read_differently(header):
    refused(sign_raw(header, GOOD))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        GOOD[:-1],
        GOOD + b"x",
        GOOD + GOOD,
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        GOOD[:-1] + b',"sub":"00000000-0000-0000-0000-000000000000"}',
        GOOD[:-1] + b',"s\\u0075b":"00000000-0000-0000-0000-000000000000"}',
        GOOD[:-1] + b',"exp":9999999999}',
        GOOD[:-1] + b',"x":{"y":1,"y":2}}',
        GOOD[:-1] + b',"x":NaN}',
        GOOD[:-1] + b',"x":-Infinity}',
        GOOD[:-1] + b',"x":"\xff"}',
        GOOD[:-1] + b',"x":' + b"[" * 2500 + b"]" * 2500 + b"}",
        GOOD[:-1] + b',"x":' + b"9" * 5000 + b"}",
    ],
)
def test_signed_claims_that_two_parsers_could_read_differently(payload):
    refused(sign_raw(HEADER, payload))


def test_another_spelling_of_a_good_tokens_base64():
    token = sign_raw(
        HEADER, GOOD + b" " * (-(len(GOOD) + 2) % 3)
    )  # a payload whose last character has spare bits
    segments = token.split(".")
    for position in range(3):
        segment = segments[position]
        last = BASE64URL.index(segment[-1].encode())
        spellings = [
            f"{segment}=",
            f"{segment}==",
            f" {segment}",
            f"{segment}\n",
            f"{segment[:4]} {segment[4:]}",
            *(f"{segment[:4]}{letter * 4}{segment[4:]}" for letter in "!=\n +/"),
        ]
        spellings += [
            segment.replace("_", "/").replace("-", "+") + "+",
            f"{segment[:4]}!{segment[4:]}",
            f"{segment}A",
        ]
        if len(segment) % 4:
            spellings.append(segment[:-1] + chr(BASE64URL[last + 1]))
        for spelling in spellings:
            refused(".".join([*segments[:position], spelling, *segments[position + 1 :]]))


@pytest.mark.parametrize(
    "token", ["", ".", "..", "...", "a", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "\ud800", "\x00", "{}"]
)
def test_what_is_no_token_at_all(token):
    refused(token)


def test_a_part_cut_off_or_added():
    header, payload, signature = sign(claims()).split(".")
    for token in (
        f"{header}.{payload}",
        f"{header}.{payload}.",
        f"{header}..{signature}",
        f".{payload}.{signature}",
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}.{signature}.{signature}",
        f".{header}.{payload}.{signature}",
        f"{payload}.{header}.{signature}",
        json.dumps({"protected": header, "payload": payload, "signature": signature}),
    ):
        refused(token)


def test_a_huge_token_is_refused_unread_even_when_rightly_signed():
    keys = Keys(jwk(private_key()))
    judge = verifier(keys)
    near = claims(padding="")
    near["padding"] = "x" * ((MAX_TOKEN_BYTES - len(sign(near))) * 3 // 4 - 3)
    assert no_wait(judge.verify(sign(near), bot=False)).name == "alice"
    assert "longer than" in refused(sign(claims(padding="x" * MAX_TOKEN_BYTES)), judge)
    assert "longer than" in refused("a" * 10_000_000, judge)
    assert keys.refreshes == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_single_bit_of_the_signature_counts(algorithm):
    keys = Keys(jwk(key_for(algorithm)))
    signing_input, _, encoded = sign(claims(), key_for(algorithm), algorithm=algorithm).rpartition(".")
    (key,) = keys.keys
    signature = bytearray(urlsafe_b64decode(encoded + "=="))
    assert key.verifies(algorithm, signing_input.encode(), bytes(signature))
    for position in range(len(signature)):
        signature[position] ^= 1 << position % 8
        assert not key.verifies(algorithm, signing_input.encode(), bytes(signature))
        signature[position] ^= 1 << position % 8
    for wrong in (
        b"",
        b"\0",
        signature[:-1],
        signature + b"\0",
        b"\0" + signature,
        bytes(len(signature)),
        b"\xff" * 9000,
    ):
        assert not key.verifies(algorithm, signing_input.encode(), bytes(wrong))


def test_an_ecdsa_signature_in_der():
    key = key_for("ES256")
    signing_input = b64(b'{"alg":"ES256"}') + b"." + b64(GOOD)
    der = key.sign(signing_input, ECDSA(hashes.SHA256()))
    refused((signing_input + b"." + b64(der)).decode(), verifier(Keys(jwk(key))))


def test_claims_swapped_under_a_good_signature():
    header, _, signature = sign(claims()).split(".")
    forged = b64(json.dumps(claims(sub="00000000-0000-0000-0000-000000000000")).encode()).decode()
    refused(f"{header}.{forged}.{signature}")


def test_a_bad_token_is_bad_the_second_time_too():
    judge = verifier()
    good = sign(claims())
    bad = good[:-8] + ("AAAAAAAA" if not good.endswith("AAAAAAAA") else "BBBBBBBB")
    for _ in range(2):
        no_wait(judge.verify(good, bot=False))
        refused(bad, judge)
        refused(good, judge, bot=True)
