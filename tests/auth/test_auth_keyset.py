import datetime as dt
import json
from contextlib import suppress

import pytest
from auth_issuer import ALGORITHMS, b64, jwk, jwks, key_for, pem, private_key
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sidecar.auth.keyset import MAX_KEYS, BadKeys, parse_jwks, parse_pem


def certificate(key):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + dt.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def fingerprints(keys):
    return [key.fingerprint for key in keys]


def test_every_pem_form_of_a_key_is_the_same_key():
    key = private_key()
    forms = [pem(key), pem(key, form=PublicFormat.PKCS1), certificate(key)]
    assert len({fingerprints(parse_pem(form, ALGORITHMS))[0] for form in forms}) == 1
    assert len(parse_pem(b"".join(forms), ALGORITHMS)) == 1


def test_a_pem_file_may_hold_several_keys_with_text_between():
    first, second = private_key("first"), private_key(kind="P-256")
    document = b"old:\r\n" + pem(first).replace(b"\n", b"\r\n") + b"new:\n" + pem(second) + b"\n"
    keys = parse_pem(document, ALGORITHMS)
    assert fingerprints(keys) == fingerprints(
        parse_pem(pem(first), ALGORITHMS) + parse_pem(pem(second), ALGORITHMS)
    )
    assert keys[0].algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert keys[1].algorithms == {"ES256"}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "no PEM block"),
        (b"ssh-rsa AAAA", "no PEM block"),
        (jwks(jwk(private_key())), "no PEM block"),
        (pem(private_key())[:-40], "cut short"),
        (pem(private_key()) + pem(private_key("second"))[:200], "cut short"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be parsed"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be parsed"),
        (
            private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "a PRIVATE KEY block; expected PUBLIC KEY",
        ),
        (pem(rsa.generate_private_key(65537, 1024)), "RSA of 1024 bits"),
        (pem(x25519.X25519PrivateKey.generate()), "none of RSA, EC"),
        (pem(*[private_key(str(n), "P-256") for n in range(MAX_KEYS + 1)]), "at most"),
    ],
)
def test_a_pem_file_that_cannot_be_used_is_refused_in_words(document, why):
    with pytest.raises(BadKeys, match=why):
        parse_pem(document, ALGORITHMS)


def test_a_key_no_allowed_algorithm_can_use_is_refused():
    with pytest.raises(BadKeys, match="no allowed algorithm"):
        parse_pem(pem(private_key(kind="P-256")), ["RS256"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_jwk_verifies_its_algorithm_and_no_other(algorithm):
    (key,) = parse_jwks(jwks(jwk(key_for(algorithm), "k", alg=algorithm, use="sig")), ALGORITHMS)
    assert key.algorithms == {algorithm}
    assert key.kid == "k"
    for other in ("none", "HS256", *ALGORITHMS):
        assert not key.verifies(other, b"message", b"signature")


def test_ed448_is_eddsa_too():
    (key,) = parse_jwks(jwks(jwk(ed448.Ed448PrivateKey.generate())), ALGORITHMS)
    assert key.algorithms == {"EdDSA"}


@pytest.mark.parametrize(
    "unfit",
    [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "AKP"},
        {},
        "text",
        None,
        jwk(private_key("second"), "x", use="enc"),
        jwk(private_key("second"), "x", alg="RSA-OAEP"),
        jwk(private_key("second"), "x", alg="none"),
        jwk(private_key("second"), "x", key_ops=["encrypt"]),
        jwk(private_key("second"), "x", key_ops="verify"),
        jwk(private_key("second"), 5),
        jwk(private_key("second"), "x", d="AQAB"),
        jwk(private_key("second"), "x", e="AQ"),
        jwk(private_key("second"), "x", n=5),
        jwk(private_key("second"), "x", n=b64(bytes([255] * 128)).decode()),
        jwk(private_key("second"), "x", n=b64(bytes([255] * 2048)).decode()),
        jwk(private_key(kind="P-256"), "x", alg="ES384"),
        jwk(private_key(kind="P-256"), "x", crv="P-384"),
        jwk(private_key(kind="P-256"), "x", y=b64(bytes(32)).decode()),
        jwk(private_key(kind="P-256"), "x", crv="secp256k1"),
    ],
)
def test_an_unfit_jwk_is_passed_over_and_the_others_are_used(unfit):
    good = jwk(private_key(), "good")
    assert [key.kid for key in parse_jwks(jwks(unfit, good), ALGORITHMS)] == ["good"]
    with pytest.raises(BadKeys, match="no usable key"):
        parse_jwks(jwks(unfit), ALGORITHMS)


def test_a_private_key_in_a_jwks_is_named_as_one():
    with pytest.raises(BadKeys, match="private key"):
        parse_jwks(jwks(jwk(private_key(), "k", d="AQAB")), ALGORITHMS)


def test_null_members_of_a_jwk_are_absent():
    members = jwk(private_key(), "k") | dict.fromkeys(["alg", "use", "key_ops", "d", "x5t"])
    assert len(parse_jwks(jwks(members), ALGORITHMS)) == 1


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b"<html>",
        b"\xff\xfe",
        jwks(jwk(private_key()))[:-1],
        b'{"keys":[],' + jwks(jwk(private_key()))[1:],
        b'{"keys":' + b"[" * 100_000,
        json.dumps(
            {"keys": [jwk(private_key(str(n), "P-256"), str(n)) for n in range(MAX_KEYS + 1)]}
        ).encode(),
    ],
)
def test_a_jwks_that_cannot_be_used_is_refused(document):
    with pytest.raises(BadKeys):
        parse_jwks(document, ALGORITHMS)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["AQAB", "P-256"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(["RSA", "EC", "OKP"]),
    st.dictionaries(
        st.sampled_from(["n", "e", "x", "y", "crv", "kid", "alg", "use", "key_ops", "d"]), json_values
    ),
)
def test_no_jwk_however_wrong_raises_anything_but_bad_keys(kty, members):
    with suppress(BadKeys):
        parse_jwks(json.dumps({"keys": [{"kty": kty} | members]}).encode(), ALGORITHMS)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_bad_keys(document):
    for parse in (parse_pem, parse_jwks):
        with pytest.raises(BadKeys):
            parse(document, ALGORITHMS)
