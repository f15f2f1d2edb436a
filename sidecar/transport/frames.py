"""Bytes into messages: the WebSocket's framing (RFC 6455 5) and its closing handshake.

Both are the `websockets` library's. Before it stand short paths for the usual cases, whole text frames and pongs: the
library's parser is made for whatever else comes, and dropped at the frame boundary, because at rest it would be most
of a connection's memory.
"""

from __future__ import annotations

from abc import abstractmethod
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING

from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask

from sidecar.transport.outflow import FrameWriter

if TYPE_CHECKING:
    from sidecar.transport.connections import Connections

FRAMES_AT_A_TIME = 256
"""Read of one connection before the others have their turn: one read can hold 40,000 frames of a flood."""

PIECES_A_MESSAGE = 64
"""Pieces of one message that count as a message of their own: reading them is as much work."""

_FINAL_TEXT = 0x81
_CLOSE = 0x88
_PONG = 0x8A
_CONTROL = 0x08
_MASKED = 0x80
_HEADER_AND_MASK = 8  # of a frame with a 16-bit size
_USUAL = _FINAL_TEXT << 8 | _MASKED | 126
_MASKED_SMALL = range(_MASKED, _MASKED | 126)  # a masked frame's second byte where its size is in it
_first_bytes = Struct("!HH").unpack_from


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


class _Fragments:
    """A message under way, as far as it has come."""

    __slots__ = ("payload", "pieces", "text")

    def __init__(self, payload: bytearray, *, text: bool) -> None:
        self.payload = payload
        self.text = text
        self.pieces = 1


