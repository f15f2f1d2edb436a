"""The calls to the chat service (protos/dyson/chat/v1/membership.proto), over one `channel`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType

import grpc

from sidecar._proto.dyson.chat.v1 import membership_pb2 as pb
from sidecar.membership import decoding
from sidecar.membership.channel import (
    CERTIFICATE_POLL_SECONDS,
    KEEPALIVE_SECONDS,
    Channel,
    OnCertificates,
    TlsFiles,
)
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


def untraced(_method: str, metadata: Metadata) -> AbstractContextManager[Metadata]:
    """No spans; what came goes along."""
    return nullcontext(metadata)


_WATCH_HEADERS_SECONDS = 2.0
# A stream is begun anew this often, so that it moves on to instances that were started since.
_WATCH_SECONDS = 3600.0

_REASONS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE,
    grpc.StatusCode.UNAVAILABLE: Reason.UNREACHABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.EXHAUSTED,
}


class ChatService:
    """Implements `service.MembershipService`, between `start` and `close`.

    Each unary call has `timeout_seconds`, waiting for a connection included; none is repeated here.
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
        certificate_poll_seconds: float = CERTIFICATE_POLL_SECONDS,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._max_profile_bytes = max_profile_bytes
        self._on_request = on_request
        self._trace_call = trace_call
        self._watches: set[_Watch] = set()
        self._channel = Channel(
            target=target,
            tls=tls,
            grace_seconds=timeout_seconds,
            certificate_poll_seconds=certificate_poll_seconds,
            keepalive_seconds=keepalive_seconds,
            on_certificates=on_certificates,
            on_replaced=self._end_watches,
        )

    async def start(self) -> None:
        """Needs no network: connecting is tried in the background.

        Raises:
            OSError: a TLS file cannot be read.
        """
        await self._channel.start()

    async def close(self) -> None:
        """Calls still open end with `Unavailable`."""
        await self._channel.close()

    async def get(self, key: MemberKey, *, metadata: Metadata = ()) -> Membership | None:
        request = pb.GetMembershipRequest(room_id=key.room_id, account_id=key.account_id)
        try:
            with _Counted("GetMembership", self._on_request):
                with self._trace_call("GetMembership", metadata) as sent:
                    answer = await self._channel.stub.GetMembership(
                        request, timeout=self._timeout_seconds, metadata=sent
                    )
                self._channel.ended(grpc.StatusCode.OK)
                return decoding.membership(answer.membership, key, max_profile_bytes=self._max_profile_bytes)
        except grpc.aio.AioRpcError as error:
            self._channel.ended(error.code())
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
                    answer = await self._channel.stub.BatchGetMemberships(
                        request, timeout=self._timeout_seconds, metadata=sent
                    )
                self._channel.ended(grpc.StatusCode.OK)
                return await decoding.memberships(
                    answer.memberships, keys, max_profile_bytes=self._max_profile_bytes
                )
        except grpc.aio.AioRpcError as error:
            self._channel.ended(error.code())
            raise _unavailable(error) from error

    async def watch(self, resume_after: str) -> AsyncGenerator[WatchEvent, None]:
        """As the port says. The stream also ends, without an error, when another channel takes over."""
        request = pb.WatchMembershipsRequest(resume_after=resume_after)
        call: _Watch | None = None
        try:
            with _Counted("WatchMemberships", self._on_request):
                with self._trace_call("WatchMemberships", ()) as sent:  # the opening, not what comes after it
                    call = self._channel.stub.WatchMemberships(request, timeout=_WATCH_SECONDS, metadata=sent)
                    self._watches.add(call)
                    await _headers(call)
                if not call.done():
                    yield WatchStarted()
                async for message in call:
                    self._channel.heard()
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

    def _end_watches(self) -> None:
        """Their readers resume on the new channel."""
        for watch in tuple(self._watches):
            watch.cancel()


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
            return WRONG_ANSWER, Unavailable(Reason.WRONG_ANSWER, str(error))
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


def _unavailable(error: grpc.aio.AioRpcError) -> Unavailable:
    reason = _REASONS.get(error.code(), Reason.FAILED)
    return Unavailable(reason, f"{error.code().name} {error.details() or ''}".rstrip())
