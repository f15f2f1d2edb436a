# A test's liberties.
"""What must hold of any bytes as frames: read as the `websockets` library alone reads them, however they are cut.

An input is a byte that says how the rest is cut into reads, and the rest.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from sidecar.auth.claims import Principal, Use
from sidecar.signaling.envelope import Dialect, Identity
from sidecar.signaling.packets import Signal
from sidecar.signaling.presence import Member
from sidecar.transport.backlog import Backlog
from sidecar.transport.connection import Connection
from sidecar.transport.connections import Limits

MAX_MESSAGE_BYTES = 1000
_LOG = logging.getLogger("fuzz")
_LOG.disabled = True
_LIMITS = Limits(
    max_message_bytes=MAX_MESSAGE_BYTES,
    message_interval_seconds=0,
    message_burst_seconds=0,
    send_buffer_bytes=0,
    heartbeat_seconds=0,
    pong_timeout_seconds=0,
    max_connection_seconds=0,
    close_on_token_expiry=False,
    token_leeway_seconds=0,
)
_PRINCIPAL = Principal(
    account_id="a", use=Use.USER, session_id=None, expires_at=None, issued_at=None, name="", nick=""
)


class _Transport(asyncio.Transport):
    """Takes all, at once, and drops it."""

    _dropping = Path(os.devnull).open("wb", buffering=0)  # noqa: SIM115 - as long as the process

    def __init__(self) -> None:
        super().__init__({"socket": self._dropping})
        self.closed = False

    def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


class _Room:
    """Takes whatever is said."""

    id = "room"

    def post(
        self, member: Member, signal: Signal, *, size: int, received_at: float, last: bool = False
    ) -> None: ...


class _Wheel:
    def set(self, entry: Connection, when: float) -> None: ...
    def remove(self, entry: Connection) -> None: ...


class _Observer:
    def heartbeat(self, seconds: float) -> None: ...
    def dropped(self, reason: str) -> None: ...
    def disconnected(self, code: int, seconds: float) -> None: ...


class _Home:
    """What a connection asks of its process, without a process."""

    limits = _LIMITS
    rooms_write_to_sockets = True
    quiet_logger = _LOG
    observer = _Observer()

    def __init__(self) -> None:
        self.wheel = _Wheel()
        self.backlog = Backlog(limit_bytes=0)
        self.later: deque[Callable[[], None]] = deque()

    def soon(self, work: Callable[[], None]) -> None:
        self.later.append(work)

    def welcome(self, connection: Connection, others: Iterable[object]) -> bytes:
        return b""

    def spawn(self, work):
        work.close()

    def leave(self, connection: Connection) -> None: ...
    def report_bug(self, connection: Connection, error: Exception) -> None:
        raise error


class _Recorder(Connection):
    """Stops before a message is decoded."""

    __slots__ = ("messages",)

    def on_message(self, payload: bytes, *, text: bool, last: bool = False) -> None:
        if self.disconnect is None:
            self.messages.append((text, payload))


def _open(kind: type[Connection]) -> tuple[Connection, _Home]:
    home = _Home()
    connection = kind(home=home, principal=_PRINCIPAL, address="", trace_id="0" * 32)
    identity = Identity(account_id="a", name="", nick="", profile=b"{}", updated_at=None)
    connection.member = Member(
        connection_id="c",
        identity=identity,
        joined_at=0,
        dialect=Dialect.GUIDE,
        room=_Room(),
        outlet=connection,
    )
    if isinstance(connection, _Recorder):
        connection.messages = []
    connection.start(_Transport(), head=b"", others=(), received=b"")
    return connection, home


def _feed(connection: Connection, home: _Home, data: bytes, piece: int) -> None:
    held = MAX_MESSAGE_BYTES + 14 + piece
    for start in range(0, len(data), piece):
        connection.data_received(data[start : start + piece])
        while home.later:
            home.later.popleft()()
        assert len(connection._partial or b"") <= held
        assert connection._fragments is None or len(connection._fragments.payload) <= MAX_MESSAGE_BYTES


def check(data: bytes) -> None:
    if not data:
        return
    piece, data = (data[0] or len(data)), data[1:]
    recorder, home = _open(_Recorder)
    _feed(recorder, home, data, piece)
    messages, code, reason = _by_library_alone(data)
    ours = recorder.disconnect.code if recorder.disconnect else None
    if ours is None and code is not None:
        assert recorder._partial is not None  # the library need not see a frame's end to refuse it
    elif reason != "incomplete fragmented message":  # we let one leave amid a message
        assert ours == code
    assert recorder.messages == messages
    connection, home = _open(Connection)
    _feed(connection, home, data, piece)


def _by_library_alone(data: bytes) -> tuple[list[tuple[bool, bytes]], int | None, str]:
    library = ServerProtocol(state=State.OPEN, max_size=MAX_MESSAGE_BYTES, logger=_LOG)
    library.receive_data(data)
    messages: list[tuple[bool, bytes]] = []
    opcode, parts = Opcode.TEXT, b""
    for event in library.events_received():
        if not isinstance(event, Frame) or event.opcode not in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            continue
        if event.opcode is not Opcode.CONT:
            opcode, parts = event.opcode, b""
        parts += bytes(event.data)
        if event.fin:
            messages.append((opcode is Opcode.TEXT, parts))
    close = library.close_rcvd if library.parser_exc is None else library.close_sent
    return messages, close.code if close else None, close.reason if close else ""
