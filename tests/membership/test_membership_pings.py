"""Servers that count pings: what they allow, and that we keep to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import grpc
import pytest

from sidecar._proto.dyson.chat.v1.membership_pb2_grpc import (
    ChatMembershipServiceServicer,
    add_ChatMembershipServiceServicer_to_server,
)
from sidecar.membership.channel import KEEPALIVE_SECONDS
from sidecar.membership.chat_service import ChatService
from sidecar.membership.service import Unavailable, WatchEvent, WatchStarted
from tests.chat_service import ChatServiceDouble
from tests.membership.membership_program import Program, new_key, until
from tests.membership.membership_wire import Wire

ALLOWED_BY_DEFAULT_SECONDS = 300
"""https://grpc.github.io/grpc/core: GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS; gRPC for Go has the same."""
STRICT = ("grpc.http2.max_ping_strikes", 1)
"""The second ping too early is the last: by default it is the third."""
PINGING = {
    "grpc.http2.max_pings_without_data": 0,  # by default a client's third ping waits a minute
    "grpc.keepalive_timeout_ms": 60_000,  # time for a pong, or a busy machine would lose the connection over it
    "grpc.http2.ping_timeout_ms": 60_000,
}
ALLOWED = ("grpc.http2.min_ping_interval_without_data_ms", 100)
PINGS = 5

Options = Sequence[tuple[str, int]]
Server = Callable[[Options], AbstractAsyncContextManager[int]]


class Silent(ChatMembershipServiceServicer):
    """For a server of threads. Nobody is a member, and nothing ever changes."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def GetMembership(self, request, context):  # noqa: N802
        context.abort(grpc.StatusCode.NOT_FOUND, "")

    def WatchMemberships(self, request, context):  # noqa: N802
        context.send_initial_metadata(())
        self.over.wait()
        yield from ()


@asynccontextmanager
async def of_threads(options: Options) -> AsyncIterator[int]:
    silent = Silent()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, options=options)
        add_ChatMembershipServiceServicer_to_server(silent, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            silent.over.set()
            await asyncio.to_thread(server.stop(None).wait)


@asynccontextmanager
async def of_a_loop(options: Options) -> AsyncIterator[int]:
    server = grpc.aio.server(options=options)
    add_ChatMembershipServiceServicer_to_server(ChatServiceDouble(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def pinging(target: str, *, seconds: float) -> AsyncIterator[ChatService]:
    """The client with a ping each `seconds`, as long as a call is open."""
    program = Program(target, keepalive_seconds=seconds)
    channel = program.service._channel
    channel._options = tuple((dict(channel._options) | PINGING).items())
    await program.service.start()
    try:
        yield program.service
    finally:
        await program.service.close()


async def to_the_end(events: AsyncIterator[WatchEvent]) -> None:
    async with asyncio.timeout(30):
        async for _ in events:
            pass


@pytest.fixture(params=[of_a_loop, of_threads])
def server(request) -> Server:
    return request.param


async def test_a_server_ends_a_connection_over_pings_that_come_too_often(server):
    async with server([STRICT]) as port, pinging(f"127.0.0.1:{port}", seconds=0.2) as service:
        with pytest.raises(Unavailable, match=r"(?i)too many pings"):
            await to_the_end(service.watch(""))


async def test_a_server_that_allows_more_than_we_send_keeps_an_idle_stream_open(server):
    async with (
        server([STRICT, ALLOWED]) as port,
        Wire(port).laid() as wire,
        pinging(wire.target, seconds=0.5) as service,
        aclosing(service.watch("")) as events,
    ):
        assert await anext(events) == WatchStarted()
        await until(lambda: wire.pings >= PINGS, seconds=60)
        assert await service.get(new_key()) is None
        assert wire.accepted == 1


def test_we_ping_less_often_than_servers_allow_by_default():
    channel = Program("127.0.0.1:1").service._channel
    options = dict(channel._options)
    assert options["grpc.keepalive_time_ms"] == KEEPALIVE_SECONDS * 1000
    assert KEEPALIVE_SECONDS > ALLOWED_BY_DEFAULT_SECONDS
    assert not options.get("grpc.keepalive_permit_without_calls"), (
        "without a call they allow one in two hours"
    )
