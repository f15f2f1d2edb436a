"""All upgraded connections of this process, and what they share."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Container, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from structlog.stdlib import BoundLogger

from sidecar import errors
from sidecar.auth.verifier import Principal, Verifier
from sidecar.guid import new_guid
from sidecar.membership.directory import Directory
from sidecar.membership.model import (
    Ended,
    MemberKey,
    Membership,
    MembershipChange,
    TimedOut,
    Unverifiable,
    Updated,
)
from sidecar.rfc3339 import rfc3339
from sidecar.signaling import replies
from sidecar.signaling.envelope import Dialect, Identity
from sidecar.signaling.hub import Hub
from sidecar.signaling.packets import PacketError, PacketErrorCode
from sidecar.signaling.room import Participant
from sidecar.transport.backlog import Backlog
from sidecar.transport.connection import Connection
from sidecar.transport.wheel import Timed, Wheel

_CLOSES_OF_CLIENTS = frozenset({1000, 1001, 1005, 1006})
"""Counted as such; with any other code a client speaks of its own troubles, and must not be taken for us."""
RECONNECT_SPREAD_MS = 1000
"""A drained client waits a random part of this before it comes back: the closes themselves are spread already."""

CUT_SECONDS = 1.0
"""How long the loop may take to report connections that were cut."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may do and when it ends. 0 means no limit; bytes and seconds as the names say."""

    max_message_bytes: int
    message_interval_seconds: float
    message_burst_seconds: float
    """How far ahead of an even pace a sender may run."""
    send_buffer_bytes: int
    heartbeat_seconds: float
    pong_timeout_seconds: float
    max_connection_seconds: float
    close_on_token_expiry: bool
    token_leeway_seconds: float


class Observer(Protocol):
    """What connections report for metrics."""

    def heartbeat(self, seconds: float) -> None:
        """A ping was answered after this long."""

    def dropped(self, reason: str) -> None:
        """A message was not relayed."""

    def disconnected(self, code: int, seconds: float) -> None:
        """A connection ended, this long after its upgrade."""


