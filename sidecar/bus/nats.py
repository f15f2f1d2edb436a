"""The bus on NATS: keeps a connection, sends what rooms say, hands over what is said elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog
from nats import errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sidecar.bus.nats_client import PING_SECONDS, Access, RoomClient
from sidecar.bus.ports import subjects_of
from sidecar.bus.spanning import SpanningBus
from sidecar.off_loop import OffLoop

log = structlog.stdlib.get_logger(__name__)

OUTGOING_BYTES = 8 * 1024 * 1024
"""What may wait to be sent; beyond it messages are dropped, and sent again when others ask for them."""
SILENCE_SECONDS = 4.0
"""A server that answers no ping for this long is left for another."""
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 1.0
FOLLOWER_RETRY_SECONDS = 1.0
GOODBYE_SECONDS = 1.0
MAX_PROBLEMS_SAID = 20
CA_POLL_SECONDS = 60.0
ENTRY_BYTES = 1024
"""What an entry of the bus is bigger than the signal in it, at most."""
DEFAULT_MAX_PAYLOAD_BYTES = 1024 * 1024


class ConnectionLost(Exception):
    """The connection to the server is of no more use."""


class Follower(Protocol):
    """Something else that listens on the same connection."""

    async def follow(self, client: Client) -> None:
        """Listen until cancelled; called anew on each connection, whose end ends every subscription."""


class _Publish(NamedTuple):
    subject: str
    payload: bytes
    reply: str


class _Subscribe(NamedTuple):
    subject: str


class _Unsubscribe(NamedTuple):
    subject: str


class NatsBus:
    """Carries a `SpanningBus` over NATS, for as long as `start` to `close`, whatever becomes of the server.

    Needs no server to start. While there is none, the rooms here go on by themselves.
    """

    def __init__(
        self,
        *,
        rooms: SpanningBus,
        access: Access,
        prefix: str,
        followers: Sequence[Follower],
        clock: Callable[[], float],
        max_message_bytes: int = 0,
        on_ca: Callable[[bytes], None] = lambda _pem: None,
        ca_poll_seconds: float = CA_POLL_SECONDS,
    ) -> None:
        """`on_ca` gets the CA's certificates, at the start and when the file has changed.

        `max_message_bytes` is what a client may say; 0: no limit.
        """
        self.connected = False
        self.tried = asyncio.Event()
        """Set once the first attempt to connect has succeeded or failed."""
        self._rooms = rooms
        rooms.carrier = self
        self._access = access
        self._prefix = prefix
        self._followers = followers
        self._clock = clock
        self._max_message_bytes = max_message_bytes
        self._on_ca = on_ca
        self._ca_poll_seconds = ca_poll_seconds
        self._max_payload_bytes = DEFAULT_MAX_PAYLOAD_BYTES
        self._client: RoomClient | None = None
        self._outgoing: deque[_Publish | _Subscribe | _Unsubscribe] = deque()
        self._outgoing_bytes = 0
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._said_problems: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        works = [self._stay_connected(), self._look()]
        if self._access.tls_ca_file is not None:
            works.append(self._follow_ca(self._access.tls_ca_file))
        for work in works:
            self._tasks.append(asyncio.get_running_loop().create_task(work, name="bus"))

    async def close(self) -> None:
        """Say goodbye, so that nobody has to wait for silence, and end."""
        self._rooms.beat(leaving=True)
        with suppress(TimeoutError, OSError, errors.Error):
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def flush(self) -> None:
        """Wait until the server has all that was published, and all that it sent before that is taken in.

        Raises:
            OSError, nats.errors.Error: the connection was lost on the way.
        """
        if self._client is not None:
            await self._sent.wait()
            await self._client.flush()

    # As the rooms see it

    def fits(self, payload: bytes) -> bool:
        """Whether the server takes a message of this size."""
        return len(payload) <= self._max_payload_bytes

    def publish(self, subject: str, payload: bytes, *, reply: str = "") -> bool:
        if self._outgoing_bytes + len(payload) > OUTGOING_BYTES:
            return False
        self._outgoing_bytes += len(payload)
        self._put(_Publish(subject, payload, reply))
        return True

    def subscribe(self, subject: str) -> None:
        self._put(_Subscribe(subject))

    def unsubscribe(self, subject: str) -> None:
        self._put(_Unsubscribe(subject))

    def _put(self, item: _Publish | _Subscribe | _Unsubscribe) -> None:
        self._outgoing.append(item)
        self._sent.clear()
        self._wake.set()

    # The connection

    async def _stay_connected(self) -> None:
        wait = FIRST_RETRY_SECONDS
        discovered: Sequence[Srv] = ()
        while True:
            client = RoomClient(
                subjects=tuple(begin.encode() for begin in subjects_of(self._prefix)),
                on_message=self._on_message,
                on_nobody=self._rooms.on_nobody,
                on_problem=self._on_problem,
                clock=self._clock,
            )
            try:
                await client.open(
                    self._access,
                    name=f"sphere-sidecar {self._rooms.me}",
                    inbox_prefix=f"_INBOX.{self._prefix}",
                    discovered=discovered,
                )
                wait = FIRST_RETRY_SECONDS
                await self._serve(client)
            except Exception as problem:  # noqa: BLE001 - whatever the library raises: try again
                self._on_problem(problem)
            finally:
                self._disconnect()
                self.tried.set()
                discovered = client.discovered or discovered
                await client.shut()
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - spreads load
            wait = min(wait * 2, LAST_RETRY_SECONDS)

    async def _serve(self, client: RoomClient) -> None:
        """One connection, from its greeting to its loss."""
        self._max_payload_bytes = client.max_payload
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._said_problems.clear()
        self.connected, self._client = True, client
        catching_up = self._rooms.on_connected()
        self._wake.set()
        self.tried.set()
        log.info("bus connected", server=client.connected_url.netloc if client.connected_url else "")
        if not 0 < self._max_message_bytes <= client.max_payload - ENTRY_BYTES:
            log.warning(
                "bus: signals too big for this server stay on this replica",
                server_max_payload=client.max_payload,
                max_message_bytes=self._max_message_bytes,
            )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(client))
            tasks.create_task(self._send(client))
            tasks.create_task(_go_on_with(catching_up))
            for follower in self._followers:
                tasks.create_task(self._keep_following(follower, client))

    def _disconnect(self) -> None:
        if self.connected:
            self.connected, self._client = False, None
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self._sent.set()
            self._rooms.on_disconnected()

    async def _watch(self, client: RoomClient) -> None:
        """End the connection when it is lost, or when nothing is heard of the server though it is pinged."""
        looked_at = client.heard_at = self._clock()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PING_SECONDS):
                    await client.lost.wait()
                    raise ConnectionLost("the connection ended")
            now = self._clock()
            if now - looked_at > 2 * PING_SECONDS:
                client.heard_at = now  # this process was stalled: what was sent to it may still be unread
            looked_at = now
            if now - client.heard_at > SILENCE_SECONDS:
                raise ConnectionLost(f"nothing heard for {SILENCE_SECONDS:g} s")

    async def _send(self, client: RoomClient) -> None:
        """Send what was put, in order; the library makes this wait while the socket takes no more."""
        me = asyncio.current_task()
        subscriptions: dict[str, Subscription] = {}
        unused: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing:
                match self._outgoing.popleft():
                    case _Publish(subject, payload, reply):
                        self._outgoing_bytes -= len(payload)
                        await client.publish(subject, payload, reply)
                    case _Subscribe(subject):
                        # Neither queue nor task: RoomClient hands messages over as they are read.
                        subscriptions[subject] = await client.subscribe(subject, future=unused)
                    case _Unsubscribe(subject):
                        await subscriptions.pop(subject).unsubscribe()
                if me is not None and me.cancelling():
                    raise asyncio.CancelledError  # the library may have taken it for its own
            self._sent.set()

    async def _keep_following(self, follower: Follower, client: Client) -> None:
        """What goes wrong with one subject's events is no reason to leave the bus."""
        while True:
            try:
                await follower.follow(client)
            except Exception as problem:  # noqa: BLE001 - as above
                self._on_problem(problem)
            await asyncio.sleep(FOLLOWER_RETRY_SECONDS)

    # What comes in

    def _on_message(self, subject: str, payload: bytes) -> None:
        try:
            self._rooms.on_message(subject, payload)
        except Exception:  # a bug in one message must not end the bus
            log.exception("a bus message could not be used")

    def _on_problem(self, problem: Exception) -> None:
        """Each problem is said once until the bus is there again: an outage is no reason for a storm."""
        while isinstance(problem, ExceptionGroup):
            problem = problem.exceptions[0]
        text = str(problem) or type(problem).__name__
        if text not in self._said_problems and len(self._said_problems) < MAX_PROBLEMS_SAID:
            self._said_problems.add(text)
            log.warning("bus trouble", problem=text, connected=self.connected)

    async def _follow_ca(self, file: Path) -> None:
        """Each connection reads the file anew, so the one on disk is what counts."""
        read, known = OffLoop(file.read_bytes), b""
        while True:
            with suppress(OSError):  # whoever connects with it complains
                pem = await read()
                if pem != known:
                    known = pem
                    self._on_ca(pem)
            await asyncio.sleep(self._ca_poll_seconds)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._rooms.look_seconds)
            try:
                self._rooms.look()
            except Exception:  # as in _on_message
                log.exception("the bus could not be looked after")


async def _go_on_with(work: Iterator[None]) -> None:
    """A slice of the work in each tick of the loop."""
    for _ in work:
        await asyncio.sleep(0)
