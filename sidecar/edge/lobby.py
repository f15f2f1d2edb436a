"""Sockets that are not upgraded yet: as many as there are file descriptors to spare for them, and no more."""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Callable

from sanic.server.protocols.http_protocol import HttpProtocol

FILES_AT_MOST = 1 << 20
"""What "unlimited" is taken for."""
FILES_OF_OUR_OWN = 64
"""Left to all that is neither upgraded nor about to be: listeners, gRPC, the bus, files read anew."""
BACKLOG = 4096
WAITING = 2 * BACKLOG
"""Sockets that may wait beside all that may be upgraded: a backlog is accepted in one turn of the loop, unread."""
WAITING_AT_LEAST = BACKLOG_AT_LEAST = 64
OPS_PLACES = 32


def raise_open_file_limit() -> int:
    """Allow this process as many open files as it may allow itself; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_AT_MOST if hard == resource.RLIM_INFINITY else min(hard, FILES_AT_MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def places(*, open_files: int, max_connections: int) -> tuple[int, int]:
    """How many sockets there may be, upgraded or not, and how many more in the kernel to be accepted.

    All of them fit into the open files as long as `max_connections` leaves some; without a limit on connections (0) the
    open files alone count.
    """
    spare = open_files - FILES_OF_OUR_OWN - max_connections
    backlog = min(BACKLOG, max(BACKLOG_AT_LEAST, spare // 2))
    fitting = open_files - FILES_OF_OUR_OWN - backlog
    wanted = max_connections + WAITING if max_connections else fitting
    return max(max_connections + WAITING_AT_LEAST, min(wanted, fitting)), backlog


class Lobby:
    """The set in which Sanic keeps the connections of a listener until they are upgraded, with an order and a bound.

    Whoever comes when there is no place left takes that of the one that has been here longest without a request, or
    without reading the answers; where all others are being answered, there is none for them. Those upgraded take places
    too, and keep them.
    """

    def __init__(self, *, places: int, upgraded: Callable[[], int], on_full: Callable[[], None]) -> None:
        self._places = places
        self._upgraded = upgraded
        self._on_full = on_full
        self._here: OrderedDict[HttpProtocol, None] = OrderedDict()  # those looked at in vain stand last

    def add(self, connection: HttpProtocol) -> None:
        self._here[connection] = None

    def discard(self, connection: HttpProtocol) -> None:
        self._here.pop(connection, None)

    def make_room(self) -> None:
        """Cut one connection if there are too many."""
        if len(self._here) + self._upgraded() <= self._places:
            return
        self._on_full()
        for _ in range(len(self._here)):
            longest = next(iter(self._here))
            # Sanic's: `http` is false until the head of a request is complete, `_can_write` set while answers are read.
            if not longest.http or not longest._can_write.is_set():  # noqa: SLF001
                break
            self._here.move_to_end(longest)
        self.discard(longest)
        if longest.transport is not None:
            longest.transport.abort()