class FrameReader(FrameWriter):
    """Reads a peer's frames and calls `on_message` for each whole message, in the order sent.

    A base class, and not a part, of `Connection`: one object less for each of thousands.
    """

    __slots__ = (
        "_fragments",
        "_heard_at",
        "_needed",
        "_partial",
        "_ws",
    )

    def __init__(self, *, home: Connections) -> None:
        super().__init__(home=home)
        self._heard_at = monotonic()
        self._ws: ServerProtocol | None = None
        self._partial: bytearray | None = None  # the beginning of a frame, until `_needed` bytes are there
        self._needed = 0
        self._fragments: _Fragments | None = None

    # What a connection does with what was read

    @abstractmethod
    def on_message(self, payload: bytes, *, text: bool, last: bool = False) -> None:
        """A whole message came. If `text`, it need not be UTF-8 yet; if `last`, nothing else was read after it."""

    @abstractmethod
    def on_control(self, opcode: Opcode) -> None:
        """A ping, a pong, an empty piece of a message or many small ones came: what no size of a message bounds."""

    @abstractmethod
    def on_close(self, close: Close, *, by_client: bool) -> None:
        """The peer closes, or broke the protocol: `close` is its, or ours to it."""

    # Bytes in

    def data_received(self, data: bytes) -> None:
        try:
            self._heard_at = monotonic()
            if self._partial is not None:
                self._partial += data
                if len(self._partial) < self._needed:
                    return
                data, self._partial = bytes(self._partial), None
            self._read(data)
        except Exception as error:  # noqa: BLE001 - a bug of ours ends this connection and no other
            self.fail(error)

    def _read(self, data: bytes) -> None:
        """Read any number of frames, whole or not. Most are whole text frames with a 16-bit size."""
        ws = self._ws
        if ws is not None and (ws.close_rcvd is not None or ws.parser_exc is not None):
            return  # it said good-bye, or broke the protocol: nothing that follows counts
        start, size = 0, len(data)
        limit = self._home.limits.max_message_bytes
        frames = 0
        while frames < FRAMES_AT_A_TIME:
            frames += 1
            payload = start + _HEADER_AND_MASK
            if payload < size and self._ws is None:
                head, length = _first_bytes(data, start)
                end = payload + length
                if head == _USUAL and end <= size and (not limit or length <= limit):
                    last = end == size
                    self.on_message(
                        apply_mask(data[payload:end], data[payload - 4 : payload]), text=True, last=last
                    )
                    if last:
                        return
                    start = end
                    continue
            start = self._read_frame(data, start)
            if start == size:
                return
        self._partial, self._needed = bytearray(data[start:]), 0
        self._transport.pause_reading()
        self._home.soon(self._read_on)

    def _read_frame(self, data: bytes, start: int) -> int:
        """Read one frame, whole or not. Returns where the next begins."""
        size = len(data)
        limit = self._home.limits.max_message_bytes
        payload, end = frame_header(data, start)
        if limit and end - payload > limit:
            self._read_by_library(data[start:])  # which refuses it, however much more is to come
            return size
        if not payload or end > size:
            before = len(self._fragments.payload) if self._fragments else 0
            if payload and limit and not data[start] & _CONTROL and before + end - payload > limit:
                self._read_by_library(data[start:])  # the message will be too big: as above
            else:
                self._partial = bytearray(data[start:])
                self._needed = end - start if payload else len(self._partial) + 1
            return size
        if data[start] == _FINAL_TEXT and data[start + 1] & _MASKED and self._ws is None:
            message = apply_mask(data[payload:end], data[payload - 4 : payload])
            self.on_message(message, text=True, last=end == size)
        elif self.disconnect is not None and data[start] != _CLOSE:
            pass  # while closing, only the peer's close still matters
        elif data[start] == _PONG and data[start + 1] in _MASKED_SMALL and self._ws is None:
            self.on_control(Opcode.PONG)
        else:
            self._read_by_library(data[start:end])
        return end

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.disconnect is None:
            self._read_on()

    def _read_on(self) -> None:
        """The others had their turn, or the peer reads its answers again: what was left of a long read."""
        if self._transport.is_closing() or (self._congested and self.disconnect is None):
            return  # read on once the peer reads
        self._transport.resume_reading()
        if self._partial is not None:
            self.data_received(b"")

    # By the library

    def _read_by_library(self, frame: bytes) -> None:
        if frame[0] == _CLOSE and self._fragments is not None:
            self._ws = self._fragments = None  # one may leave amid a message; the library calls that an error
        ws = self._ws or self._open_library()
        ws.receive_data(frame)
        for event in ws.events_received():
            if isinstance(event, Frame) and self.disconnect is None:
                self._on_frame(event)
        if ws.state is not State.OPEN and self.disconnect is None:
            self._note_closing(ws)
        self._send_by_library(ws)
        if ws.state is State.OPEN and self._fragments is None:
            self._ws = None

    def _open_library(self) -> ServerProtocol:
        limit = self._home.limits.max_message_bytes or None
        self._ws = ServerProtocol(state=State.OPEN, max_size=limit, logger=self._home.quiet_logger)
        return self._ws

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode in {Opcode.PING, Opcode.PONG}:
            self.on_control(frame.opcode)
        elif frame.opcode in {Opcode.TEXT, Opcode.BINARY}:
            if frame.fin:
                self.on_message(bytes(frame.data), text=frame.opcode is Opcode.TEXT)
            else:
                self._fragments = _Fragments(bytearray(frame.data), text=frame.opcode is Opcode.TEXT)
        elif frame.opcode is Opcode.CONT and self._fragments is not None:
            message = self._fragments
            message.payload.extend(frame.data)
            if frame.fin:
                self._fragments = None
                self.on_message(bytes(message.payload), text=message.text)
            else:
                message.pieces += 1
                if not frame.data or not message.pieces % PIECES_A_MESSAGE:
                    self.on_control(frame.opcode)

    def _note_closing(self, ws: ServerProtocol) -> None:
        if ws.close_rcvd is not None and ws.parser_exc is None:
            self.on_close(ws.close_rcvd, by_client=True)
        elif ws.close_sent is not None:
            self.on_close(ws.close_sent, by_client=False)

    def _send_by_library(self, ws: ServerProtocol) -> None:
        for data in ws.data_to_send():
            if data:
                self.answer(data)
            elif not self._transport.is_closing():
                self._transport.write_eof()  # the peer has a while to read the rest and close its side
