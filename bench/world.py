"""What the servers and the load share: people, rooms, tokens, the chat service, and the tools built once per run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
WS_VERSION = "8.18.3"
AUDIENCE = "bench"
TOKEN_SECONDS = 6 * 3600
SERVER_CORE, LOAD_CORE = "0", "1"
"""The server has a core to itself; the generator and the chat service share the other."""


@dataclass
class World:
    """A directory with the compiled tools, the key pair and the tokens, and a chat service beside it."""

    directory: Path
    chat_port: int = 0
    chat_pid: int = 0

    @property
    def loadgen(self) -> Path:
        return self.directory / "loadgen"

    @property
    def floor(self) -> Path:
        return self.directory / "floor"

    @property
    def public_key(self) -> Path:
        return self.directory / "public.pem"

    def build(self, *, node: bool) -> None:
        """Compile what is C, install what is Node, make the key pair. Raises: CalledProcessError."""
        compiler = [os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra"]
        subprocess.run([*compiler, "-o", self.loadgen, ROOT / "bench" / "loadgen.c"], check=True)
        subprocess.run([*compiler, "-o", self.floor, PEERS / "floor.c"], check=True)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_key.write_bytes(
            self._key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        if node and not (self.directory / "node_modules" / "ws").exists():
            npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", self.directory]
            subprocess.run([*npm, f"ws@{WS_VERSION}"], check=True)
        shutil.copy(PEERS / "node_ws.js", self.directory)

    def paths(self, *, rooms: int, size: int, more: int = 0, dialects: tuple[str, ...] = ("guide",)) -> Path:
        """One line per connection: request target with a token, and the account. Tokens are minted once per account.

        Members of a room take `dialects` in turn; `more` people at the end are in the first room too.
        """
        lines = [
            f"/api/chat/realtime/00000000-0000-4000-8000-{number // size if number < rooms * size else 0:012d}"
            f"?dialect={dialects[number % size % len(dialects)]}&tk={token} {account}\n"
            for number, (account, token) in enumerate(self.people(rooms * size + more))
        ]
        file = self.directory / f"paths-{rooms}x{size}+{more}-{len(dialects)}"
        file.write_text("".join(lines))
        return file

    def people(self, count: int) -> Iterator[tuple[str, str]]:
        """Accounts and their tokens; the same people each time."""
        file = self.directory / "people"
        known = file.read_text().splitlines() if file.exists() else []
        now = int(time.time())
        with file.open("a") as out:
            for number in range(len(known), count):
                account = str(uuid.UUID(int=(0x5EED << 112) + (4 << 76) + (8 << 60) + number))
                claims = {
                    "iss": "solar-network", "aud": [AUDIENCE], "sub": account, "type": "user",
                    "sid": str(uuid.uuid4()), "jti": str(uuid.uuid4()), "iat": now, "exp": now + TOKEN_SECONDS,
                    "ver": "1", "epoch": "0", "perk_level": "0",
                }  # fmt: skip
                token = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "solar-network"})
                out.write(f"{account} {token}\n")
        for line in file.read_text().splitlines()[:count]:
            account, token = line.split()
            yield account, token

    @contextlib.contextmanager
    def chat_service(self, *, pinned: bool = True) -> Iterator[None]:
        """One that says yes to everybody; beside the generator, or wherever the kernel puts it."""
        where = ["taskset", "-c", LOAD_CORE] if pinned else []
        process = subprocess.Popen(
            [*where, sys.executable, "-m", "bench.chat_service"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.chat_pid = process.pid
        try:
            assert process.stdout is not None
            self.chat_port = int(process.stdout.readline())
            yield
        finally:
            process.terminate()
            process.wait()
