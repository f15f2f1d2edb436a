"""The composition root: the one place that knows every part, and the life of the process."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import ParamSpec

from structlog.stdlib import BoundLogger

import sidecar
from sidecar.auth.keys import REFRESH_RESULTS, KeyRing
from sidecar.auth.verifier import Verifier
from sidecar.bus.link import DROP_REASONS
from sidecar.bus.local import LocalBus
from sidecar.bus.members import MemberEvents
from sidecar.bus.nats import Follower, NatsBus
from sidecar.bus.nats_client import Access
from sidecar.bus.sessions import RevokedSessions, SessionEvents
from sidecar.bus.spanning import SpanningBus
from sidecar.config import Settings
from sidecar.edge.address import Proxies
from sidecar.edge.handshake import Drain, Handshake
from sidecar.edge.limits import HandshakeLimits
from sidecar.edge.listener import listen, serve, signaling_app
from sidecar.edge.live_page import add_live_page
from sidecar.edge.lobby import OPS_PLACES, Lobby, places, raise_open_file_limit
from sidecar.edge.ops import ops_app
from sidecar.membership.channel import TlsFiles
from sidecar.membership.chat_service import CODES, METHODS, ChatService
from sidecar.membership.directory import CACHE_RESULTS, Directory
from sidecar.membership.model import MemberKey
from sidecar.observe import logs, tracing
from sidecar.observe.certificates import lives
from sidecar.observe.history import History
from sidecar.observe.metrics import Metrics
from sidecar.observe.refusals import Refusals
from sidecar.signaling.envelope import Dialect
from sidecar.signaling.hub import Hub
from sidecar.signaling.replies import IceServer
from sidecar.signaling.room import Bus
from sidecar.transport.connection import CLOSE_SECONDS
from sidecar.transport.connections import Connections, Limits
from sidecar.transport.tick import Tick

P = ParamSpec("P")

STOP_SECONDS = 1.0
"""What a second signal still gives the clients to read their close."""
CROWD_SECONDS = 60.0
"""How often it is told that a listener has more sockets than places."""
BUS_START_SECONDS = 2.0
"""How long the listener waits for the bus, so that a room's first visitor finds it whole. It may also be down."""


