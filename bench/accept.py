"""Handshakes in this process: Sanic, our judgement, the takeover, on sockets that take everything.

The kernel, the loop's polling and gRPC are left out: the chat service answers at once, without a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from unittest import mock

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bench.path import PROFILE, FreeTransport, quiet_log
from sidecar.app import Sidecar
from sidecar.config import load
from sidecar.edge.gathering import ENOUGH
from sidecar.edge.listener import serve
from sidecar.edge.lobby import Lobby
from sidecar.membership.model import MemberKey, Membership

REQUEST = (
    "GET /api/chat/realtime/{room}?tk={token} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: Upgrade\r\n"
    "Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: https://example.org\r\n"
    "Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.9\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

TURNS = 20  # of the loop, for a handshake


class _Transport(FreeTransport):
    """One that belongs to a connection from loopback, and knows its protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol | None = None

    def get_extra_info(self, name, default=None):
        addresses = {"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 8080)}
        return addresses.get(name) or super().get_extra_info(name, default)

    def set_protocol(self, protocol) -> None:
        self.protocol = protocol

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class _YesToAll:
    """What the directory asks, in place of the gRPC client."""

    async def get(self, key: MemberKey, *, metadata=()) -> Membership:  # noqa: ARG002
        return Membership(
            key=key, role=0, joined_at=1.0, leave_at=None, timeout_until=None, nick="Nick", account_name="name",
            account_nick="", profile=PROFILE, updated_at=1.0,
        )  # fmt: skip


class Door:
    """Lets people in, sixteen at a time. Each has an account and a token of their own; two share a room."""

    def __init__(
        self, sidecar: Sidecar, protocol: Callable[[], asyncio.Protocol], key: rsa.RSAPrivateKey
    ) -> None:
        self.sidecar = sidecar
        self._protocol = protocol
        self._key = key
        self.transports: list[_Transport] = []

    def requests(self, count: int) -> list[bytes]:
        now = int(time.time())
        requests = []
        for number in range(count):
            claims = {
                "iss": "solar-network", "aud": ["bench"], "sub": str(uuid.uuid4()), "type": "user",
                "sid": str(uuid.uuid4()), "jti": str(uuid.uuid4()), "iat": now, "exp": now + 3600,
                "ver": "1", "epoch": "0", "perk_level": "0",
            }  # fmt: skip
            token = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": "solar-network"})
            if number % 2 == 0:
                room = uuid.uuid4()
            requests.append(REQUEST.format(room=room, token=token).encode())
        return requests

    async def let_in(self, requests: list[bytes]) -> None:
        """Raises: AssertionError where one is not upgraded."""
        for first in range(0, len(requests), ENOUGH):
            for request in requests[first : first + ENOUGH]:
                self.receive(request)
            await self.upgraded()

    def receive(self, request: bytes) -> None:
        transport = _Transport()
        self.transports.append(transport)
        protocol = self._protocol()
        protocol.connection_made(transport)
        protocol.data_received(request)

    async def upgraded(self) -> None:
        """Wait until everybody is. Raises: AssertionError where one is not."""
        coming = self.transports[-ENOUGH:]
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if all(transport.protocol is not None for transport in coming):
                return
        raise AssertionError("not upgraded")

    def send_home(self) -> None:
        for transport in self.transports:
            assert isinstance(transport.protocol, asyncio.Protocol)
            transport.protocol.connection_lost(None)
        self.transports.clear()


@contextlib.asynccontextmanager
async def door(directory: Path, **settings: object) -> AsyncIterator[Door]:
    """The shipped program's own parts, wired by itself, but for the chat service."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = directory / "door.pem"
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    plain = {
        "host": "127.0.0.1", "port": 0, "ops_host": "127.0.0.1", "ops_port": 0, "max_connections": 16_000,
        "jwt_public_key_file": public, "jwt_audiences": "bench", "membership_target": "127.0.0.1:1",
        "handshake_rate": 1e6, "handshake_burst": 10**6,
        "address_handshake_rate": 1e6, "address_handshake_burst": 10**6,
    }  # fmt: skip
    values, _ = load({f"SIDECAR_{name.upper()}": str(value) for name, value in (plain | settings).items()})
    sidecar = Sidecar(values, quiet_log())
    sidecar._chat_service.get = _YesToAll().get
    await sidecar._keys.start()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        loop = asyncio.get_running_loop()
        with mock.patch.object(loop, "create_server", wraps=loop.create_server) as create_server:
            lobby = Lobby(
                places=100_000, upgraded=lambda: len(sidecar.connections.by_id), on_full=lambda: None
            )
            server = await serve(sidecar.signaling, sock, backlog=1, lobby=lobby)
        opened = Door(sidecar, create_server.call_args.args[0], key)
        try:
            yield opened
        finally:
            opened.send_home()
            server.close()
            await sidecar.connections.close()
            await sidecar._directory.close()
            await sidecar._keys.close()
