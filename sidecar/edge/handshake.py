"""The handshake: who may open a connection, judged in the order of docs/protocol.md, "The handshake"."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from time import perf_counter, time
from typing import Protocol
from urllib.parse import unquote_plus

from sanic import HTTPResponse, Request
from structlog.stdlib import BoundLogger

from sidecar.auth.credentials import Credential, Source, find_credential, offers_bearer
from sidecar.auth.verifier import Principal, Verifier
from sidecar.edge.address import Client, Proxies, origin_allowed
from sidecar.edge.answers import NO_TOKEN, Answers
from sidecar.edge.gathering import Gathering
from sidecar.edge.limits import HandshakeLimits
from sidecar.edge.upgrade import switching_protocols, upgrade_problem
from sidecar.errors import Refusal, RefusalCode
from sidecar.guid import canonical_guid
from sidecar.membership.directory import Directory
from sidecar.membership.model import MemberKey
from sidecar.observe.refusals import RefusedHandshake
from sidecar.observe.tracing import Outcome, Trace, Tracer
from sidecar.signaling.envelope import Dialect
from sidecar.signaling.hub import Hub
from sidecar.transport.connections import Connections
from sidecar.transport.takeover import take_over

TOKEN_COOKIE = "AuthToken"
FULL_RETRY_SECONDS = 5

_FAILURES = frozenset({401, 403})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_DIALECTS = {dialect.value: dialect for dialect in Dialect}


class Observer(Protocol):
    """What handshakes report for metrics."""

    def handshake(self, outcome: str, seconds: float) -> None:
        """One was answered: `accepted`, or the error's code in lower case."""


class Witness(Protocol):
    """Who remembers refused handshakes, for people."""

    def note(self, refused: RefusedHandshake) -> None:
        """One was refused."""


class Drain:
    """Whether this replica takes no more connections. Once it begins, it stays."""

    def __init__(self, *, on_begin: Callable[[], None]) -> None:
        self.begun = False
        self._on_begin = on_begin

    def begin(self) -> None:
        if not self.begun:
            self.begun = True
            self._on_begin()


class _Visitor:
    """What is known of a request while it is judged: for its answer and its log line."""

    __slots__ = ("account_id", "client", "outcome", "request_id", "room_id", "status", "trace", "upgraded")

    def __init__(self, trace: Trace, client: Client, request_id: str | None) -> None:
        self.trace = trace
        self.client = client
        self.request_id = request_id
        self.status = 0
        self.outcome = "gone"
        self.room_id: str | None = None
        self.account_id: str | None = None
        self.upgraded = False


