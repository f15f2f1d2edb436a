"""How an upgraded connection leaves Sanic.

Sanic serves the handshake; its per-message machinery (a task, futures and a lock per message, and most of a
connection's memory) is left behind. This, edge/listener.py and edge/lobby.py rest on Sanic's insides, which
tests/test_takeover.py and the pinned minor version hold.
"""

from __future__ import annotations

import asyncio

from sanic import Request
from sanic.http import Http
from sanic.server.protocols.http_protocol import HttpProtocol


def take_over(request: Request) -> tuple[asyncio.Transport, bytes] | None:
    """The request's transport, free of Sanic, and the bytes that came after its head; None if the peer is gone.

    The route's handler must have the attribute `is_websocket` and return None afterwards: Sanic then expects no
    response, ends the connection's task and leaves the transport alone.
    """
    http = request.stream
    assert isinstance(http, Http)  # noqa: S101 - HTTP/1.1 is all that is served
    protocol = http.protocol
    assert isinstance(protocol, HttpProtocol)  # noqa: S101
    transport = protocol.transport
    http.upgrade_websocket = True  # "Upgrade: foo, websocket" is one too: no response is missing
    if transport is None or transport.is_closing():
        return None
    if protocol._callback_check_timeouts:  # noqa: SLF001
        protocol._callback_check_timeouts.cancel()  # noqa: SLF001
    protocol.connections.discard(protocol)
    del (
        http.response_func
    )  # a method of its own: without it nothing of the request waits for the garbage collector
    protocol.transport = None  # its close() and abort() now do nothing
    return transport, bytes(http.recv_buffer)
