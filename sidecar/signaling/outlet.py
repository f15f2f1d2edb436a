"""Where the packets for a member go, and how what many get is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from os import write
from typing import Final

NO_FD: Final = -1


class Outlet(ABC):
    """Takes the packets for one member.

    A base class for the sake of its slots: they stand at the front of a connection, and are all that a delivery touches
    of its receiver. In one of many rooms each cache line more is a way to memory.
    """

    __slots__ = ("fd", "packets_out")

    def __init__(self) -> None:
        self.fd = NO_FD
        """The peer's socket, on which TCP carries our bytes as they are, while the connection is open and nothing waits
        to be sent; or `NO_FD`. It is that before the socket is closed: its number may be another connection's next."""
        self.packets_out = 0

    @abstractmethod
    def write(self, data: bytes | memoryview) -> None:
        """Send whole frames, or what is left of them, after all that was sent before; never wait."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """End this connection, and no other: a bug of ours kept packets from it."""


def write_to(outlets: Iterable[Outlet], data: bytes, packets: int, *, but: Outlet | None = None) -> None:
    """Write `data`, the frames of so many packets, to each of `outlets` `but` one.

    To the socket itself, where there is one: its transport does the same with far more code, which is seldom in the
    core's caches. What the socket does not take, and where it is broken, is the transport's to deal with; all
    of them keep the same `data`, each from where it stopped.
    """
    size = len(data)
    for outlet in outlets:
        if outlet is not but:
            try:
                fd = outlet.fd
                if fd == NO_FD:
                    outlet.write(data)
                else:
                    try:
                        taken = write(fd, data)
                    except OSError:
                        taken = 0
                    if taken < size:
                        outlet.write(memoryview(data)[taken:])
                outlet.packets_out += packets
            except Exception as error:  # noqa: BLE001 - it ends this receiver and no other
                outlet.fail(error)
