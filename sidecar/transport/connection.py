"""One upgraded connection: what its peer may do, when it ends, and how much may wait to be sent to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from websockets.frames import Close, Opcode
from websockets.protocol import State

from sidecar import errors
from sidecar.auth.verifier import Principal
from sidecar.errors import Disconnect
from sidecar.signaling import replies
from sidecar.signaling.outlet import NO_FD
from sidecar.signaling.packets import AuthRefresh, PacketError, PacketErrorCode, Ping, Signal, decode
from sidecar.signaling.presence import Member
from sidecar.signaling.room import Participant
from sidecar.transport import refresh
from sidecar.transport.conduct import Conduct
from sidecar.transport.frames import FrameReader

if TYPE_CHECKING:
    from sidecar.transport.connections import Connections
    from sidecar.transport.wheel import Link

CLOSE_SECONDS = 5.0
"""How long a peer has to answer a close, or to read again for it to be sent; then it is cut."""
MAX_TOKENS = 4
"""Tokens shown by `auth.refresh` that wait for their judgement, at most."""
IDLE_LOOK_SECONDS = 20.0
"""A connection is looked at this often, whatever the clocks do meanwhile."""

_PING = b"\x89\x00"
_WELL_FORMED = {
    PacketErrorCode.TARGET_NOT_IN_ROOM: "target_not_in_room",
    PacketErrorCode.RATE_LIMITED: "rate_limited",
}
"""Why a packet without fault was not relayed, for `messages_dropped_total`."""


class Connection(FrameReader):
    """One upgraded connection, from its first packet to its last byte. It is its member's outlet."""

    __slots__ = (
        "_awaits_pong",
        "_conduct",
        "_due_at",
        "_pinged_at",
        "_proved_at",
        "_refreshing",
        "_tokens",
        "_trace_number",
        "address",
        "closed_by_client",
        "member",
        "opened_at",
        "packets_in",
        "principal",
        "request_id",
        "wheel_next",
        "wheel_previous",
    )

    member: Member

    def __init__(
        self,
        *,
        home: Connections,
        principal: Principal,
        address: str,
        trace_id: str,
        request_id: str | None = None,
    ) -> None:
        super().__init__(home=home)
        self.principal = principal
        self.address = address
        self._trace_number = int(trace_id, 16)  # half of what the text would take
        self.request_id = request_id
        """As the client or a proxy named the handshake."""
        self.closed_by_client = False
        self.packets_in = 0
        self.wheel_next: Link | None = None
        self.wheel_previous: Link | None = None
        self._due_at = 0.0  # of the next message at an even pace: GCRA's theoretical arrival time
        self._conduct: Conduct | None = None  # from its first misbehaviour on
        # Of `auth.refresh`es not answered yet, the first of them being judged.
        self._tokens: tuple[str, ...] = ()
        self._refreshing: asyncio.Task[None] | None = None
        self.opened_at = self._heard_at
        self._proved_at = self.opened_at  # when its newest token came: the first a moment before
        self._awaits_pong = False
        # The first ping is due at any time within a heartbeat: it spreads load, and hides nothing.
        self._pinged_at = self.opened_at - random.random() * home.limits.heartbeat_seconds  # noqa: S311

    @property
    def trace_id(self) -> str:
        """The handshake's, 32 hex digits."""
        return f"{self._trace_number:032x}"

    # From the handshake

    def start(
        self, transport: asyncio.Transport, *, head: bytes, others: Iterable[Participant], received: bytes
    ) -> None:
        """Begin: answer the upgrade with `head`, say the first packet, read what came already."""
        self._transport = transport
        begin = head
        try:
            # A write goes to the kernel at once; `pause_writing`: it took no more.
            transport.set_write_buffer_limits(high=0)
            # Answers to earlier requests may be unsent. The transport told whoever had it then, and not again now.
            self._congested = transport.get_write_buffer_size() > 0
            if not self._congested:
                self._flow()
            self._look_again()
            begin += self._home.welcome(self, others)
        except Exception as error:  # noqa: BLE001 - as in data_received
            transport.write(head)
            self.fail(error)
        self._allowance = len(begin)
        self.send(begin)
        if not self._congested:
            self._allowance = 0
        transport.resume_reading()
        if received:
            self.data_received(received)

    # What was read

    def on_message(self, payload: bytes, *, text: bool, last: bool = False) -> None:
        if self.disconnect is not None:
            return
        size = len(payload)
        self.packets_in += 1
        if not self._keeps_pace():
            return
        try:
            if not payload.isascii():
                payload.decode()
        except UnicodeDecodeError:
            if text:
                self.end(errors.INVALID_UTF8)
            else:
                self._refuse_malformed(
                    PacketError(PacketErrorCode.INVALID_JSON, "binary message is not UTF-8")
                )
            return
        try:
            packet = decode(payload)
            if isinstance(packet, Signal):
                member = self.member
                member.room.post(member, packet, size=size, received_at=self._heard_at, last=last)
            elif isinstance(packet, Ping):
                self.reply(replies.pong(packet.data))
            else:
                self._refresh(packet)
        except PacketError as problem:
            reason = _WELL_FORMED.get(problem.code)
            if reason is None:
                self._refuse_malformed(problem)
            else:
                self._home.observer.dropped(reason)
                self._refuse(problem)

    def on_control(self, opcode: Opcode) -> None:
        if opcode is Opcode.PONG and self._awaits_pong:
            self._awaits_pong = False
            self._home.observer.heartbeat(self._heard_at - self._pinged_at)
        else:
            self._keeps_pace()  # nobody sends these but to keep us busy

    def _keeps_pace(self) -> bool:
        """Whether what was read is within the rate: one per interval, running ahead of that by a burst at most.

        Else it does not count, and going on regardless ends the connection.
        """
        now, conduct = self._heard_at, self._conduct
        if conduct is not None:
            conduct.go_on(now)
        if conduct is None or not conduct.flooding:
            limits = self._home.limits
            ahead = self._due_at - now
            if ahead <= limits.message_burst_seconds:
                self._due_at = (now if ahead < 0.0 else self._due_at) + limits.message_interval_seconds
                return True
            conduct = self._misconduct()
            conduct.limit(now)
        self._home.observer.dropped("rate_limited")
        if conduct.flooding:
            self.end(errors.MESSAGE_FLOOD)
        else:
            message = "too many messages: what comes too fast is dropped"
            self._refuse(PacketError(PacketErrorCode.RATE_LIMITED, message))
        return False

    def _misconduct(self) -> Conduct:
        self._conduct = self._conduct or Conduct()
        return self._conduct

    def _refuse(self, problem: PacketError) -> None:
        self.reply(replies.error(self.member.dialect, problem))

    def _refuse_malformed(self, problem: PacketError) -> None:
        self._home.observer.dropped("malformed")
        self._refuse(problem)
        if not self._misconduct().endures_malformed(self._heard_at):
            self.end(errors.TOO_MANY_MALFORMED)

    # Tokens

    def _refresh(self, packet: AuthRefresh) -> None:
        if len(self._tokens) == MAX_TOKENS:
            raise PacketError(PacketErrorCode.RATE_LIMITED, "earlier auth.refreshes are not answered yet")
        self._tokens += (packet.token,)
        self._refreshing = self._refreshing or self._home.spawn(self._refreshed())

    async def _refreshed(self) -> None:
        """Answer every `auth.refresh` in the order they came."""
        try:
            while self._tokens:
                await self._refreshed_by(self._tokens[0])
                self._tokens = self._tokens[1:]
        except Exception as error:  # noqa: BLE001 - as in data_received
            self.fail(error)
        finally:
            self._tokens, self._refreshing = (), None

    async def _refreshed_by(self, token: str) -> None:
        held = self.principal
        try:
            self.principal = await refresh.judge(self._home.verifier, token, held=held)
        except PacketError as problem:
            self._refuse(problem)
            return
        if self.principal is not held:
            self._proved_at = monotonic()
            self._look_again()
            if (self.principal.name, self.principal.nick) != (held.name, held.nick):
                self._home.renamed(self)
        self.reply(replies.auth_refreshed(self.member.dialect, self.principal.expires_at))

    def _retires_at(self, now: float) -> float:
        """When this connection ends for want of a newer token; `inf`: never."""
        limits = self._home.limits
        at = self._proved_at + limits.max_connection_seconds if limits.max_connection_seconds else inf
        if limits.close_on_token_expiry and self.principal.expires_at is not None:
            expires_at = now + self.principal.expires_at - self._home.clock()
            if expires_at <= self._proved_at:  # it came within the leeway
                expires_at += limits.token_leeway_seconds
            at = min(at, expires_at)
        return at

    # Deadlines

    def on_time(self, now: float) -> float | None:
        if self.disconnect is not None:
            self._transport.abort()  # `CLOSE_SECONDS` are over
            return None
        limits = self._home.limits
        if now >= self._retires_at(now):
            expired = limits.close_on_token_expiry and self._token_expired()
            self.end(errors.TOKEN_EXPIRED if expired else errors.TOKEN_TOO_OLD)
            return None
        if self._heard_at >= self._pinged_at:
            self._awaits_pong = False  # any byte will do
        if self._awaits_pong:
            if limits.pong_timeout_seconds and now >= self._pinged_at + limits.pong_timeout_seconds:
                self.end(errors.NO_PONG if self._transport.is_reading() else errors.SLOW_CONSUMER)
                return None
        elif limits.heartbeat_seconds and now >= self._pinged_at + limits.heartbeat_seconds:
            self._pinged_at, self._awaits_pong = now, True
            self._transport.write(_PING)
        return self._next_look(now)

    def _token_expired(self) -> bool:
        expires_at = self.principal.expires_at
        return expires_at is not None and self._home.clock() >= expires_at

    def _next_look(self, now: float) -> float:
        limits = self._home.limits
        at = min(self._retires_at(now), now + IDLE_LOOK_SECONDS)
        if self._awaits_pong:
            if limits.pong_timeout_seconds:
                at = min(at, self._pinged_at + limits.pong_timeout_seconds)
            return min(at, now + limits.heartbeat_seconds)  # the pong may come much sooner than it has to
        return min(at, self._pinged_at + limits.heartbeat_seconds) if limits.heartbeat_seconds else at

    def _look_again(self) -> None:
        if self.disconnect is None:
            now = monotonic()
            self._home.wheel.set(self, self._next_look(now))

    # The end

    def cut(self, disconnect: Disconnect) -> None:
        """End it without a word."""
        if self.disconnect is None:
            self._leave(disconnect)
        self._transport.abort()

    def drain(self, *, reconnect_after_ms: int) -> None:
        """Ask the client to come back elsewhere, and close."""
        self.send(replies.reconnect(self.member.dialect, after_ms=reconnect_after_ms))
        self.end(errors.DRAINING)

    def refuse_and_end(self, problem: PacketError, disconnect: Disconnect) -> None:
        """Say why in an `error` packet, and close."""
        self.send(replies.error(self.member.dialect, problem))
        self.end(disconnect)

    def end(self, disconnect: Disconnect) -> None:
        """Leave the room at once, send the close, and cut the connection if the peer does not answer in time."""
        if self.disconnect is not None:
            return
        disconnect = self._leave(disconnect)
        try:
            ws = self._ws or self._open_library()
            if ws.state is State.OPEN:
                ws.send_close(disconnect.code, disconnect.reason)
            self._send_by_library(ws)
            self._transport.resume_reading()  # the peer's close has to be seen
        except Exception as error:  # noqa: BLE001 - as in data_received
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """A bug of ours ends this connection, and no other."""
        self._home.report_bug(self, error)
        if self.disconnect is None:
            self.end(errors.INTERNAL_ERROR)
        else:
            self._transport.abort()  # it failed at closing: nothing more can be said

    def _leave(self, disconnect: Disconnect) -> Disconnect:
        """Out of the room, with `CLOSE_SECONDS` left to live. Returns why it ends: a bug on the way is a new reason."""
        self.disconnect, self.fd = disconnect, NO_FD
        self._fragments = None
        try:
            self._home.wheel.set(self, monotonic() + CLOSE_SECONDS)
            self._home.leave(self)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._home.report_bug(self, error)
            self.disconnect = errors.INTERNAL_ERROR
        return self.disconnect

    def on_close(self, close: Close, *, by_client: bool) -> None:
        self.closed_by_client = by_client
        come_back = errors.ComeBack.NO if by_client else errors.ComeBack.AFTER_FIXING
        self._leave(Disconnect(close.code, close.reason, come_back))

    def eof_received(self) -> bool:
        self._note_loss()  # though the transport, which closes itself now, waits for what the peer does not read
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        try:
            self._note_loss()
            if self._refreshing is not None:
                self._refreshing.cancel()
            self._home.wheel.remove(self)
            self._home.backlog.forget(self)
        finally:
            self._home.lost(self)  # whatever went wrong before: it does not count any more

    def _note_loss(self) -> None:
        """The peer is gone without a close."""
        if self.disconnect is None:
            self.closed_by_client = True
            self._leave(Disconnect(1006, "connection lost", errors.ComeBack.WITH_BACKOFF))
