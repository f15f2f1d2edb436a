"""The gRPC channel to the chat service: kept connected, and replaced when it must be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from sidecar import grpc_threads
from sidecar._proto.dyson.chat.v1.membership_pb2_grpc import ChatMembershipServiceStub
from sidecar.off_loop import OffLoop

log = structlog.stdlib.get_logger(__name__)

OnCertificates = Callable[[bytes | None, bytes | None], None]
"""Called with the PEM texts of the CA and of our own certificate when they come into use; None: not configured."""

CERTIFICATE_POLL_SECONDS = 5.0
KEEPALIVE_SECONDS = 310.0
"""Servers that count pings allow one in 300 s unless told otherwise, and end the connection over more.

A peer that is gone without a word is noticed sooner where it was asked something: with keepalive on, gRPC has the
kernel give up a connection whose bytes are not acknowledged in the time for a pong (TCP_USER_TIMEOUT).
"""
_KEEPALIVE_TIMEOUT_SECONDS = 4.0
# What takes our bytes and delivers none (a proxy, a frozen process) acknowledges them: then answers are missed.
_UNANSWERED_FOR_A_NEW_CONNECTION = 5
_CONNECT_SECONDS = 5.0

_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.service_config_disable_resolution", 1),  # none from DNS TXT records
    ("grpc.enable_retries", 1),  # no retry policy is given: only calls that no server has seen are sent again
    ("grpc.enable_http_proxy", 0),  # the service stands beside us
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.dns_min_time_between_resolutions_ms", 2000),
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    ("grpc.primary_user_agent", "sphere-sidecar"),
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. Without `ca` the system's roots count; `cert` and `key` come as a pair, for mutual TLS."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    """The name the server's certificate must bear, where it is not the one in the target."""

    def read(self) -> tuple[bytes | None, ...]:
        """Raises: OSError."""
        return tuple(path.read_bytes() if path else None for path in (self.ca, self.cert, self.key))


class Channel:
    """Calls are made with `stub`, between `start` and `close`.

    A lost connection is tried again every 2 s at most. When a TLS file changes, a channel with the new ones takes over
    as soon as it is connected, and the old one ends after its last call. Files that do not work change nothing.
    Likewise a new channel takes over after five calls in a row without an answer, if nothing else came meanwhile.
    `on_replaced` is told of either.
    """

    def __init__(
        self,
        *,
        target: str,
        tls: TlsFiles | None,
        grace_seconds: float,
        certificate_poll_seconds: float,
        keepalive_seconds: float,
        on_certificates: OnCertificates,
        on_replaced: Callable[[], None],
    ) -> None:
        """`grace_seconds` is what calls under way have on a channel that was replaced."""
        self._target = target
        self._tls = tls
        self._grace_seconds = grace_seconds
        self._certificate_poll_seconds = certificate_poll_seconds
        self._on_certificates = on_certificates
        self._on_replaced = on_replaced
        self._options = (*_OPTIONS, *_keepalive(keepalive_seconds))
        self._pems: tuple[bytes | None, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._unanswered = 0
        self._silent = asyncio.Event()

    async def start(self) -> None:
        """Needs no network: connecting is tried in the background.

        Raises:
            OSError: a TLS file cannot be read.
        """
        if self._tls is not None:
            read = OffLoop(self._tls.read)
            self._pems = await read()
        self._use(self._open(self._pems))
        self._current.get_state(try_to_connect=True)
        self._tasks.append(asyncio.create_task(self._replace_silent(), name="membership connection"))
        if self._tls is not None:
            self._tasks.append(asyncio.create_task(self._follow_files(read), name="membership certificates"))

    async def close(self) -> None:
        """End the calls that are still open, too."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._current.close()

    def ended(self, code: grpc.StatusCode) -> None:
        """A call over the present channel ended with `code`."""
        self._unanswered = self._unanswered + 1 if code is grpc.StatusCode.DEADLINE_EXCEEDED else 0
        if self._unanswered >= _UNANSWERED_FOR_A_NEW_CONNECTION:
            self._unanswered = 0
            self._silent.set()

    def heard(self) -> None:
        """Something came over the present channel that was no answer: it delivers."""
        self._unanswered = 0

    def _open(self, pems: tuple[bytes | None, ...]) -> grpc.aio.Channel:
        if self._tls is None:
            with grpc_threads.patient():
                return grpc.aio.insecure_channel(self._target, options=self._options)
        ca, cert, key = pems
        credentials = grpc.ssl_channel_credentials(
            root_certificates=ca, private_key=key, certificate_chain=cert
        )
        named = (("grpc.ssl_target_name_override", self._tls.server_name),) if self._tls.server_name else ()
        with grpc_threads.patient():
            return grpc.aio.secure_channel(self._target, credentials, options=(*self._options, *named))

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._current = channel
        self.stub = ChatMembershipServiceStub(channel)
        if self._tls is not None:
            ca, cert, _key = self._pems
            self._on_certificates(ca, cert)

    async def _follow_files(self, read: OffLoop[tuple[bytes | None, ...]]) -> None:
        """Kubernetes changes a mounted secret at any time, and not always all its files in one step."""
        while True:
            await asyncio.sleep(self._certificate_poll_seconds)
            try:
                pems = await read()
            except OSError as error:
                log.warning("membership certificate unreadable, the old ones stay", error=str(error))
                continue
            if pems == self._pems:
                continue
            channel = self._open(pems)
            if not await _connects(channel):
                log.warning("no connection with the new membership certificates, the old ones stay for now")
                await channel.close()
                continue
            self._pems = pems
            log.info("membership certificates replaced")
            await self._replace(channel)

    async def _replace_silent(self) -> None:
        while True:
            await self._silent.wait()
            log.warning("the chat service does not answer, a new connection is tried")
            channel = self._open(self._pems)
            channel.get_state(try_to_connect=True)
            await self._replace(channel)
            self._silent.clear()

    async def _replace(self, channel: grpc.aio.Channel) -> None:
        """Ask over `channel` from now on; calls under way end on the old one."""
        old = self._current
        self._use(channel)
        self._on_replaced()
        await old.close(grace=self._grace_seconds)


async def _connects(channel: grpc.aio.Channel) -> bool:
    """Whether the first attempt to connect succeeds, within `_CONNECT_SECONDS`."""
    waiting = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)
    state = channel.get_state(try_to_connect=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(_CONNECT_SECONDS):
            while state in waiting:
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    return state is grpc.ChannelConnectivity.READY


def _keepalive(seconds: float) -> tuple[tuple[str, int], ...]:
    timeout_seconds = min(seconds, _KEEPALIVE_TIMEOUT_SECONDS)
    return (
        ("grpc.keepalive_time_ms", int(seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(timeout_seconds * 1000)),
        # Without this one a missing pong is given a minute, whatever the one above says (seen in gRPC 1.85).
        ("grpc.http2.ping_timeout_ms", int(timeout_seconds * 1000)),
    )
