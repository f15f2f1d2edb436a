"""People who stay connected: they answer pings, speak when told to, and come back as docs/clients.md asks.

One process for all of them, raw sockets, nothing parsed but frames: the server is measured, not its clients.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import Sequence
from time import monotonic
from typing import NamedTuple

BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 30.0
LONGEST_RECONNECT_PACKET = 300
RESET = struct.pack("ii", 1, 0)
REQUEST = (
    "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\n"
    "Origin: https://example.org\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_OFFER = json.dumps(
    {"type": "offer", "data": {"type": "offer", "sdp": "v=0 " + "a=candidate " * 80}}
).encode()
OFFER = b"\x81\xfe" + len(_OFFER).to_bytes(2) + bytes(4) + _OFFER  # masked with nothing


class Entry(NamedTuple):
    """One successful handshake. Times are on the monotonic clock."""

    lost_at: float
    """When the connection before it was lost; 0: it is the first."""
    tried_at: float
    """When the try that succeeded began, with its TCP connection."""
    entered_at: float


class People:
    """`targets` are the request targets, one per person; `ports` the servers they choose from, at random."""

    def __init__(self, targets: Sequence[str], *, ports: list[int], seed: int = 1) -> None:
        self.ports = ports
        self.random = random.Random(seed)
        self.entries: list[Entry] = []
        self.refused = 0
        """Tries that ended without a 101."""
        self.received = 0
        """Text frames."""
        self.everybody = [Person(self, target) for target in targets]
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def inside(self) -> int:
        return sum(person.inside for person in self.everybody)

    async def enter(self, people: Sequence[Person], *, port: int | None = None, at_once: int = 50) -> None:
        """Bring them in, a few at a time, to `port` or where they choose."""
        waiting = asyncio.Semaphore(at_once)

        async def one(person: Person) -> None:
            async with waiting:
                await person.connect(port or self.random.choice(self.ports))
                await person.entered.wait()

        await asyncio.gather(*(one(person) for person in people))

    async def rush(self, people: Sequence[Person]) -> None:
        """They come as if they had just been lost: each after its backoff, whoever else still waits."""
        for person in people:
            person.come_back()
        await asyncio.gather(*(person.entered.wait() for person in people))

    def cut(self, people: Sequence[Person], *, all_at_once: bool) -> None:
        """Their connections are reset under them; they come back in the same instant, or after their backoff."""
        for person in people:
            person.wait = 0.0 if all_at_once else None
        for person in people:
            person.reset()

    async def say(self, speakers: Sequence[Person], *, rate: float, seconds: float) -> int:
        """Broadcasts of 1 KB at `rate` a second, the speakers in turn; how many were said."""
        begun, said = monotonic(), 0
        while (past := monotonic() - begun) < seconds:
            while said < past * rate:
                speakers[said % len(speakers)].write(OFFER)
                said += 1
            await asyncio.sleep(0.001)
        return said

    async def leave(self) -> None:
        """All are cut, and nobody comes back."""
        self.ports = []
        for person in self.everybody:
            person.reset()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Person(asyncio.Protocol):
    """One connection after the other, to the same room."""

    __slots__ = (
        "_buffer", "_failures", "_lost_at", "_people", "_request", "_transport", "_tried_at", "entered", "inside",
        "wait",
    )  # fmt: skip

    def __init__(self, people: People, target: str) -> None:
        self._people = people
        self._request = REQUEST.format(target=target).encode()
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._failures = 0
        self._lost_at = self._tried_at = 0.0
        self.inside = False
        self.entered = asyncio.Event()
        self.wait: float | None = None
        """Seconds the next return waits for; None: the backoff."""

    def reset(self) -> None:
        if self._transport is not None:
            peer = self._transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()

    def write(self, frame: bytes) -> None:
        if self._transport is not None:
            self._transport.write(frame)

    async def connect(self, port: int) -> None:
        self._tried_at = monotonic()
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        except OSError:
            self.come_back(failed=True)

    def connection_made(self, transport) -> None:
        self._transport = transport
        self._buffer = b""
        transport.write(self._request)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        failed = not self.inside
        if self.inside:
            self.inside = False
            self._lost_at = self._lost_at or monotonic()
        self.come_back(failed=failed)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self.inside and not self._upgraded():
            return
        buffer, at, end = self._buffer, 0, len(self._buffer)
        while end - at >= 2:
            size, begin = buffer[at + 1] & 127, at + 2
            if size >= 126:
                begin += 2 if size == 126 else 8
                size = int.from_bytes(buffer[at + 2 : begin]) if end >= begin else end
            if begin + size > end:
                break
            self._on_frame(buffer[at] & 15, buffer, begin, begin + size)
            at = begin + size
        self._buffer = buffer[at:]

    def _upgraded(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 101"):
            self.reset()
            return False
        now = monotonic()
        self._people.entries.append(Entry(self._lost_at, self._tried_at, now))
        self._lost_at, self._failures, self._buffer = 0.0, 0, rest
        self.inside = True
        self.entered.set()
        return True

    def _on_frame(self, opcode: int, buffer: bytes, begin: int, end: int) -> None:
        if opcode == 1:
            self._people.received += 1
            if end - begin < LONGEST_RECONNECT_PACKET and b"reconnectAfterMs" in buffer[begin:end]:
                self._lost_at = monotonic()
                self.wait = json.loads(buffer[begin:end])["data"]["reconnectAfterMs"] / 1000
        elif opcode == 9:
            self.write(b"\x8a" + bytes([0x80 | end - begin]) + bytes(4) + buffer[begin:end])
        elif opcode == 8 and self._transport is not None:
            self._transport.close()

    def come_back(self, *, failed: bool = False) -> None:
        """Connect after the wait that is due, unless there is no server any more."""
        people = self._people
        if failed:
            people.refused += 1
            self._failures += 1
        if not people.ports:
            return
        longest = min(BACKOFF_SECONDS * 2**self._failures, LONGEST_BACKOFF_SECONDS)
        wait = people.random.uniform(0, longest) if self.wait is None else self.wait
        self.wait = None
        task = asyncio.create_task(self._return(wait))
        people.tasks.add(task)
        task.add_done_callback(people.tasks.discard)

    async def _return(self, wait: float) -> None:
        if wait:
            await asyncio.sleep(wait)
        if self._people.ports:
            await self.connect(self._people.random.choice(self._people.ports))
