"""What rooms rest on inside nats-py: each override against a scripted server, beside what the library does alone.

Where the library alone is found to do better than here, the override has become needless, and should go.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import time
from collections.abc import AsyncIterator
from urllib.parse import urlparse

import pytest
from nats import errors
from nats.aio.client import Client, Srv

from sidecar.bus.nats import NatsBus
from sidecar.bus.nats_client import PENDING_BYTES, Access, RoomClient
from tests.bus.bus_cluster import Noted
from tests.harness import DEADLINE_SECONDS, until

INFO = b'INFO {"server_id":"x","version":"2.11.0","headers":true,"max_payload":1048576%s}\r\n'
SUBJECT = "sphere.room.x"


class ScriptedServer:
    """Greets, and answers pings until told not to; `received` is all that came."""

    def __init__(self, greeting: bytes) -> None:
        self.greeting = greeting
        self.received = bytearray()
        self.answers = True
        self.reads = asyncio.Event()
        self.reads.set()
        self.ended = asyncio.Event()
        self.writer: asyncio.StreamWriter
        self.port = 0

    @property
    def access(self) -> Access:
        return Access(servers=[f"nats://127.0.0.1:{self.port}"])

    @property
    def pings(self) -> int:
        return self.received.count(b"PING\r\n")

    def say(self, text: bytes) -> None:
        self.writer.write(text)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.say(self.greeting)
        answered = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.received += data
                while self.answers and answered < self.pings:
                    answered += 1
                    self.say(b"PONG\r\n")
                await self.reads.wait()
        writer.transport.abort()
        self.ended.set()


@contextlib.asynccontextmanager
async def scripted(greeting: bytes = INFO % b"") -> AsyncIterator[ScriptedServer]:
    script = ScriptedServer(greeting)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.port = server.sockets[0].getsockname()[1]
    try:
        yield script
    finally:
        server.close()
        script.writer.transport.abort()
        script.reads.set()
        await asyncio.wait_for(script.ended.wait(), DEADLINE_SECONDS)


class Notes:
    """What a `RoomClient` hands over."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.nobody: list[str] = []
        self.problems: list[Exception] = []

    def client(self) -> RoomClient:
        return RoomClient(
            subjects=(b"sphere.",),
            on_message=lambda subject, payload: self.messages.append((subject, payload)),
            on_nobody=self.nobody.append,
            on_problem=self.problems.append,
            clock=time.monotonic,
        )


@contextlib.asynccontextmanager
async def opened(server: ScriptedServer) -> AsyncIterator[tuple[RoomClient, Notes]]:
    notes = Notes()
    client = notes.client()
    try:
        await client.open(server.access, name="test", inbox_prefix="_INBOX.sphere")
        yield client, notes
    finally:
        await client.shut()


@contextlib.asynccontextmanager
async def library_alone(server: ScriptedServer, **options) -> AsyncIterator[Client]:
    client = Client()
    try:
        await client.connect(f"nats://127.0.0.1:{server.port}", allow_reconnect=False, **options)
        yield client
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.close()
        client._transport._io_writer.transport.abort()


async def give_up_a_flush(client: Client, server: ScriptedServer) -> None:
    """Its pong has not come yet."""
    server.answers = False
    before = server.pings
    flush = asyncio.create_task(client.flush())
    await until(lambda: server.pings > before)
    flush.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flush


async def test_a_pong_that_comes_after_its_flush_was_given_up_does_not_end_the_reading():
    async with scripted() as server, opened(server) as (client, notes):
        await client.subscribe(SUBJECT, future=asyncio.Future())
        await give_up_a_flush(client, server)
        server.say(b"PONG\r\n" + b"MSG %s 1 2\r\nhi\r\n" % SUBJECT.encode())
        await until(lambda: notes.messages)
        assert notes.messages == [(SUBJECT, b"hi")]


async def test_the_library_alone_stops_reading_over_such_a_pong():
    async with scripted() as server, library_alone(server) as client:
        await give_up_a_flush(client, server)
        server.say(b"PONG\r\n")
        await until(lambda: client._reading_task.done())
        assert client.is_connected  # and says nothing


async def test_messages_of_rooms_are_handed_over_as_they_are_read_and_all_others_as_the_library_does():
    async with scripted() as server, opened(server) as (client, notes):
        waiting = asyncio.Future()
        await client.subscribe("sphere.>", future=waiting)
        other = await client.subscribe("chat.member.changed")
        server.say(
            b"MSG sphere.room.x 1 3\r\none\r\n"
            b"HMSG sphere.room.x 1 12 15\r\nNATS/1.0\r\n\r\ntwo\r\n"
            b"HMSG sphere.node.me.x 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
            b"MSG chat.member.changed 2 5\r\nthree\r\n"
        )
        assert (await other.next_msg(DEADLINE_SECONDS)).data == b"three"
        assert notes.messages == [("sphere.room.x", b"one"), ("sphere.room.x", b"two")]
        assert notes.nobody == ["sphere.node.me.x"]
        assert not waiting.done()


async def test_a_subject_that_is_no_text_does_not_end_the_reading():
    async with scripted() as server, opened(server) as (client, notes):
        await client.subscribe("sphere.>", future=asyncio.Future())
        server.say(b"MSG sphere.room.\xff 1 3\r\none\r\nMSG sphere.room.x 1 3\r\ntwo\r\n")
        await until(lambda: len(notes.messages) == 2)
        assert notes.messages[1] == ("sphere.room.x", b"two")


@pytest.mark.parametrize("secret", ["password_file", "nkey_file", "tls_ca_file"])
async def test_a_secret_that_cannot_be_read_fails_this_attempt_alone(tmp_path, secret):
    async with scripted() as server:
        access = dataclasses.replace(server.access, **{secret: tmp_path / "away"})
        client = Notes().client()
        with pytest.raises(Exception, match=r"(?i)no such file|seed"):
            await client.open(access, name="test", inbox_prefix="_INBOX.sphere")
        await client.shut()
        async with opened(server):
            pass


