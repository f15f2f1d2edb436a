"""Sanic, as both listeners use it: a few settings, one route table, one socket."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Sequence
from functools import partial
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

from sanic import HTTPResponse, Request, Sanic
from sanic.compat import Header
from sanic.config import Config
from sanic.http import Http, Stage
from sanic.response import BaseHTTPResponse
from sanic.server import AsyncioServer
from sanic.server.protocols.http_protocol import HttpProtocol

from sidecar.edge.handshake import Handshake
from sidecar.edge.lobby import Lobby

App = Sanic[Config, SimpleNamespace]

HEAD_SECONDS = 10
"""How long a peer may take to send a request's head, to stay without sending another, and not to read an answer."""
BODY_BYTES = 16_384
HEAD_BYTES = 16_384
SEND_BUFFER_BYTES = 65_536
"""What the kernel may hold per connection: else it hides megabytes of a slow reader's backlog from us."""


_numbers = itertools.count()  # Sanic wants a name once per process; tests make many


class _SilentSanic(Sanic[Config, SimpleNamespace]):
    """Sanic without its signals about requests: nobody listens, and to find that out anew is a fifth of a handshake."""

    async def dispatch(self, event: str, **arguments: Any) -> Any:
        return None if event.startswith("http.") else await super().dispatch(event, **arguments)


def new_app(name: str) -> App:
    """A Sanic application with what both listeners have in common."""
    config = Config(env_prefix="")  # SANIC_* are no settings of ours
    app: App = _SilentSanic(f"{name}-{next(_numbers)}", config=config, configure_logging=False)
    app.config.update(
        {
            "ACCESS_LOG": False,
            "REQUEST_TIMEOUT": HEAD_SECONDS,
            "KEEP_ALIVE_TIMEOUT": HEAD_SECONDS,
            "RESPONSE_TIMEOUT": 10**9,  # whatever an answer waits for has a deadline of its own
            "REQUEST_MAX_SIZE": BODY_BYTES,
            "REQUEST_MAX_HEADER_SIZE": HEAD_BYTES,
            "MOTD": False,
            "TOUCHUP": False,  # rewrites Sanic's classes for this app's signals: once per process, and we have none
        }
    )
    return app


def signaling_app(*, handshake: Handshake, mount_prefixes: Sequence[str]) -> App:
    """The signaling listener: `{prefix}/chat/realtime/{chatId}` and nothing else."""
    app = new_app("signaling")

    async def realtime(request: Request, chat_id: str) -> HTTPResponse | None:
        return await handshake.answer(request, chat_id)

    # Sanic looks for this on a handler, and expects no response then: the connection may have left it.
    vars(realtime)["is_websocket"] = True
    for number, prefix in enumerate(mount_prefixes):
        app.add_route(
            realtime,
            f"{prefix}/chat/realtime/<chat_id>",
            methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
            name=f"realtime_{number}",
            strict_slashes=True,
            ignore_body=True,
        )

    async def error(request: Request, exception: Exception) -> HTTPResponse:
        return handshake.answer_error(request, exception)

    app.error_handler.add(Exception, error)
    return app


class _Headers(Header):
    """Headers of an answer, without the empty `alt-svc` that Sanic sets where it has not rewritten its own source."""

    def __setitem__(self, name: str, value: object) -> None:
        if name != "alt-svc":
            super().__setitem__(name, value)


class _Http(Http):
    """Sanic's, that also answers a request whose URL cannot be read: Sanic trips over it again, and logs a bug."""

    __slots__ = ()

    def create_empty_request(self) -> None:
        self.url = None
        super().create_empty_request()

    def respond(self, response: BaseHTTPResponse) -> BaseHTTPResponse:
        response.headers = _Headers(response.headers)
        return super().respond(response)


class _ImpatientHttp(HttpProtocol):
    """Sanic's, with deadlines that a peer cannot put off, and a bound on how many there are."""

    __slots__ = ()
    HTTP_CLASS = _Http

    def __init__(self, *, lobby: Lobby, connections: object, **rest: Any) -> None:  # noqa: ARG002 - Sanic's own set
        super().__init__(connections=lobby, **rest)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        whole = False
        try:
            # Not by super(): through that mypy does not see that it is Sanic's, which has no types.
            HttpProtocol.connection_made(self, transport)
            cast(Lobby, self.connections).make_room()
            whole = self.transport is not None  # Sanic logs a bug of its own, and goes on
        finally:
            if not whole:
                cast(
                    asyncio.Transport, transport
                ).abort()  # after a bug: else the socket would stay open, unheard

    def data_received(self, data: bytes) -> None:
        """Count a request's time from its first byte: Sanic would begin anew with each."""
        begun = self._time
        super().data_received(data)
        http = getattr(self, "_http", None)  # Sanic's task sets it, maybe after the first bytes are here
        if http is not None and (http.stage is not Stage.IDLE or http.request_body):
            self._time = begun

    def check_timeouts(self) -> None:
        """Go on looking while a WebSocket's handshake is judged: Sanic would stop, for this and all later requests.

        Who does not read is cut: to say that it is too late, Sanic would wait until it reads.
        """
        if not self._can_write.is_set() and monotonic() - self._time > HEAD_SECONDS:
            if self.transport is not None:
                self.transport.abort()
            return
        if self._http is not None:
            self._http.upgrade_websocket = False
        HttpProtocol.check_timeouts(self)  # as in `connection_made`


def listen(host: str, port: int, *, backlog: int) -> socket.socket:
    """A listening socket; raises OSError with the address in words an operator can use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES
        )  # inherited by what is accepted
        sock.bind((host, port))
        sock.listen(backlog)
        sock.setblocking(False)  # noqa: FBT003 - the socket module's
    except OSError as problem:
        sock.close()
        raise OSError(f"cannot listen on {host}:{port}: {problem.strerror}") from None
    return sock


async def serve(app: App, sock: socket.socket, *, backlog: int, lobby: Lobby) -> AsyncioServer:
    """Serve `app` on a listening socket, in this loop; `lobby` has who is connected to it and not upgraded."""
    server = await app.create_server(
        sock=sock,
        backlog=backlog,
        return_asyncio_server=True,
        protocol=cast(type[asyncio.Protocol], partial(_ImpatientHttp, lobby=lobby)),
    )
    assert server is not None  # noqa: S101 - return_asyncio_server
    await server.startup()
    await server.start_serving()
    # Sanic looks settings up for each connection, each time by an attribute that is first not found.
    vars(app.config).update(app.config)
    return server
