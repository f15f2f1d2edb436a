"""The auth service's stand-in on a developer's desk: a key pair of its own, and tokens signed with it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ISSUER = "solar-network"
AUDIENCE = "sphere-dev"
KEY_ID = "solar-network"  # the real issuer's habit: no JWKS names its key so
DEFAULT_TTL_SECONDS = 300


class Issuer:
    """Signs tokens with the key pair in `directory`, made when first needed."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Raises: OSError where the pair cannot be read, made or used."""
        self.clock = clock
        self._private_file = directory / "jwt-private.pem"
        self.public_file = directory / "jwt-public.pem"
        if not self._private_file.exists() or not self.public_file.exists():
            directory.mkdir(parents=True, exist_ok=True)
            self._make()
        self._private = self._load()

    def token(
        self,
        account_id: str,
        *,
        ttl_seconds: float | None = DEFAULT_TTL_SECONDS,
        bot: bool = False,
        name: str = "",
        nick: str = "",
        session_id: str | None = None,
    ) -> str:
        """A token as the network's issuer writes it. `ttl_seconds` None: without `exp`, as API keys may be."""
        now = self.clock()
        claims: dict[str, object] = {
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "sub": account_id,
            "sid": session_id or str(uuid.uuid4()),
            "jti": str(uuid.uuid4()),
            "iat": int(now),
            "type": "api_key" if bot else "user",
            "ver": "1",
            "epoch": "0",
            "perk_level": "0",
        }
        if ttl_seconds is not None:
            claims["exp"] = int(now + ttl_seconds)
        if name:
            claims["name"] = name
        if nick:
            claims["nick"] = nick
        return jwt.encode(claims, self._private, algorithm="RS256", headers={"kid": KEY_ID})

    def _load(self) -> rsa.RSAPrivateKey:
        again = "remove it and a new pair is made"
        try:
            private = serialization.load_pem_private_key(self._private_file.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # garbage, encrypted, of a kind unknown
            private = None
        if not isinstance(private, rsa.RSAPrivateKey):
            raise OSError(f"{self._private_file} holds no RSA key; {again}")
        try:
            public = serialization.load_pem_public_key(self.public_file.read_bytes())
        except (ValueError, UnsupportedAlgorithm):
            public = None
        if public != private.public_key():
            raise OSError(f"{self.public_file} does not belong to {self._private_file}; {again}")
        return private

    def _make(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        _write(self._private_file, private, mode=0o600)
        _write(self.public_file, public, mode=0o644)


def _write(file: Path, content: bytes, *, mode: int) -> None:
    """All of it or nothing."""
    unfinished = file.with_suffix(".tmp")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as out:
        out.write(content)
    unfinished.replace(file)
