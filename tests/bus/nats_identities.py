"""Certificates, nkeys and credentials for servers of tests."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path

import nkeys

from tests.authority import Authority


def certificates(directory: Path) -> tuple[Path, Path, Path]:
    """A CA's certificate, and a certificate and key of 127.0.0.1 signed by it."""
    authority = Authority("ca")
    ca = directory / "ca.pem"
    ca.write_bytes(authority.pem)
    return ca, *authority.issue("nats").write(directory, "nats")


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
