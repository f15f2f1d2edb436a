"""The path of one message, in this process: real connections and rooms, and sockets that take everything.

What the kernel and the loop do is left out, so that the work is the same at every run: it can be counted in
instructions (`bench/instructions.py`) and in calls (`tests/bench`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Protocol

import structlog

from sidecar.auth.verifier import Principal, Use
from sidecar.bus.local import LocalBus
from sidecar.membership.model import MemberKey, Membership
from sidecar.observe.metrics import Metrics
from sidecar.observe.refusals import Refusals
from sidecar.signaling.envelope import Dialect
from sidecar.signaling.hub import Hub
from sidecar.transport.connection import Connection
from sidecar.transport.connections import Connections, Limits

SDP_LINES = (
    "a=rtpmap:111 opus/48000/2\\r\\na=fmtp:111 minptime=10;useinbandfec=1\\r\\na=rtcp-fb:111 transport-cc\\r\\n"
    "a=candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx\\r\\n"
)
MASK = b"\x12\x34\x56\x78"
PONG = b"\x8a\x80" + MASK
PROFILE = b'{"bio":"Likes long walks and short queues.","picture":"0199c2a4-77aa-7cc2-9d3b-2f8f3d1f7a55","level":12}'


def client_frame(*, size: int = 1024, to: str | None = None) -> bytes:
    """A masked text frame with an offer of `size` bytes of JSON."""
    begin = '{"type":"offer","data":{"type":"offer","sdp":"v=0\\r\\n'
    end = '"}' + (f',"to":"{to}"' if to else "") + "}"
    line = SDP_LINES.replace("\\r\\n", "nn")
    payload = (begin + (line * (size // len(line) + 1))[: size - len(begin) - len(end)] + end).encode()
    masked = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
    return b"\x81" + bytes([0x80 | 126]) + len(payload).to_bytes(2) + MASK + masked


def quiet_log() -> structlog.stdlib.BoundLogger:
    """A log that says nothing and leaves the process's logging as it is."""
    logger = logging.getLogger("bench.quiet")
    logger.setLevel(logging.CRITICAL + 1)
    quiet: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logger, processors=[structlog.stdlib.filter_by_level], wrapper_class=structlog.stdlib.BoundLogger
    )
    return quiet


class _Descriptor(Protocol):
    def fileno(self) -> int: ...


class FreeTransport(asyncio.Transport):
    """Takes everything at once, as a kernel with room does, and drops it; so does its socket."""

    _dropping = Path(os.devnull).open("wb", buffering=0)  # noqa: SIM115 - as long as the process

    def __init__(self, sock: _Descriptor = _dropping) -> None:
        super().__init__({"socket": sock})

    def write(self, data) -> None:
        pass

    def set_protocol(self, protocol) -> None:
        pass

    def set_write_buffer_limits(self, high=None, low=None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class CountingTransport(FreeTransport):
    """One whose socket keeps what was written to it until it is counted."""

    def __init__(self) -> None:
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self._near, self._far = socket.socketpair(socket.AF_UNIX, kind)
        super().__init__(self._near)

    def written(self) -> int:
        """How many writes there were since it was last asked."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while self._far.recv(1):
                count += 1
        return count

    def close(self) -> None:
        self._near.close()
        self._far.close()


class _NobodyAsks:
    """The directory's side of a connection that never ends here."""

    def follow(self, key: MemberKey, membership: Membership) -> None:
        pass

    def unfollow(self, key: MemberKey) -> None:
        pass


class Stage:
    """`rooms` rooms of `size`, everything on as in the shipped program. Make it inside a running loop.

    `quiet`: each message finds its room silent; else much is said there. `counted`: what is written to each is counted.
    """

    def __init__(self, *, size: int, rooms: int = 1, quiet: bool = False, counted: bool = False) -> None:
        self._due: list[Callable[[], None]] = []
        self._collects_until = -inf if quiet else inf
        metrics = Metrics(max_rooms=200, room_label=True, connections_limit=10_000, refusals=Refusals())
        hub = Hub(
            bus=LocalBus(),
            schedule=self._due.append,
            instruments=metrics,
            counters=metrics.rooms,
            max_room_connections=0,
            max_connections_per_account=16,
        )
        self.connections = Connections(
            limits=Limits(
                max_message_bytes=65_536,
                message_interval_seconds=1e-6,
                message_burst_seconds=1.0,
                send_buffer_bytes=1_048_576,
                heartbeat_seconds=20,
                pong_timeout_seconds=20,
                max_connection_seconds=14_400,
                close_on_token_expiry=False,
                token_leeway_seconds=60,
            ),
            total_buffer_bytes=268_435_456,
            ice_servers=[],
            hub=hub,
            directory=_NobodyAsks(),  # follow and unfollow are all that is asked of it
            verifier=None,  # no token is refreshed here
            observer=metrics,
            log=quiet_log(),
            clock=time.time,
        )
        self._transports = [CountingTransport() for _ in range(rooms * size)] if counted else []
        free = FreeTransport()
        for number in range(rooms * size):
            self._open(number // size, number % size, self._transports[number] if counted else free)
        self.tick()
        self.room: list[Connection] = list(self.connections.by_id.values())[:size]
        self.frame = client_frame()
        self.writes()

    def _open(self, room: int, number: int, transport: FreeTransport) -> None:
        account = str(uuid.UUID(int=(room << 32) + number))
        key = MemberKey(str(uuid.UUID(int=(1 << 100) + room)), account)
        self.connections.open(
            transport,
            head=b"",
            received=b"",
            membership=Membership(
                key=key, role=0, joined_at=1.0, leave_at=None, timeout_until=None, nick="Nick",
                account_name="name", account_nick="", profile=PROFILE, updated_at=1.0,
            ),
            principal=Principal(
                account_id=account, use=Use.USER, session_id="session", name="", nick="", issued_at=1.0,
                expires_at=None,
            ),
            dialect=Dialect.GUIDE,
            address="127.0.0.1",
            trace_id="0" * 32,
        )  # fmt: skip

    def writes(self) -> list[int]:
        """How often each was written to since this was last asked."""
        return [transport.written() for transport in self._transports]

    def say(self, number: int = 0, *, messages: int = 1, tick: bool = True) -> None:
        """Messages of the first room's member `number` in one read, from its bytes to the writes to the others.

        Without `tick` the end of the tick is still to come.
        """
        speaker = self.room[number]
        speaker.member.room.collects_until = self._collects_until
        speaker.data_received(self.frame * messages)
        if tick:
            self.tick()

    def all_say(self, *, messages: int = 1) -> None:
        """The same of everybody in the first room, in one tick."""
        for number in range(len(self.room)):
            self.say(number, messages=messages, tick=False)
        self.tick()

    def beat(self, number: int = 0) -> None:
        """The ping that is due to the first room's member `number`, and its pong."""
        connection = self.room[number]
        connection._pinged_at = -inf  # a heartbeat has passed
        connection.on_time(time.monotonic())
        connection.data_received(PONG)

    def tick(self) -> None:
        """What the loop would run next."""
        while self._due:
            due = self._due[:]
            self._due.clear()
            for call in due:
                call()

    def close(self) -> None:
        self.connections.wheel.close()
        for transport in self._transports:
            transport.close()
