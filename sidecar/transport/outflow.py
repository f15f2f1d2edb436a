"""Bytes out: how much may wait for a peer that reads slowly, and for one that sends and does not read."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING

from sidecar import errors
from sidecar.errors import Disconnect
from sidecar.signaling.outlet import NO_FD, Outlet

if TYPE_CHECKING:
    from sidecar.transport.connections import Connections


class FrameWriter(Outlet, asyncio.Protocol):
    """Writes whole frames to a peer and never waits: what the kernel does not take is kept, within a bound.

    Rooms write to its socket while that takes at once what it gets, and to this object while unsent bytes pile up, or
    always where `Connections` has it so.
    """

    __slots__ = ("_allowance", "_congested", "_home", "_transport", "disconnect")

    def __init__(self, *, home: Connections) -> None:
        super().__init__()
        self._home = home
        self._transport: asyncio.Transport
        self._congested = False  # the kernel took no more: unsent bytes are with us
        self._allowance = 0  # the first packet's bytes, not counted against the send buffer while unsent
        self.disconnect: Disconnect | None = None
        """Why it ends or ended; None while it is open."""

    @abstractmethod
    def end(self, disconnect: Disconnect) -> None:
        """Leave the room at once, send the close, and cut the connection if the peer does not answer in time."""

    @abstractmethod
    def cut(self, disconnect: Disconnect) -> None:
        """End it without a word."""

    def write(self, data: bytes | memoryview) -> None:
        if self.disconnect is None:
            self._transport.write(data)
            if self._congested:
                self._bound_backlog()

    def send(self, packet: bytes) -> None:
        """Send the frame of a packet; nothing once the connection ends."""
        try:
            self.write(packet)  # to a transport that is closed: nothing, and we are about to be told
            self.packets_out += 1
        except Exception as error:  # noqa: BLE001 - a bug of ours ends this connection and no other
            self.fail(error)

    def reply(self, frame: bytes) -> None:
        """Answer the sender itself: the one thing that a peer who sends and never reads could pile up."""
        self.send(frame)
        self._hold_a_flood()

    def answer(self, data: bytes) -> None:
        """As `reply`, with what the protocol demands: a pong or a close."""
        self._transport.write(data)
        self._hold_a_flood()

    def pause_writing(self) -> None:
        self._congested = True
        if self.disconnect is None:
            self.fd = NO_FD
            try:
                self._bound_backlog()
            except Exception as error:  # noqa: BLE001 - as in send
                self.fail(error)

    def resume_writing(self) -> None:
        self._flow()
        self._home.backlog.forget(self)

    def _flow(self) -> None:
        """Nothing is unsent: rooms may write to the socket, which the transport closes after `connection_lost`."""
        self._congested = False
        self._allowance = 0
        if self.disconnect is None and self._home.rooms_write_to_sockets:
            self.fd = self._transport.get_extra_info("socket").fileno()

    def give_up(self) -> None:
        """The process holds too many unsent bytes, most of them for this peer: cut it at once."""
        if self.disconnect is None:
            self._home.observer.dropped("slow_consumer")
        self.cut(errors.SLOW_CONSUMER)

    def _hold_a_flood(self) -> None:
        if self._congested and self.disconnect is None:
            self._transport.pause_reading()
            self._bound_backlog()

    def _bound_backlog(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        limit = self._home.limits.send_buffer_bytes
        if limit and unsent > limit + self._allowance and self.disconnect is None:
            self._home.observer.dropped("slow_consumer")
            self.end(errors.SLOW_CONSUMER)
        self._home.backlog.update(self, unsent)
