"""A WebSocket after its upgrade: bytes in, frames out, deadlines, backpressure, close.

Framing and closing are the `websockets` library's (RFC 6455). Before it stands one short path for the usual case, a
whole text frame in one piece: the library's parser is made for whatever else comes, and dropped at the frame boundary,
because at rest it would be most of a connection's memory.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable
from math import inf
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING

from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask

from sidecar import errors
from sidecar.auth.verifier import Principal, Use
from sidecar.errors import Disconnect, Refusal, RefusalCode
from sidecar.signaling import replies
from sidecar.signaling.packets import AuthRefresh, PacketError, PacketErrorCode, Ping, Signal, decode
from sidecar.signaling.room import Member, Participant

if TYPE_CHECKING:
    from sidecar.transport.connections import Connections

CLOSE_SECONDS = 5.0
"""How long a peer has to answer a close, or to read again for it to be sent; then it is cut."""
MALFORMED_ALLOWED = 20
MALFORMED_WINDOW_SECONDS = 60.0
FLOOD_MESSAGES = 200
FLOOD_PAUSE_SECONDS = 1.0
IDLE_LOOK_SECONDS = 20.0
FRAMES_AT_A_TIME = 256
"""Read of one connection before the others have their turn: one read can hold 40,000 frames of a flood."""

_FINAL_TEXT = 0x81
_MASKED = 0x80
_HEADER_AND_MASK = 8  # of a frame with a 16-bit size
_SIZE_FOLLOWS = _MASKED | 126
_first_bytes = Struct("!BBH").unpack_from
_CLOSE = 0x88
_PING = b"\x89\x00"

_REFRESH_ERRORS = {
    RefusalCode.TOKEN_EXPIRED: PacketErrorCode.TOKEN_EXPIRED,
    RefusalCode.TOKEN_REVOKED: PacketErrorCode.TOKEN_REVOKED,
}


def frame_header(data: bytes, start: int) -> tuple[int, int]:
    """Where the payload of the frame at `start` begins and ends (RFC 6455 5.2); (0, 0): its header is not whole."""
    available = len(data) - start
    if available < 2:  # noqa: PLR2004
        return 0, 0
    masked = data[start + 1] & _MASKED
    size = data[start + 1] & 0x7F
    header = 2
    if size >= 126:  # noqa: PLR2004
        extended = 2 if size == 126 else 8  # noqa: PLR2004
        header += extended
        if available < header:
            return 0, 0
        size = int.from_bytes(data[start + 2 : start + header])
    if masked:
        header += 4
    return start + header, start + header + size


def _age(principal: Principal) -> tuple[float, float]:
    """Greater for a newer token: issued later, or in the same second for longer."""
    return principal.issued_at or 0.0, inf if principal.expires_at is None else principal.expires_at


class Connection(asyncio.Protocol):
    """One upgraded connection, from its first packet to its last byte. It is its member's outlet."""

    __slots__ = (
        "_allowance",
        "_close_at",
        "_congested",
        "_fragments",
        "_fragments_are_text",
        "_heard_at",
        "_home",
        "_limited",
        "_limited_at",
        "_malformed",
        "_needed",
        "_partial",
        "_ping_at",
        "_pinged_at",
        "_rate_at",
        "_refreshing",
        "_retire_at",
        "_transport",
        "_ws",
        "address",
        "bytes_in",
        "bytes_out",
        "closed_by_client",
        "disconnect",
        "member",
        "opened_at",
        "packets_in",
        "packets_out",
        "principal",
        "request_id",
        "trace_id",
        "wheel_slot",
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
        self._home = home
        self.principal = principal
        self.address = address
        self.trace_id = trace_id
        self.request_id = request_id
        """As the client or a proxy named the handshake."""
        self.wheel_slot = -1
        self.disconnect: Disconnect | None = None
        """Why it ends or ended; None while it is open."""
        self.closed_by_client = False
        self.opened_at = self._heard_at = monotonic()
        self.packets_in = self.packets_out = self.bytes_in = self.bytes_out = 0
        self._transport: asyncio.Transport
        self._ws: ServerProtocol | None = None
        self._partial: bytearray | None = None  # the beginning of a frame, until `_needed` bytes are there
        self._needed = 0
        self._fragments: bytearray | None = None  # of a message under way, as far as it has come
        self._fragments_are_text = False
        self._congested = False  # the kernel took no more: unsent bytes are with us
        self._allowance = 0  # the first packet's bytes, not counted against the send buffer while unsent
        self._rate_at = 0.0  # GCRA's theoretical arrival time of the next message
        self._limited = 0  # messages since RATE_LIMITED without a pause; 0: not limited
        self._limited_at = 0.0
        self._malformed: deque[float] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._pinged_at = 0.0  # an unanswered ping; 0: none
        self._ping_at = self._retire_at = self._close_at = 0.0  # deadlines; 0: none

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
            self._schedule_retirement()
            heartbeat = self._home.limits.heartbeat_seconds
            if heartbeat:
                self._ping_at = monotonic() + random.random() * heartbeat  # noqa: S311 - spreads load, hides nothing
            self._look_again()
            begin += self._home.welcome(self, others)
        except Exception as error:  # noqa: BLE001 - as in data_received
            transport.write(head)
            self.fail(error)
        self._allowance = len(begin)
        self.write(begin, 1)
        if not self._congested:
            self._allowance = 0
        transport.resume_reading()
        if received:
            self.data_received(received)

    # Bytes in

    def data_received(self, data: bytes) -> None:
        try:
            self._heard_at = monotonic()
            if self._partial is not None:
                self._partial += data
                if len(self._partial) < self._needed:
                    return
                data, self._partial = bytes(self._partial), None
            if not self._read_usual(data):
                self._read(data)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends this connection and no other
            self.fail(error)

    def _read_usual(self, data: bytes) -> bool:
        """Read what most reads are: one whole text frame with a 16-bit size. False: it is something else."""
        if len(data) <= _HEADER_AND_MASK or self._ws is not None:
            return False
        first, second, size = _first_bytes(data)
        if first != _FINAL_TEXT or second != _SIZE_FOLLOWS or len(data) != _HEADER_AND_MASK + size:
            return False
        limit = self._home.limits.max_message_bytes
        if limit and size > limit:
            return False
        self._on_message(apply_mask(data[_HEADER_AND_MASK:], data[4:_HEADER_AND_MASK]), text=True)
        return True

    def _read(self, data: bytes) -> None:
        ws = self._ws
        if ws is not None and (ws.close_rcvd is not None or ws.parser_exc is not None):
            return  # it said good-bye, or broke the protocol: nothing that follows counts
        start, size = 0, len(data)
        limit = self._home.limits.max_message_bytes
        for _ in range(FRAMES_AT_A_TIME):
            if start == size:
                return
            payload, end = frame_header(data, start)
            if limit and end - payload > limit:
                self._read_by_library(data[start:])  # which refuses it, however much more is to come
                return
            if not payload or end > size:
                if payload and limit and len(self._fragments or b"") + end - payload > limit:
                    self._read_by_library(data[start:])  # the message will be too big: as above
                    return
                self._partial = bytearray(data[start:])
                self._needed = end - start if payload else len(self._partial) + 1
                return
            if data[start] == _FINAL_TEXT and data[start + 1] & _MASKED and self._ws is None:
                self._on_message(apply_mask(data[payload:end], data[payload - 4 : payload]), text=True)
            elif self.disconnect is None or data[start] == _CLOSE:
                self._read_by_library(data[start:end])  # while closing, only the peer's close still matters
            start = end
        if start < size:
            self._partial, self._needed = bytearray(data[start:]), 0
            self._transport.pause_reading()
            self._home.soon(self._read_on)

    def _read_on(self) -> None:
        """The others had their turn, or the peer reads its answers again: what was left of a long read."""
        if self._transport.is_closing() or (self._congested and self.disconnect is None):
            return  # `resume_writing` reads on
        self._transport.resume_reading()
        if self._partial is not None:
            self.data_received(b"")

    def _read_by_library(self, frame: bytes) -> None:
        if frame[0] == _CLOSE and self._fragments is not None:
            self._ws = self._fragments = None  # one may leave amid a message; the library calls that an error
        ws = self._ws or self._open_library()
        ws.receive_data(frame)
        for event in ws.events_received():
            if isinstance(event, Frame) and self.disconnect is None:
                self._on_frame(event)
        if ws.state is not State.OPEN:
            self._note_closing(ws)
        self._send_by_library(ws)
        if ws.state is State.OPEN and self._fragments is None:
            self._ws = None

    def _open_library(self) -> ServerProtocol:
        limit = self._home.limits.max_message_bytes or None
        self._ws = ServerProtocol(state=State.OPEN, max_size=limit, logger=self._home.quiet_logger)
        return self._ws

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG and self._pinged_at:
            self._home.observer.heartbeat(self._heard_at - self._pinged_at)
            self._pinged_at = 0.0
        elif frame.opcode in {Opcode.PING, Opcode.PONG}:  # nobody sends these but to keep us busy
            self._within_rate()
        elif frame.opcode in {Opcode.TEXT, Opcode.BINARY}:
            if frame.fin:
                self._on_message(bytes(frame.data), text=frame.opcode is Opcode.TEXT)
            else:
                self._fragments = bytearray(frame.data)
                self._fragments_are_text = frame.opcode is Opcode.TEXT
        elif frame.opcode is Opcode.CONT and self._fragments is not None:
            self._fragments += frame.data
            if frame.fin:
                message, self._fragments = bytes(self._fragments), None
                self._on_message(message, text=self._fragments_are_text)
            elif not frame.data:
                self._within_rate()  # the size of a message does not bound how many of these it may have

    def _on_message(self, payload: bytes, *, text: bool) -> None:
        if self.disconnect is not None:
            return
        self.packets_in += 1
        self.bytes_in += len(payload)
        if not self._within_rate():
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
                self.member.room.post(self.member, packet, size=len(payload), received_at=self._heard_at)
            elif isinstance(packet, Ping):
                self._reply(replies.pong(packet.data))
            else:
                self._refresh(packet)
        except PacketError as problem:
            if problem.code is PacketErrorCode.TARGET_NOT_IN_ROOM:
                self._home.observer.dropped("target_not_in_room")
                self._reply(replies.error(self.member.dialect, problem))
            else:
                self._refuse_malformed(problem)

    # Limits

    def _within_rate(self) -> bool:
        """Whether this message is within the rate; else it is dropped, and going on regardless ends the connection."""
        limits = self._home.limits
        if not limits.message_interval_seconds:
            return True
        now = self._heard_at
        if self._limited:
            if now - self._limited_at >= FLOOD_PAUSE_SECONDS:
                self._limited = 0
            else:
                self._limited += 1
                self._limited_at = now
                if self._limited > FLOOD_MESSAGES:
                    self._home.observer.dropped("rate_limited")
                    self.end(errors.MESSAGE_FLOOD)
                    return False
        at = max(now, self._rate_at)
        if at - now > limits.message_burst_seconds:
            self._limited = self._limited or 1
            self._limited_at = now
            self._home.observer.dropped("rate_limited")
            problem = PacketError(
                PacketErrorCode.RATE_LIMITED, "too many messages: what comes too fast is dropped"
            )
            self._reply(replies.error(self.member.dialect, problem))
            return False
        self._rate_at = at + limits.message_interval_seconds
        return True

    def _refuse_malformed(self, problem: PacketError) -> None:
        self._home.observer.dropped("malformed")
        self._reply(replies.error(self.member.dialect, problem))
        if self._malformed is None:
            self._malformed = deque(maxlen=MALFORMED_ALLOWED)
        self._malformed.append(self._heard_at)
        if (
            len(self._malformed) == MALFORMED_ALLOWED
            and self._heard_at - self._malformed[0] <= MALFORMED_WINDOW_SECONDS
        ):
            self.end(errors.TOO_MANY_MALFORMED)

    # Tokens

    def _refresh(self, packet: AuthRefresh) -> None:
        if self._refreshing is not None:
            raise PacketError(
                PacketErrorCode.INVALID_MESSAGE, "the auth.refresh before this one is not answered yet"
            )
        self._refreshing = self._home.spawn(self._refreshed_by(packet.token))

    async def _refreshed_by(self, token: str) -> None:
        try:
            principal = await self._home.verifier.verify(token, bot=self.principal.use is Use.API_KEY)
            if principal.account_id != self.principal.account_id:
                raise PacketError(
                    PacketErrorCode.TOKEN_OF_ANOTHER_ACCOUNT,
                    "the token belongs to another account than this connection",
                )
            if _age(principal) > _age(self.principal):  # one that is not newer proves nothing new
                self.principal = principal
                self._schedule_retirement()
                self._look_again()
            self._reply(replies.auth_refreshed(self.member.dialect, self.principal.expires_at))
        except Refusal as refusal:
            code = _REFRESH_ERRORS.get(refusal.code, PacketErrorCode.TOKEN_INVALID)
            self._reply(replies.error(self.member.dialect, PacketError(code, refusal.message)))
        except PacketError as problem:
            self._reply(replies.error(self.member.dialect, problem))
        except Exception as error:  # noqa: BLE001 - as in data_received
            self.fail(error)
        finally:
            self._refreshing = None

    def _schedule_retirement(self) -> None:
        """When this connection ends for want of a newer token; 0: never."""
        limits = self._home.limits
        now = monotonic()
        ends = []
        if limits.max_connection_seconds:
            ends.append(now + limits.max_connection_seconds)
        if limits.close_on_token_expiry and self.principal.expires_at is not None:
            left = self.principal.expires_at - self._home.clock()
            ends.append(now + (left if left > 0 else max(left + limits.token_leeway_seconds, 0)))
        self._retire_at = min(ends, default=0.0)

    # Deadlines

    def on_time(self, now: float) -> float | None:
        if self.disconnect is not None:
            if now >= self._close_at:
                self._transport.abort()
                return None
            return self._close_at
        limits = self._home.limits
        if self._retire_at and now >= self._retire_at:
            expired = limits.close_on_token_expiry and self._token_expired()
            self.end(errors.TOKEN_EXPIRED if expired else errors.TOKEN_TOO_OLD)
            return self._close_at
        if self._pinged_at and self._heard_at >= self._pinged_at:
            self._pinged_at = 0.0  # any byte will do
        if (
            self._pinged_at
            and limits.pong_timeout_seconds
            and now >= self._pinged_at + limits.pong_timeout_seconds
        ):
            self.end(errors.NO_PONG if self._transport.is_reading() else errors.SLOW_CONSUMER)
            return self._close_at
        if self._ping_at and now >= self._ping_at:
            self._ping_at = now + limits.heartbeat_seconds
            if not self._pinged_at:
                self._pinged_at = now
                self._transport.write(_PING)
        return self._next_look(now)

    def _token_expired(self) -> bool:
        expires_at = self.principal.expires_at
        return expires_at is not None and self._home.clock() >= expires_at

    def _next_look(self, now: float) -> float:
        timeout = self._home.limits.pong_timeout_seconds
        pong_by = self._pinged_at + timeout if self._pinged_at and timeout else 0.0
        return min(at for at in (self._ping_at, pong_by, self._retire_at, now + IDLE_LOOK_SECONDS) if at)

    def _look_again(self) -> None:
        if self.disconnect is None:
            self._home.wheel.set(self, self._next_look(monotonic()))

    # Bytes out

    def write(self, frames: bytes, packets: int) -> None:
        if self.disconnect is not None or self._transport.is_closing():
            return
        try:
            self.packets_out += packets
            self.bytes_out += len(frames)
            self._transport.write(frames)
            if self._congested:
                self._bound_backlog()
        except Exception as error:  # noqa: BLE001 - as in data_received; the others in the room get theirs
            self.fail(error)

    def _reply(self, frame: bytes) -> None:
        """Answer the sender itself: the one thing that a peer who sends and never reads could pile up."""
        self.write(frame, 1)
        self._hold_a_flood()

    def _hold_a_flood(self) -> None:
        if self._congested and self.disconnect is None:
            self._transport.pause_reading()
            self._bound_backlog()

    def _bound_backlog(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        limit = self._home.limits.send_buffer_bytes
        if limit and unsent > limit + self._allowance:
            self._home.observer.dropped("slow_consumer")
            self.end(errors.SLOW_CONSUMER)
        self._home.backlog.update(self, unsent)

    def pause_writing(self) -> None:
        self._congested = True
        if self.disconnect is None:
            try:
                self._bound_backlog()
            except Exception as error:  # noqa: BLE001 - as in data_received
                self.fail(error)

    def resume_writing(self) -> None:
        self._congested = False
        self._allowance = 0
        self._home.backlog.forget(self)
        if self.disconnect is None:
            self._read_on()

    def give_up(self) -> None:
        """The process holds too many unsent bytes, most of them for this peer: cut it at once."""
        if self.disconnect is None:
            self._home.observer.dropped("slow_consumer")
        self.cut(errors.SLOW_CONSUMER)

    def cut(self, disconnect: Disconnect) -> None:
        """End it without a word."""
        if self.disconnect is None:
            self._leave(disconnect)
        self._transport.abort()

    # The end

    def drain(self, *, reconnect_after_ms: int) -> None:
        """Ask the client to come back elsewhere, and close."""
        self.write(replies.reconnect(self.member.dialect, after_ms=reconnect_after_ms), 1)
        self.end(errors.DRAINING)

    def refuse_and_end(self, problem: PacketError, disconnect: Disconnect) -> None:
        """Say why in an `error` packet, and close."""
        self.write(replies.error(self.member.dialect, problem), 1)
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
        self.disconnect = disconnect
        self._fragments = None
        self._close_at = monotonic() + CLOSE_SECONDS
        try:
            self._home.wheel.set(self, self._close_at)
            self._home.leave(self)
        except Exception as error:  # noqa: BLE001 - as in data_received
            self._home.report_bug(self, error)
            self.disconnect = errors.INTERNAL_ERROR
        return self.disconnect

    def _note_closing(self, ws: ServerProtocol) -> None:
        """The library began to close: the client asked for it, or broke the protocol."""
        if self.disconnect is not None:
            return
        if ws.close_rcvd is not None and ws.parser_exc is None:
            self.closed_by_client = True
            self._leave(Disconnect(ws.close_rcvd.code, ws.close_rcvd.reason, errors.ComeBack.NO))
        elif ws.close_sent is not None:
            self._leave(Disconnect(ws.close_sent.code, ws.close_sent.reason, errors.ComeBack.AFTER_FIXING))

    def _send_by_library(self, ws: ServerProtocol) -> None:
        for chunk in ws.data_to_send():
            if chunk:
                self._transport.write(chunk)
                self._hold_a_flood()
            elif not self._transport.is_closing():
                self._transport.write_eof()  # the peer has CLOSE_SECONDS to read the rest and close its side

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