class Handshake:
    """Answers every request of the signaling listener."""

    def __init__(
        self,
        *,
        proxies: Proxies,
        allowed_origins: Sequence[str],
        default_dialect: Dialect,
        max_connections: int,
        limits: HandshakeLimits,
        verifier: Verifier,
        directory: Directory,
        hub: Hub,
        connections: Connections,
        drain: Drain,
        observer: Observer,
        witness: Witness,
        tracer: Tracer,
        log: BoundLogger,
    ) -> None:
        self._proxies = proxies
        self._allowed_origins = allowed_origins
        self._answers = Answers(allowed_origins=allowed_origins)
        self._gathering = Gathering()
        self._default_dialect = default_dialect
        self._max_connections = max_connections
        self._limits = limits
        self._verifier = verifier
        self._directory = directory
        self._hub = hub
        self._connections = connections
        self._drain = drain
        self._observer = observer
        self._witness = witness
        self._tracer = tracer
        self._log = log.bind()  # what it was given may be resolved anew at each line

    async def answer(self, request: Request, chat_id: str) -> HTTPResponse | None:
        """Upgrade the request and return None, or answer it with what is wrong."""
        begun = perf_counter()
        visitor = self._visitor(request)
        try:
            if await self._judge(request, chat_id, visitor):
                if not visitor.upgraded:
                    return None
                visitor.status, visitor.outcome = 101, "accepted"
                self._observer.handshake("accepted", perf_counter() - begun)
                if self._log.isEnabledFor(logging.DEBUG):
                    self._log.debug(
                        "handshake accepted",
                        trace_id=visitor.trace.trace_id,
                        request_id=visitor.request_id,
                        account=visitor.account_id,
                        room=visitor.room_id,
                    )
                return None
            visitor.status, visitor.outcome = 204, "preflight"
            return self._answers.preflight(request)
        except Refusal as refusal:
            if self._drain.begun and refusal.code is RefusalCode.MEMBERSHIP_UNAVAILABLE:
                refusal = _draining()  # the question ended with this server
            return self._refuse(request, visitor, refusal, begun)
        except Exception as error:  # noqa: BLE001 - a bug of ours: this request fails, no other
            answer = self._fail(request, visitor, error, begun)
            return None if visitor.upgraded else answer
        finally:
            _end_trace(visitor)

    def answer_error(self, request: Request, error: Exception) -> HTTPResponse:
        """Answer what never reached `answer`: unknown paths and methods, requests that are no HTTP."""
        begun = perf_counter()
        visitor = self._visitor(request)
        try:
            status = getattr(error, "status_code", 500)
            if status == 404:  # noqa: PLR2004
                return self._refuse(request, visitor, _not_found(), begun)
            if status == 405:  # noqa: PLR2004
                is_room = canonical_guid(request.path.rpartition("/")[2]) is not None
                problem = _method_not_allowed() if is_room else _not_found()
                return self._refuse(request, visitor, problem, begun)
            if status < 500:  # noqa: PLR2004
                # Not the error's own words: they may quote a URL, and that a token.
                reason = f"no request that can be served: {HTTPStatus(status).phrase}"
                return self._refuse(request, visitor, Refusal(RefusalCode.BAD_REQUEST, reason), begun, status)
            return self._fail(request, visitor, error, begun)
        finally:
            _end_trace(visitor)

    async def _judge(self, request: Request, chat_id: str, visitor: _Visitor) -> bool:
        """The handshake, top to bottom. True: upgraded, or the client is gone; False: a CORS preflight."""
        room_id = visitor.room_id = canonical_guid(chat_id)
        if room_id is None:
            raise _not_found()
        if request.method == "OPTIONS":
            return False
        if request.method != "GET":
            raise _method_not_allowed()
        self._check_open()
        self._check_address(visitor.client)
        await self._gathering.wait()
        credential, principal = await self._identify(request, visitor)
        account_id = visitor.account_id = principal.account_id
        if credential.source is Source.COOKIE:
            self._check_origin(request)
        self._check_account(account_id)
        with visitor.trace.step("membership") as metadata:
            membership = await self._directory.admit(MemberKey(room_id, account_id), metadata=metadata)
        self._check_open()
        dialect = self._upgrade_dialect(request)
        head = switching_protocols(request, select_bearer=offers_bearer(request.headers))
        with self._hub.entering(room_id) as room:
            if not room.settled:
                await room.settle()
                membership = await self._directory.admit(MemberKey(room_id, account_id))
            # The last wait is over: what is true from here on is true when the connection joins.
            self._check_open()
            self._verifier.check_session(principal)
            self._hub.check_space(room_id, account_id)
            taken = take_over(request)
            if taken is not None:
                visitor.upgraded = True  # from here on there is no HTTP to answer with
                transport, received = taken
                try:
                    self._connections.open(
                        transport,
                        head=head,
                        received=received,
                        membership=membership,
                        principal=principal,
                        dialect=dialect,
                        address=visitor.client.address,
                        trace_id=visitor.trace.trace_id,
                        request_id=visitor.request_id,
                    )
                except Exception:
                    transport.abort()  # nobody else would
                    raise
        return True

    def _visitor(self, request: Request) -> _Visitor:
        headers = request.headers
        traceparent = headers.get("traceparent")
        return _Visitor(
            self._tracer.handshake(traceparent, headers.get("tracestate") if traceparent else None),
            self._proxies.client(_peer(request), headers),
            _request_id(headers.get("x-request-id")),
        )

    def _check_open(self) -> None:
        if self._drain.begun:
            raise _draining()
        if self._max_connections and len(self._connections.by_id) >= self._max_connections:
            raise Refusal(
                RefusalCode.UNAVAILABLE,
                "this server is full, please try again",
                retry_after_seconds=FULL_RETRY_SECONDS,
            )

    def _check_address(self, client: Client) -> None:
        wait = self._limits.address(client.limited_as)
        if wait:
            raise Refusal(
                RefusalCode.RATE_LIMITED, "too many handshakes from this address", retry_after_seconds=wait
            )

    async def _identify(self, request: Request, visitor: _Visitor) -> tuple[Credential, Principal]:
        """Whose token it is. Where an address used up its failures, a bad one is not told more than that.

        A good one passes, whatever others behind its address do, unless its own account did its share of the failing.
        """
        wait = self._limits.failures(visitor.client.limited_as)
        try:
            credential = _credential(request)
            with visitor.trace.step("verify token"):
                principal = await self._verifier.verify(credential.token, bot=credential.bot)
        except Refusal as refusal:
            if wait and refusal.code is not RefusalCode.TOKEN_EXPIRED:  # which is no failure
                raise _used_up(wait) from None
            raise
        if wait and self._limits.failing(principal.account_id):
            raise _used_up(wait)
        return credential, principal

    def _check_account(self, account_id: str) -> None:
        wait = self._limits.account(account_id)
        if wait:
            raise Refusal(
                RefusalCode.RATE_LIMITED, "too many handshakes by this account", retry_after_seconds=wait
            )

    def _check_origin(self, request: Request) -> None:
        """A cookie comes unasked from any page, so the page's origin has to be ours."""
        origin = request.headers.get("origin")
        if origin is None or origin_allowed(origin, self._allowed_origins):
            return
        if not self._proxies.same_origin(origin, _peer(request), request.headers):
            raise Refusal(
                RefusalCode.ORIGIN_NOT_ALLOWED, "pages of this origin may not connect with a cookie"
            )

    def _upgrade_dialect(self, request: Request) -> Dialect:
        problem = upgrade_problem(request)
        if problem is not None:
            raise Refusal(RefusalCode.WEBSOCKET_EXPECTED, problem)
        name = _argument(request, "dialect")
        dialect = _DIALECTS.get(name) if name else self._default_dialect
        if dialect is None:
            raise Refusal(RefusalCode.UNKNOWN_DIALECT, "dialect must be one of " + ", ".join(_DIALECTS))
        return dialect

    def _refuse(
        self, request: Request, visitor: _Visitor, refusal: Refusal, begun: float, status: int | None = None
    ) -> HTTPResponse:
        status = status or refusal.status
        if status in _FAILURES and refusal.code is not RefusalCode.TOKEN_EXPIRED:
            # A page that uses someone's cookie fails in its own name, and not in theirs.
            theirs = refusal.code is not RefusalCode.ORIGIN_NOT_ALLOWED
            self._limits.failed(visitor.client.limited_as, visitor.account_id if theirs else None)
        seconds = perf_counter() - begun
        visitor.status, visitor.outcome = status, refusal.code.lower()
        self._observer.handshake(visitor.outcome, seconds)
        self._witness.note(
            RefusedHandshake(
                at=time(),
                status=status,
                code=refusal.code.value,
                reason=refusal.message,
                room_id=visitor.room_id,
                trace_id=visitor.trace.trace_id,
                address=visitor.client.limited_as,
            )
        )
        self._log.info(
            "handshake refused",
            trace_id=visitor.trace.trace_id,
            request_id=visitor.request_id,
            status=status,
            code=refusal.code.value,
            reason=refusal.message,
            account=visitor.account_id,
            room=visitor.room_id,
            address=visitor.client.address,
            seconds=round(seconds, 6),
        )
        return self._answers.refused(request, refusal, status=status, trace_id=visitor.trace.trace_id)

    def _fail(self, request: Request, visitor: _Visitor, error: Exception, begun: float) -> HTTPResponse:
        self._log.error("handshake failed", trace_id=visitor.trace.trace_id, exc_info=error)
        return self._refuse(request, visitor, Refusal(RefusalCode.INTERNAL_ERROR, "internal error"), begun)


