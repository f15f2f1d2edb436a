"""The gRPC client of the chat service (protos/dyson/chat/v1/membership.proto)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import grpc
import structlog

from sidecar._proto.dyson.chat.v1 import membership_pb2 as pb
from sidecar._proto.dyson.chat.v1.membership_pb2_grpc import ChatMembershipServiceStub
from sidecar.membership import decoding
from sidecar.membership.model import MemberKey, Membership
from sidecar.membership.service import (
    CursorTooOld,
    Metadata,
    Reason,
    Unavailable,
    WatchEvent,
    WatchStarted,
    WatchUnimplemented,
)

log = structlog.stdlib.get_logger(__name__)

METHODS = ("GetMembership", "BatchGetMemberships", "WatchMemberships")
WRONG_ANSWER = "WRONG_ANSWER"
_OK, _CANCELLED = grpc.StatusCode.OK.name, grpc.StatusCode.CANCELLED.name
CODES = (*(code.name for code in grpc.StatusCode), WRONG_ANSWER)
"""Every code a request can be counted with: gRPC's, and ours for an OK that answers something else."""

_Watch = grpc.aio.UnaryStreamCall[pb.WatchMembershipsRequest, pb.MembershipEvent]

OnRequest = Callable[[str, str, float], None]
"""Called once per finished call with one of `METHODS`, one of `CODES`, and its seconds."""

TraceCall = Callable[[str, Metadata], AbstractContextManager[Metadata]]
"""Around one call: the method and the metadata it was asked with; gives the metadata it is sent with."""

OnCertificates = Callable[[bytes | None, bytes | None], None]
"""Called with the PEM texts of the CA and of our own certificate when they come into use; None: not configured."""


def untraced(_method: str, metadata: Metadata) -> AbstractContextManager[Metadata]:
    """No spans; what came goes along."""
    return nullcontext(metadata)


_CERTIFICATE_POLL_SECONDS = 5.0
KEEPALIVE_SECONDS = 310.0
"""Servers that count pings allow one in 300 s unless told otherwise, and end the connection over more.

A peer that is gone without a word is noticed sooner where it was asked something: with keepalive on, gRPC has the
kernel give up a connection whose bytes are not acknowledged in the time for a pong (TCP_USER_TIMEOUT).
"""
_KEEPALIVE_TIMEOUT_SECONDS = 4.0
# What takes our bytes and delivers none (a proxy, a frozen process) acknowledges them: then answers are missed.
_UNANSWERED_FOR_A_NEW_CONNECTION = 5
_CONNECT_SECONDS = 5.0
_WATCH_HEADERS_SECONDS = 2.0
# A stream is begun anew this often, so that it moves on to instances that were started since.
_WATCH_SECONDS = 3600.0

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

_REASONS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE,
    grpc.StatusCode.UNAVAILABLE: Reason.UNREACHABLE,
}


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


