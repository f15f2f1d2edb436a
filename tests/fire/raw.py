"""A peer that says exactly the bytes a test wants: HTTP by hand, frames by hand, nothing checked or added."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tests.harness import DEADLINE_SECONDS, Sidecar

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True

    @property
    def json(self) -> dict:
        return json.loads(self.payload)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """A client's frame (RFC 6455 section 5.2); `length` announces another size than `payload` has."""
    size = len(payload) if length is None else length
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    head = bytes([fin << 7 | rsv << 4 | opcode])
    head += bytes([masked << 7 | {0: size, 2: 126, 8: 127}[length_bytes]])
    head += size.to_bytes(length_bytes) if length_bytes else b""
    if not masked:
        return head + payload
    mask = os.urandom(4)
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return head + mask + (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(len(payload))


def close(code: int | None = 1000, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2) + reason)


def upgrade(room: str, token: str, *extra: str) -> bytes:
    """The head of a handshake."""
    lines = [
        f"GET /api/chat/realtime/{room} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Authorization: Bearer {token}",
        *extra,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: bytes = b""
    welcome: dict | None = None

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def send_in_pieces(self, data: bytes, size: int) -> None:
        """In writes of `size` bytes, each a TCP segment of its own as far as that can be had."""
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            await asyncio.sleep(0)

    def say(self, packet: object) -> None:
        self.send(frame(TEXT, json.dumps(packet).encode()))

    async def frame(self) -> Frame:
        """The next frame of the server. Fails if it is masked, reserved bits are set, or none comes."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            first, second = await self.reader.readexactly(2)
            assert not first & 0x70, "reserved bits"
            assert not second & 0x80, "a server's frame is not masked"
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            return Frame(first & 0x0F, await self.reader.readexactly(size), fin=bool(first & 0x80))

    async def packet(self) -> dict:
        """The next packet; our own pings and pongs are passed over."""
        while True:
            got = await self.frame()
            if got.opcode not in {PING, PONG}:
                assert got.opcode == TEXT, got
                return got.json

    async def signal(self, kind: str) -> dict:
        while True:
            packet = await self.packet()
            if packet.get("data", {}).get("type") == kind:
                return packet["data"]

    async def ended(self) -> tuple[int, str]:
        """Code and reason of the server's close, whatever comes before it."""
        while True:
            got = await self.frame()
            if got.opcode == CLOSE:
                assert 2 <= len(got.payload) <= 125
                return int.from_bytes(got.payload[:2]), got.payload[2:].decode()

    async def gone(self) -> bytes:
        """Wait for the end of the TCP connection; what came before it."""
        left = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                while chunk := await self.reader.read(65536):
                    left += chunk
        self.writer.close()
        return left

    def stop_reading(self) -> None:
        self.writer.transport.pause_reading()

    def read_again(self) -> None:
        self.writer.transport.resume_reading()

    def abort(self) -> None:
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def dial(sidecar: Sidecar, *, receive_buffer: int = 0, port: int = 0) -> AsyncIterator[Peer]:
    """A bare TCP connection, torn down afterwards."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as browsers do
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port or sidecar.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 2**16)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


async def begin(peer: Peer, room: str, token: str, *extra: str, then: Iterable[bytes] = ()) -> Peer:
    """Shake hands and read the welcome; `then` is sent in the same write."""
    peer.send(upgrade(room, token, *extra), *then)
    async with asyncio.timeout(DEADLINE_SECONDS):
        peer.head = await peer.reader.readuntil(b"\r\n\r\n")
    assert peer.head.startswith(b"HTTP/1.1 101 "), peer.head
    peer.welcome = (await peer.packet())["data"]
    return peer