async def test_whatever_comes_says_that_the_server_is_there():
    async with scripted() as server, opened(server) as (client, _):
        await client.subscribe(SUBJECT, future=asyncio.Future())
        for sign in (b"MSG %s 1 2\r\nhi\r\n" % SUBJECT.encode(), b"PONG\r\n"):
            server.answers = False
            client.heard_at = 0.0
            server.say(sign)
            await until(lambda: client.heard_at)


async def test_servers_that_an_earlier_connection_told_of_are_tried_after_those_configured():
    gone = [Srv(urlparse(f"nats://127.0.0.1:{port}"), discovered=True) for port in (1, 2, 3)]
    async with scripted() as server:
        notes = Notes()
        client = notes.client()
        await client.open(server.access, name="test", inbox_prefix="_INBOX.sphere", discovered=gone)
        assert notes.problems == []
        await client.shut()
        access = Access(servers=[f"nats://127.0.0.1:{port}" for port in (4, 5)])
        there = Srv(urlparse(f"nats://127.0.0.1:{server.port}"), discovered=True)
        client = notes.client()
        await client.open(access, name="test", inbox_prefix="_INBOX.sphere", discovered=[there])
        assert len(notes.problems) == 2
        await client.shut()


async def test_a_demand_for_tls_is_never_answered_in_the_clear():
    async with scripted() as server:
        access = Access(servers=[f"tls://127.0.0.1:{server.port}"], user="u")
        client = Notes().client()
        with pytest.raises(errors.Error, match="TLS is demanded"):
            await client.open(access, name="test", inbox_prefix="_INBOX.sphere")
        await client.shut()
        await asyncio.wait_for(server.ended.wait(), DEADLINE_SECONDS)
        assert bytes(server.received) == b""


async def test_tls_that_is_only_offered_is_taken_where_it_is_demanded():
    async with scripted(INFO % b',"tls_available":true') as server:
        access = Access(servers=[f"tls://127.0.0.1:{server.port}"], user="u")
        client = Notes().client()
        opening = asyncio.create_task(client.open(access, name="test", inbox_prefix="_INBOX.sphere"))
        await until(lambda: server.received)
        server.writer.transport.abort()
        with pytest.raises((OSError, errors.Error, TimeoutError)):
            await opening
        await client.shut()
        assert server.received[:2] == b"\x16\x03"  # a TLS handshake record, not CONNECT


async def test_the_library_alone_sends_its_credentials_in_the_clear():
    async with scripted() as server:
        client = Client()
        await client.connect(
            f"tls://127.0.0.1:{server.port}",
            allow_reconnect=False,
            tls=ssl.create_default_context(),
            user="u",
            password="secret",
        )
        await until(lambda: b'"pass":"secret"' in server.received.replace(b" ", b""))
        await client.close()


async def stuck(server: ScriptedServer, client: Client) -> None:
    """The server reads no more, and the client cannot send what it has."""
    server.reads.clear()
    socket = client._transport._io_writer.transport
    async with asyncio.timeout(DEADLINE_SECONDS):
        while client._pending_data_size < PENDING_BYTES // 2 or not socket.get_write_buffer_size():
            await client.publish("other", bytes(500_000))
            await asyncio.sleep(0)


async def test_the_library_alone_swallows_a_cancel_while_it_waits_for_the_socket():
    async with scripted() as server, library_alone(server, pending_size=PENDING_BYTES) as client:
        await stuck(server, client)

        async def publish() -> str:
            for _ in range(10):
                await client.publish("other", bytes(1_000_000))
                if asyncio.current_task().cancelling():
                    return "swallowed"
            return "sent"

        publishing = asyncio.create_task(publish())
        await until(lambda: client._pending_data_size > PENDING_BYTES)
        publishing.cancel()
        assert await asyncio.wait_for(publishing, DEADLINE_SECONDS) == "swallowed"


class NoRooms:
    """As much of a `SpanningBus` as a connection needs."""

    me = "me"
    look_seconds = 60.0

    def __init__(self) -> None:
        self.noted = Noted()
        self.carrier: NatsBus

    def on_connected(self):
        return iter(())

    def on_disconnected(self) -> None: ...

    def on_nobody(self, subject: str) -> None: ...

    def on_message(self, subject: str, payload: bytes) -> None: ...

    def look(self) -> None: ...

    def beat(self, *, leaving: bool = False) -> None: ...


async def test_a_bus_whose_socket_takes_no_more_closes_all_the_same():
    async with scripted() as server:
        bus = NatsBus(
            rooms=NoRooms(), access=server.access, prefix="sphere", followers=[], clock=time.monotonic
        )
        await bus.start()
        await until(lambda: bus.connected)
        server.reads.clear()
        client = bus._client
        async with asyncio.timeout(DEADLINE_SECONDS):
            while client._pending_data_size <= PENDING_BYTES:
                bus.publish("sphere.room.x", bytes(1_000_000))
                await asyncio.sleep(0)
        while bus.publish("sphere.room.x", bytes(1_000_000)):
            pass
        closing = asyncio.create_task(bus.close())
        await asyncio.wait({closing}, timeout=DEADLINE_SECONDS)
        assert closing.done()


async def test_a_shut_connection_is_gone_though_much_of_it_was_not_sent():
    async with scripted() as server, opened(server) as (client, _):
        await stuck(server, client)
        await client.shut()
        assert client._transport._io_writer.transport.get_write_buffer_size() == 0
        server.reads.set()
        await asyncio.wait_for(server.ended.wait(), DEADLINE_SECONDS)