class Sidecar:
    """One sidecar: its parts wired, and their life from the first socket to the last byte."""

    def __init__(self, settings: Settings, log: BoundLogger) -> None:
        self.settings = settings
        self._log = log
        self._running = AsyncExitStack()
        self._listening = False
        self.address = self.ops_address = ""
        """Where the listeners are, `host:port`, once started."""
        self.on_started: Callable[[], None] = lambda: None
        self._drained: asyncio.Task[None] | None = None
        self._tracer, untraceable = tracing.from_environment(os.environ)
        if untraceable is not None:
            log.warning(untraceable)
        refusals = Refusals()
        metrics = Metrics(
            max_rooms=settings.metrics_max_rooms,
            room_label=settings.metrics_room_label == "on",
            connections_limit=settings.max_connections,
            refusals=refusals,
        )
        metrics.expect(
            methods=METHODS,
            codes=CODES,
            cache=CACHE_RESULTS,
            refreshes=REFRESH_RESULTS,
            bus_drops=DROP_REASONS,
        )
        self._keys = KeyRing(
            algorithms=settings.jwt_algorithms,
            public_key_file=settings.jwt_public_key_file,
            jwks_file=settings.jwt_jwks_file,
            jwks_url=settings.jwt_jwks_url,
            refresh_seconds=settings.jwt_jwks_refresh_seconds,
            on_refresh=metrics.jwks_refresh,
            on_problem=lambda problem: log.warning("token keys not refreshed", problem=problem),
        )
        self._revoked = RevokedSessions()
        self._session_events: SessionEvents | None = None
        verifier = Verifier(
            revoked=self._revoked,
            keys=self._keys,
            algorithms=settings.jwt_algorithms,
            issuers=settings.jwt_issuers,
            audiences=settings.jwt_audiences,
            leeway_seconds=settings.jwt_leeway_seconds,
            on_fresh=metrics.token_skew,
        )
        self._chat_service = ChatService(
            target=settings.membership_target,
            tls=_membership_tls(settings),
            timeout_seconds=settings.membership_timeout_ms / 1000,
            max_profile_bytes=settings.max_profile_bytes,
            on_request=metrics.membership_request,
            trace_call=self._tracer.call,
            on_certificates=lambda ca, cert: metrics.certificates(
                lives(membership_ca=ca, membership_client=cert)
            ),
        )
        self._directory = Directory(
            service=self._chat_service,
            cache_seconds=settings.membership_cache_seconds,
            deny_seconds=settings.membership_deny_seconds,
            recheck_seconds=settings.membership_recheck_seconds,
            stale_seconds=settings.membership_stale_seconds,
            on_cache=metrics.membership_cache,
            on_change=lambda key, change: self.connections.membership_changed(key, change),
        )
        self._bus, rooms_bus = self._make_bus(settings, metrics)
        hub = Hub(
            bus=rooms_bus,
            schedule=Tick(),
            instruments=self._tracer.beside(metrics),
            counters=metrics.rooms,
            max_room_connections=settings.max_room_connections,
            max_connections_per_account=settings.max_connections_per_account,
        )
        self.connections = Connections(
            limits=_limits(settings),
            total_buffer_bytes=settings.total_buffer_bytes,
            ice_servers=[IceServer(urls=settings.stun_urls)] if settings.stun_urls else [],
            hub=hub,
            directory=self._directory,
            verifier=verifier,
            observer=metrics,
            log=log,
            clock=time.time,
            rooms_write_to_sockets=not self._tracer.threaded,
        )
        metrics.watch(
            hub=hub,
            connections=lambda: len(self.connections.by_id),
            unsent_bytes=lambda: self.connections.backlog.bytes,
            stale=lambda: self._directory.stale,
            breaker_open=lambda: self._directory.breaker_open,
            bus_configured=self._bus is not None,
            bus_connected=lambda: self._bus is not None and self._bus.connected,
        )
        self._drain = Drain(on_begin=metrics.draining)
        handshake = Handshake(
            proxies=Proxies(
                trusted=settings.trusted_proxies, on_untrusted_header=_untrusted_header_warning(log)
            ),
            allowed_origins=settings.allowed_origins,
            default_dialect=Dialect(settings.wire_dialect),
            max_connections=settings.max_connections,
            limits=HandshakeLimits(
                address_rate=settings.address_handshake_rate,
                address_burst=settings.address_handshake_burst,
                account_rate=settings.handshake_rate,
                account_burst=settings.handshake_burst,
                failures_per_minute=settings.auth_failures_per_minute,
            ),
            verifier=verifier,
            directory=self._directory,
            hub=hub,
            connections=self.connections,
            drain=self._drain,
            observer=metrics,
            witness=refusals,
            tracer=self._tracer,
            log=log,
        )
        self.signaling = signaling_app(handshake=handshake, mount_prefixes=settings.mount_prefixes)
        self._history = History(metrics=metrics, refusals=refusals, why_not_ready=self._why_not_ready)
        self.ops = ops_app(
            metrics=metrics.page,
            why_not_ready=self._why_not_ready,
            begin_drain=self._begin_drain,
            set_log_level=logs.set_level,
        )
        if settings.ops_page:
            add_live_page(self.ops, state=self._history.state)

    def _make_bus(self, settings: Settings, metrics: Metrics) -> tuple[NatsBus | None, Bus]:
        """What carries rooms to other replicas, if anything does, and how rooms see it."""
        if not settings.bus_url:
            return None, LocalBus()
        rooms = SpanningBus(
            prefix=settings.bus_prefix,
            node_timeout_seconds=settings.bus_node_timeout_seconds,
            observer=metrics.bus,
            clock=time.monotonic,
            schedule=_soon,
        )
        followers: list[Follower] = []
        if settings.session_events_subject:
            self._session_events = SessionEvents(
                subject=settings.session_events_subject,
                stream=settings.session_events_stream,
                revoked=self._revoked,
                on_revoked=lambda sessions: self.connections.sessions_ended(sessions),
                on_bad_event=lambda: metrics.bus.dropped("bad_event"),
            )
            followers.append(self._session_events)
        if settings.member_events_subject:
            members = MemberEvents(
                subject=settings.member_events_subject,
                on_changed=lambda room_id, account_id: self._directory.recheck_now(
                    MemberKey(room_id, account_id)
                ),
                on_bad_event=lambda: metrics.bus.dropped("bad_event"),
            )
            followers.append(members)
        nats = NatsBus(
            rooms=rooms,
            access=Access(
                servers=settings.bus_url,
                credentials_file=settings.bus_credentials_file,
                nkey_file=settings.bus_nkey_file,
                user=settings.bus_user,
                password_file=settings.bus_password_file,
                tls_ca_file=settings.bus_tls_ca_file,
            ),
            prefix=settings.bus_prefix,
            followers=followers,
            clock=time.monotonic,
            max_message_bytes=settings.max_message_bytes,
            on_ca=lambda pem: metrics.certificates(lives(bus_ca=pem)),
        )
        return nats, rooms

    async def _bus_settled(self, bus: NatsBus) -> None:
        """Wait a little for the bus: to be connected, and to know of the sessions that ended lately."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BUS_START_SECONDS):
                await bus.tried.wait()
                if bus.connected and self._session_events is not None:
                    await self._session_events.caught_up.wait()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, drain, stop. A second signal cuts the drain short.

        Raises:
            OSError: a listener's address cannot be used, or a file cannot be read.
            BadKeys: the key file holds no usable key.
        """
        loop = asyncio.get_running_loop()
        asked, asked_again = asyncio.Event(), asyncio.Event()

        def on_signal() -> None:
            (asked_again if asked.is_set() else asked).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            if await self._started_before(asked):
                self.on_started()
                await asked.wait()
                await self._drain_until(asked_again)
        finally:
            await self.stop()

    async def _started_before(self, asked: asyncio.Event) -> bool:
        """Start; False: it was asked to stop before it had."""
        starting = asyncio.create_task(self.start(), name="start")
        stopping = asyncio.create_task(asked.wait(), name="signal while starting")
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
        if starting.cancelled():
            return False
        starting.result()
        return True

    async def start(self) -> None:
        """Listen, load the keys, and begin to follow memberships. Needs no network: readiness waits for the keys."""
        settings, running = self.settings, self._running
        sockets, backlog = places(
            open_files=raise_open_file_limit(), max_connections=settings.max_connections
        )
        signaling = running.enter_context(listen(settings.host, settings.port, backlog=backlog))
        ops = running.enter_context(listen(settings.ops_host, settings.ops_port, backlog=OPS_PLACES))
        running.push_async_callback(self._tracer.close)
        if settings.ops_page:
            self._history.start()
            running.push_async_callback(self._history.close)
        lobby = Lobby(places=OPS_PLACES, upgraded=lambda: 0, on_full=_crowd_warning(self._log, "ops"))
        running.callback((await serve(self.ops, ops, backlog=OPS_PLACES, lobby=lobby)).close)
        await self._chat_service.start()
        running.push_async_callback(self._chat_service.close)
        await self._directory.start()
        running.push_async_callback(self._directory.close)
        running.push_async_callback(self._keys.close)  # also where its start is cancelled
        await self._keys.start()
        if self._bus is not None:
            await self._bus.start()
            running.push_async_callback(self._bus.close)
            await self._bus_settled(self._bus)
        running.push_async_callback(self.connections.close)
        lobby = Lobby(
            places=sockets,
            upgraded=lambda: len(self.connections.by_id),
            on_full=_crowd_warning(self._log, "signaling"),
        )
        running.callback((await serve(self.signaling, signaling, backlog=backlog, lobby=lobby)).close)
        self._listening = True
        self.address, self.ops_address = _name(signaling), _name(ops)
        gc.freeze()  # what is here now stays: no collection need look at it again
        self._log.info(
            "started",
            version=sidecar.__version__,
            signaling=self.address,
            ops=self.ops_address,
            keys=str(settings.jwt_public_key_file or settings.jwt_jwks_file or settings.jwt_jwks_url),
            membership=settings.membership_target,
        )

    async def stop(self) -> None:
        """Close the listener, cut what is left, and end every part that was started."""
        if self._drained is not None:
            self._drained.cancel()
            await asyncio.gather(self._drained, return_exceptions=True)
        await self._running.aclose()
        if self._listening:
            self._log.info("stopped")

    def _why_not_ready(self) -> str | None:
        if self._drain.begun:
            return "draining"
        if not self._keys.loaded:
            return "no token keys loaded yet"
        if not self._listening:
            return "not listening yet"
        return None

    def _begin_drain(self) -> asyncio.Task[None]:
        if self._drained is None:
            self._drain.begin()
            self._log.info(
                "draining", connections=len(self.connections.by_id), seconds=self.settings.drain_seconds
            )
            self._drained = asyncio.get_running_loop().create_task(
                self.connections.drain(seconds=self.settings.drain_seconds), name="drain"
            )
        return self._drained

    async def _drain_until(self, asked_again: asyncio.Event) -> None:
        drained = self._begin_drain()
        impatient = asyncio.get_running_loop().create_task(asked_again.wait(), name="second signal")
        await asyncio.wait(
            {drained, impatient},
            timeout=self.settings.drain_seconds + CLOSE_SECONDS + STOP_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        impatient.cancel()
        if not drained.done():
            self.connections.drain_at_once()
            await asyncio.wait({drained}, timeout=STOP_SECONDS)


def _soon(callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(callback)


def _limits(settings: Settings) -> Limits:
    interval = 1 / settings.message_rate if settings.message_rate else 0.0
    return Limits(
        max_message_bytes=settings.max_message_bytes,
        message_interval_seconds=interval,
        message_burst_seconds=(settings.message_burst - 0.5)
        * interval,  # half a one for what floats round off
        send_buffer_bytes=settings.send_buffer_bytes,
        heartbeat_seconds=settings.heartbeat_seconds,
        pong_timeout_seconds=settings.pong_timeout_seconds,
        max_connection_seconds=settings.max_connection_seconds,
        close_on_token_expiry=settings.on_token_expiry == "close",
        token_leeway_seconds=settings.jwt_leeway_seconds,
    )


def _membership_tls(settings: Settings) -> TlsFiles | None:
    files = TlsFiles(
        ca=settings.membership_tls_ca_file,
        cert=settings.membership_tls_cert_file,
        key=settings.membership_tls_key_file,
        server_name=settings.membership_tls_server_name,
    )
    return files if any((files.ca, files.cert, files.server_name)) else None


def _untrusted_header_warning(log: BoundLogger) -> Callable[[str], None]:
    message = "X-Forwarded-* from a peer that is not in SIDECAR_TRUSTED_PROXIES is ignored (said once)"
    return _seldom(lambda peer: log.warning(message, peer=peer), seconds=math.inf)


def _crowd_warning(log: BoundLogger, listener: str) -> Callable[[], None]:
    message = "too many sockets: those silent the longest are cut"
    return _seldom(lambda: log.warning(message, listener=listener), seconds=CROWD_SECONDS)


def _seldom(tell: Callable[P, object], *, seconds: float) -> Callable[P, None]:
    """`tell`, but not again within so many seconds."""
    next_at = -math.inf

    def told(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal next_at
        now = time.monotonic()
        if now >= next_at:
            next_at = now + seconds
            tell(*args, **kwargs)

    return told


def _name(sock: socket.socket) -> str:
    host, port, *_ = sock.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