def _draining() -> Refusal:
    return Refusal(RefusalCode.UNAVAILABLE, "this server is restarting, please try again")


def _end_trace(visitor: _Visitor) -> None:
    visitor.trace.end(Outcome(visitor.status, visitor.outcome, visitor.room_id, visitor.account_id))


def _request_id(given: str | None) -> str | None:
    """What a gateway calls this request: words of its own, so only what is safe in a log line."""
    return given if given and _REQUEST_ID.fullmatch(given) else None


def _credential(request: Request) -> Credential:
    credential = find_credential(
        request.headers, _argument(request, "tk"), _cookie(request.headers.getall("cookie", []), TOKEN_COOKIE)
    )
    if credential is None:
        raise Refusal(RefusalCode.UNAUTHORIZED, NO_TOKEN)
    return credential


def _argument(request: Request, name: str) -> str | None:
    """The first value of the query's `name` that is not empty."""
    query = request.query_string
    if name in query:  # mostly one of the two is
        for pair in query.split("&"):
            key, _, value = pair.partition("=")
            if value and key == name:
                return unquote_plus(value)
    return None


def _cookie(lines: Sequence[str], name: str) -> str | None:
    """The first value of the cookie `name` that is not empty, without its quotes.

    Not by Sanic's parser: a quoted value of 15 kB full of backslashes keeps it, and the loop, busy for 0.2 s.
    """
    for line in lines:
        for pair in line.split(";"):
            key, _, value = pair.partition("=")
            if key.strip() == name and (value := value.strip().strip('"')):
                return value
    return None


def _peer(request: Request) -> str:
    return request.conn_info.client_ip if request.conn_info else ""


def _used_up(wait_seconds: float) -> Refusal:
    return Refusal(
        RefusalCode.RATE_LIMITED, "too many failures from this address", retry_after_seconds=wait_seconds
    )


def _not_found() -> Refusal:
    return Refusal(
        RefusalCode.NOT_FOUND, "no such path; rooms are at {prefix}/chat/realtime/{chatId}, a GUID"
    )


def _method_not_allowed() -> Refusal:
    return Refusal(RefusalCode.METHOD_NOT_ALLOWED, "only GET is served here")
