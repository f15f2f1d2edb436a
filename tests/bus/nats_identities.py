"""Certificates, nkeys and credentials for servers of tests."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import os
import time
from pathlib import Path

import nkeys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificates(directory: Path) -> tuple[Path, Path, Path]:
    """A CA's certificate, and a certificate and key of 127.0.0.1 signed by it."""
    now = datetime.datetime.now(datetime.UTC)

    def build(name: str, issuer: str, public, signer, *, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    files = directory / "ca.pem", directory / "cert.pem", directory / "key.pem"
    pem = serialization.Encoding.PEM
    files[0].write_bytes(build("ca", "ca", ca_key.public_key(), ca_key, ca=True).public_bytes(pem))
    files[1].write_bytes(build("nats", "ca", key.public_key(), ca_key, ca=False).public_bytes(pem))
    files[2].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


class Identity:
    """An nkey: its seed and its public name."""

    def __init__(self, kind: int = nkeys.PREFIX_BYTE_USER) -> None:
        self.seed: bytes = bytes(nkeys.encode_seed(os.urandom(32), kind))
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def sign(self, payload: bytes) -> bytes:
        return self._pair.sign(payload)


def _token(issuer: Identity, subject: str, name: str, nats: dict) -> str:
    """A NATS JWT (version 2): EdDSA by the issuer's nkey."""

    def part(value: dict) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    claims = {
        "iat": int(time.time()), "iss": issuer.public, "name": name, "sub": subject, "nats": nats | {"version": 2},
    }  # fmt: skip
    digest = hashlib.new("sha512_256", json.dumps(claims).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part(claims)
    return (signed + b"." + base64.urlsafe_b64encode(issuer.sign(signed)).rstrip(b"=")).decode()


def credentials(directory: Path) -> tuple[Path, str]:
    """A credentials file, and what a server needs in its configuration to honour it."""
    operator, account, user = (
        Identity(nkeys.PREFIX_BYTE_OPERATOR), Identity(nkeys.PREFIX_BYTE_ACCOUNT), Identity(),
    )  # fmt: skip
    unlimited = dict.fromkeys(
        ("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1
    ) | {"wildcards": True}  # fmt: skip
    operator_token = _token(operator, operator.public, "O", {"type": "operator"})
    account_token = _token(operator, account.public, "A", {"type": "account", "limits": unlimited})
    user_token = _token(
        account,
        user.public,
        "U",
        {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}},
    )
    file = directory / "user.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    preload = f"resolver_preload: {{ {account.public}: {account_token} }}"
    return file, f"operator: {operator_token}\nresolver: MEMORY\n{preload}\n"