class Connections:
    """Opens connections, ends them when membership ends or the process drains, and forgets them when they are gone."""

    def __init__(
        self,
        *,
        limits: Limits,
        total_buffer_bytes: int,
        ice_servers: Sequence[replies.IceServer],
        hub: Hub,
        directory: Directory,
        verifier: Verifier,
        observer: Observer,
        log: BoundLogger,
        clock: Callable[[], float],
        rooms_write_to_sockets: bool = True,
    ) -> None:
        """`rooms_write_to_sockets`: False where another thread runs Python. `os.write` lets go of the interpreter's
        lock, and such a thread may keep it for 5 ms each time; a transport's write does not.
        """
        self.limits = limits
        self.rooms_write_to_sockets = rooms_write_to_sockets
        self.verifier = verifier
        self.observer = observer
        self.clock = clock
        self.wheel = Wheel(on_error=self._on_wheel_error)
        self.backlog = Backlog(limit_bytes=total_buffer_bytes)
        self.by_id: dict[str, Connection] = {}
        """Until the last byte: a connection that is closing still counts."""
        self.quiet_logger = logging.getLogger("websockets.server")
        self._ice_servers = ice_servers
        self._hub = hub
        self._directory = directory
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    # Life of a connection

    def open(
        self,
        transport: asyncio.Transport,
        *,
        head: bytes,
        received: bytes,
        membership: Membership,
        principal: Principal,
        dialect: Dialect,
        address: str,
        trace_id: str,
        request_id: str | None = None,
    ) -> None:
        """Take an upgraded transport over: join the room, answer with `head` and the welcome, read on."""
        connection = Connection(
            home=self, principal=principal, address=address, trace_id=trace_id, request_id=request_id
        )
        others = self._join(connection, membership, dialect)
        transport.set_protocol(connection)
        connection.start(transport, head=head, others=others, received=received)

    def _join(self, connection: Connection, membership: Membership, dialect: Dialect) -> list[Participant]:
        key = membership.key
        self._directory.follow(key, membership)
        try:
            connection.member, others = self._hub.join(
                key.room_id,
                connection_id=new_guid(),
                identity=identity_of(connection.principal, membership),
                joined_at=self.clock(),
                dialect=dialect,
                outlet=connection,
            )
        except Exception:
            self._directory.unfollow(key)
            raise
        self.by_id[connection.member.connection_id] = connection
        self._empty.clear()
        return others

    def welcome(self, connection: Connection, others: Iterable[Participant]) -> bytes:
        """The first packet of a connection, `others` being who was there before it."""
        member = connection.member
        return replies.welcome(
            member.dialect,
            account_id=member.identity.account_id,
            room_id=member.room.id,
            connection_id=member.connection_id,
            now=member.joined_at,
            participants=others,
            ice_servers=self._ice_servers,
            heartbeat_seconds=self.limits.heartbeat_seconds,
        )

    def leave(self, connection: Connection) -> None:
        """The connection ends: it is out of its room before the close is sent."""
        member = connection.member
        try:
            self._hub.leave(member)
        finally:
            self._directory.unfollow(MemberKey(member.room.id, member.identity.account_id))

    def lost(self, connection: Connection) -> None:
        """The connection's transport is gone. One canonical log line tells all of it."""
        del self.by_id[connection.member.connection_id]
        if not self.by_id:
            self._empty.set()
        disconnect = connection.disconnect or errors.INTERNAL_ERROR
        seconds = monotonic() - connection.opened_at
        theirs = connection.closed_by_client and disconnect.code not in _CLOSES_OF_CLIENTS
        self.observer.disconnected(0 if theirs else disconnect.code, seconds)
        self._log.info(
            "connection ended",
            trace_id=connection.trace_id,
            request_id=connection.request_id,
            account=connection.member.identity.account_id,
            room=connection.member.room.id,
            connection=connection.member.connection_id,
            address=connection.address,
            seconds=round(seconds, 3),
            packets_in=connection.packets_in,
            packets_out=connection.packets_out,
            code=int(disconnect.code),
            reason=disconnect.reason,
            closed_by="client" if connection.closed_by_client else "sidecar",
        )
        self._hub.leave(connection.member)  # again: what a bug kept from it

    # What connections ask of their home

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` for a connection; `close` cancels and awaits what is left."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def soon(self, work: Callable[[], None]) -> None:
        """Run `work` in the next tick of the loop."""
        asyncio.get_running_loop().call_soon(work)

    def renamed(self, connection: Connection) -> None:
        """Its token says other names than the one before: they count where the chat service has none."""
        member = connection.member
        self._directory.tell_again(MemberKey(member.room.id, member.identity.account_id))

    def report_bug(self, connection: Connection, error: Exception) -> None:
        self._log.error(
            "connection failed",
            trace_id=connection.trace_id,
            room=connection.member.room.id,
            connection=connection.member.connection_id,
            exc_info=error,
        )

    def _on_wheel_error(self, entry: Timed, error: Exception) -> None:
        if isinstance(entry, Connection):
            entry.fail(error)

    # What ends them from outside

    def membership_changed(self, key: MemberKey, change: MembershipChange) -> None:
        """The chat service's word about an account that is connected here."""
        for member in self._hub.members(key.room_id, key.account_id):
            connection = self.by_id[member.connection_id]
            try:
                self._apply(change, connection)
            except Exception as error:  # noqa: BLE001 - a bug of ours ends this connection, the others are told
                connection.fail(error)

    def _apply(self, change: MembershipChange, connection: Connection) -> None:
        match change:
            case Ended():
                connection.end(errors.MEMBERSHIP_ENDED)
            case TimedOut(until=until):
                problem = PacketError(
                    PacketErrorCode.MEMBER_TIMED_OUT, "timed out in this room", detail=rfc3339(until)
                )
                connection.refuse_and_end(problem, errors.MEMBERSHIP_ENDED.because("timed out in this room"))
            case Unverifiable():
                connection.end(errors.MEMBERSHIP_UNVERIFIABLE)
            case Updated(membership=membership):
                member = connection.member
                member.room.identify(member, identity_of(connection.principal, membership))

    def sessions_ended(self, sessions: Container[str | None]) -> None:
        """The auth service's word: end every connection of one of these `sessions`, GUIDs among them canonical."""
        for connection in list(self.by_id.values()):
            if connection.principal.session_id in sessions:
                connection.end(errors.SESSION_REVOKED)

    async def drain(self, *, seconds: float) -> None:
        """Ask every client to reconnect, evenly spread over `seconds`; returns when all are gone or cut.

        Room by room: without a bus, the two ends of a call are apart until both have moved.
        """
        rooms = list(self._hub.rooms.values())
        random.shuffle(rooms)
        leaving = [self.by_id[connection_id] for room in rooms for connection_id in room.members]
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number, connection in enumerate(leaving):
            wait = begun + seconds * number / len(leaving) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            self._ask_to_reconnect(connection)
        await self._empty.wait()

    def drain_at_once(self) -> None:
        """Ask every client that is still here to reconnect, now."""
        for connection in list(self.by_id.values()):
            self._ask_to_reconnect(connection)

    def _ask_to_reconnect(self, connection: Connection) -> None:
        if connection.disconnect is None:
            try:
                connection.drain(reconnect_after_ms=random.randrange(RECONNECT_SPREAD_MS))  # noqa: S311
            except Exception as error:  # noqa: BLE001 - one connection's bug must not end the drain of the others
                connection.fail(error)

    async def close(self) -> None:
        """Cut whatever is left and await the tasks. Every connection has had its line in the log afterwards."""
        for connection in list(self.by_id.values()):
            connection.cut(errors.DRAINING)
        with suppress(TimeoutError):
            async with asyncio.timeout(CUT_SECONDS):
                await self._empty.wait()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.wheel.close()


def identity_of(principal: Principal, membership: Membership) -> Identity:
    """Who others see: the room's nick before the account's before the token's."""
    return Identity(
        account_id=principal.account_id,
        name=membership.account_name or principal.name,
        nick=membership.nick or membership.account_nick or principal.nick,
        profile=membership.profile,
        updated_at=membership.updated_at if membership.updated_at is not None else membership.joined_at,
    )