class ChatService:
    """Implements `service.MembershipService`. Between `start` and `close` it holds one channel.

    Each unary call has `timeout_seconds`, waiting for a connection included; none is repeated here. A lost
    connection is tried again every 2 s at most. When a TLS file changes, a channel with the new ones takes over as
    soon as it is connected, and the old one ends after its last call. Files that do not work change nothing. Likewise
    a new channel takes over after five calls in a row without an answer, if no stream told of anything meanwhile.
    """

    def __init__(
        self,
        *,
        target: str,
        timeout_seconds: float,
        max_profile_bytes: int,
        on_request: OnRequest,
        trace_call: TraceCall = untraced,
        on_certificates: OnCertificates = lambda _ca, _cert: None,
        tls: TlsFiles | None = None,
        certificate_poll_seconds: float = _CERTIFICATE_POLL_SECONDS,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
    ) -> None:
        self._target = target
        self._timeout_seconds = timeout_seconds
        self._max_profile_bytes = max_profile_bytes
        self._on_request = on_request
        self._trace_call = trace_call
        self._on_certificates = on_certificates
        self._tls = tls
        self._certificate_poll_seconds = certificate_poll_seconds
        self._options = (*_OPTIONS, *_keepalive(keepalive_seconds))
        self._pems: tuple[bytes | None, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._watches: set[_Watch] = set()
        self._unanswered = 0
        self._silent = asyncio.Event()

    async def start(self) -> None:
        """Needs no network: connecting is tried in the background.

        Raises:
            OSError: a TLS file cannot be read.
        """
        if self._tls is not None:
            self._pems = await asyncio.to_thread(self._tls.read)
        self._use(self._open(self._pems))
        self._channel.get_state(try_to_connect=True)
        self._tasks.append(asyncio.create_task(self._replace_silent(), name="membership connection"))
        if self._tls is not None:
            self._tasks.append(
                asyncio.create_task(self._follow_files(self._tls), name="membership certificates")
            )

    async def close(self) -> None:
        """Calls still open end with `Unavailable`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def get(self, key: MemberKey, *, metadata: Metadata = ()) -> Membership | None:
        request = pb.GetMembershipRequest(room_id=key.room_id, account_id=key.account_id)
        try:
            with _Counted("GetMembership", self._on_request):
                with self._trace_call("GetMembership", metadata) as sent:
                    answer = await self._stub.GetMembership(
                        request, timeout=self._timeout_seconds, metadata=sent
                    )
                self._unanswered = 0
                return decoding.membership(answer.membership, key, max_profile_bytes=self._max_profile_bytes)
        except grpc.aio.AioRpcError as error:
            self._note(error.code())
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise _unavailable(error) from error

    async def batch(self, keys: Sequence[MemberKey]) -> dict[MemberKey, Membership]:
        request = pb.BatchGetMembershipsRequest(
            keys=[pb.MembershipKey(room_id=key.room_id, account_id=key.account_id) for key in keys]
        )
        try:
            with _Counted("BatchGetMemberships", self._on_request):
                with self._trace_call("BatchGetMemberships", ()) as sent:
                    answer = await self._stub.BatchGetMemberships(
                        request, timeout=self._timeout_seconds, metadata=sent
                    )
                self._unanswered = 0
                return decoding.memberships(
                    answer.memberships, keys, max_profile_bytes=self._max_profile_bytes
                )
        except grpc.aio.AioRpcError as error:
            self._note(error.code())
            raise _unavailable(error) from error

    async def watch(self, resume_after: str) -> AsyncGenerator[WatchEvent, None]:
        """As the port says. The stream also ends, without an error, when another channel takes over."""
        request = pb.WatchMembershipsRequest(resume_after=resume_after)
        call: _Watch | None = None
        try:
            with _Counted("WatchMemberships", self._on_request):
                with self._trace_call("WatchMemberships", ()) as sent:  # the opening, not what comes after it
                    call = self._stub.WatchMemberships(request, timeout=_WATCH_SECONDS, metadata=sent)
                    self._watches.add(call)
                    await _headers(call)
                if not call.done():
                    yield WatchStarted()
                async for message in call:
                    self._unanswered = 0  # the connection delivers: it is the service that is slow
                    yield decoding.event(message, max_profile_bytes=self._max_profile_bytes)
        except Unavailable:
            if call is None or not call.cancelled():
                raise
        except grpc.aio.AioRpcError as error:
            match error.code():
                case grpc.StatusCode.UNIMPLEMENTED:
                    raise WatchUnimplemented from error
                case grpc.StatusCode.OUT_OF_RANGE:
                    raise CursorTooOld from error
                case grpc.StatusCode.DEADLINE_EXCEEDED:
                    return
                case _:
                    raise _unavailable(error) from error
        finally:
            if call is not None:
                self._watches.discard(call)
                call.cancel()

    def _open(self, pems: tuple[bytes | None, ...]) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        ca, cert, key = pems
        credentials = grpc.ssl_channel_credentials(
            root_certificates=ca, private_key=key, certificate_chain=cert
        )
        named = (("grpc.ssl_target_name_override", self._tls.server_name),) if self._tls.server_name else ()
        return grpc.aio.secure_channel(self._target, credentials, options=(*self._options, *named))

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stub = ChatMembershipServiceStub(channel)
        if self._tls is not None:
            ca, cert, _key = self._pems
            self._on_certificates(ca, cert)

    async def _follow_files(self, tls: TlsFiles) -> None:
        """Kubernetes changes a mounted secret at any time, and not always all its files in one step."""
        while True:
            await asyncio.sleep(self._certificate_poll_seconds)
            try:
                pems = await asyncio.to_thread(tls.read)
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

    def _note(self, code: grpc.StatusCode) -> None:
        """How a call ended that did not end well."""
        self._unanswered = self._unanswered + 1 if code is grpc.StatusCode.DEADLINE_EXCEEDED else 0
        if self._unanswered >= _UNANSWERED_FOR_A_NEW_CONNECTION:
            self._unanswered = 0
            self._silent.set()

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
        old = self._channel
        self._use(channel)
        for watch in tuple(self._watches):
            watch.cancel()  # its reader resumes on the new channel
        await old.close(grace=self._timeout_seconds)


class _Counted:
    """Around one call: reports it, and lets nothing but `AioRpcError` and `Unavailable` out of it."""

    __slots__ = ("_method", "_on_request", "_started")

    def __init__(self, method: str, on_request: OnRequest) -> None:
        self._method = method
        self._on_request = on_request
        self._started = time.perf_counter()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        code, instead = _OK, None
        if error is not None:
            code, instead = _code_of(error)
        self._on_request(self._method, code, time.perf_counter() - self._started)
        if instead is not None:
            raise instead from None


def _code_of(error: BaseException) -> tuple[str, Unavailable | None]:
    """What a call that ended in `error` is counted with, and what is raised in its place, if anything."""
    match error:
        case grpc.aio.AioRpcError():
            return error.code().name, None
        case decoding.WrongAnswerError():
            return WRONG_ANSWER, Unavailable(Reason.WRONG_ANSWER)
        case grpc.aio.UsageError():
            return _CANCELLED, Unavailable(Reason.CLOSED)
        case asyncio.CancelledError():
            task = asyncio.current_task()
            if task is None or task.cancelling():
                return _CANCELLED, None
            return _CANCELLED, Unavailable(
                Reason.CLOSED
            )  # it was the channel that was closed, not our caller
        case GeneratorExit():
            return _CANCELLED, None
        case _:
            return _OK, None  # a bug of ours: the service did answer


async def _headers(call: _Watch) -> None:
    """Wait until the stream is open, within `_WATCH_HEADERS_SECONDS`: a server may keep its headers back.

    Raises:
        AioRpcError: it was refused.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_WATCH_HEADERS_SECONDS):
            await call.initial_metadata()
    if call.done():
        await call.read()


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


def _unavailable(error: grpc.aio.AioRpcError) -> Unavailable:
    reason = _REASONS.get(error.code(), Reason.FAILED)
    return Unavailable(reason, f"{error.code().name} {error.details() or ''}".rstrip())
