"""What takeover.py, edge/listener.py and edge/lobby.py rest on in Sanic: fails loudly when a release changes it."""

from __future__ import annotations

import asyncio
import inspect

import sanic
from sanic.http import Http
from sanic.server.protocols.base_protocol import SanicProtocol
from sanic.server.protocols.http_protocol import HttpProtocol

from tests.harness import guid, until


def test_sanic_is_the_minor_version_that_was_read():
    assert sanic.__version__.startswith("25.12.")


def test_the_internals_are_where_they_were():
    assert {"_callback_check_timeouts", "recv_buffer"} <= set(HttpProtocol.__slots__)
    assert {"transport", "connections", "_task"} <= set(SanicProtocol.__slots__)
    assert {"recv_buffer", "protocol", "upgrade_websocket"} <= set(Http.__slots__)
    assert "self.connections.add(self)" in inspect.getsource(HttpProtocol.connection_made)
    assert "self.connections.discard(self)" in inspect.getsource(SanicProtocol.connection_lost)
    assert "Stage.HANDLER, Stage.RESPONSE" in inspect.getsource(Http.__bool__)
    assert "if self.transport is None" in inspect.getsource(SanicProtocol.close)
    assert 'hasattr(handler, "is_websocket")' in inspect.getsource(sanic.Sanic.handle_request)


async def test_an_upgraded_connection_leaves_nothing_of_sanic_behind(world):
    """No keep-alive or request timeout of Sanic's may touch it, and frames sent with the handshake are not lost."""
    room, account = guid(), guid()
    world.chat.allow(room, account)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.sidecar.port)
    ping = bytes([0x81, 0x80 | 15, 0, 0, 0, 0]) + b'{"type":"ping"}'
    writer.write(
        f"GET /api/chat/realtime/{room} HTTP/1.1\r\nHost: x\r\nUpgrade: foo, WebSocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {world.issuer.token(account)}\r\n\r\n".encode()
        + ping
    )
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        answer = await reader.readuntil(b'{"type":"pong"}')
    assert b'"type":"webrtc"' in answer
    writer.transport.abort()
    line = await world.sidecar.logged("connection ended", account=account)
    assert line["code"] == 1006
    assert line["packets_in"] == 1
    assert not [line for line in world.sidecar.log if line.get("level") == "error"]
    await until(lambda: _no_connections(world), "the connection is forgotten")


async def _no_connections(world):
    return (await world.sidecar.metrics())["sphere_sidecar_connections"] == 0
