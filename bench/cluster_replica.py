"""One replica in a process of its own: a Hub and a SpanningBus on NATS as in the sidecar, without WebSockets.

Its clients are outlets that count. CPU is the process's own (getrusage).
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import resource
import time
import uuid
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection as PipeEnd

import structlog
import uvloop

from sidecar.bus.nats import NatsBus
from sidecar.bus.nats_client import Access
from sidecar.bus.spanning import SpanningBus
from sidecar.signaling.counters import RoomCounters
from sidecar.signaling.envelope import Dialect, Identity
from sidecar.signaling.hub import Hub
from sidecar.signaling.outlet import Outlet
from sidecar.signaling.packets import Signal

SDP = json.dumps(
    {"sdp": "v=0\r\n" + "a=candidate:1 1 udp 2122260223 192.0.2.1 54400 typ host\r\n" * 16}
).encode()
NODE_TIMEOUT_SECONDS = 6.0


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Instruments:
    next_sample = math.inf

    def relayed(self, _seconds):
        pass

    def answered(self, _seconds):
        pass


class Counters:
    def open(self, _room_id):
        return RoomCounters()

    def close(self, _room_id):
        pass


class Observer:
    def __init__(self):
        self.sent = self.taken = self.gaps = self.drops = 0

    def published(self):
        self.sent += 1

    def received(self):
        self.taken += 1

    def dropped(self, _reason):
        self.drops += 1

    def gap(self):
        self.gaps += 1


class Listener(Outlet):
    """Counts packets; notes when the last came, and how long a stamped one took."""

    def __init__(self):
        super().__init__()
        self.latencies = []
        self.stamped = False

    def fail(self, error):
        raise error

    def write(self, data):
        if self.stamped:
            at = data.find(b'"stamp":')
            if at >= 0:
                self.latencies.append(time.monotonic() - float(data[at + 8 :].split(b"}", 1)[0]))


class Replica:
    def __init__(self, url):
        self.observer = Observer()
        soon = lambda callback: asyncio.get_running_loop().call_soon(callback)  # noqa: E731
        self.rooms = SpanningBus(
            prefix="bench",
            node_timeout_seconds=NODE_TIMEOUT_SECONDS,
            observer=self.observer,
            clock=time.monotonic,
            schedule=soon,
        )
        self.nats = NatsBus(
            rooms=self.rooms, access=Access(servers=[url]), prefix="bench", followers=[], clock=time.monotonic
        )
        self.hub = Hub(
            bus=self.rooms,
            schedule=soon,
            instruments=Instruments(),
            counters=Counters(),
            max_room_connections=0,
            max_connections_per_account=0,
        )
        self.members = {}
        self.outlet = Listener()

    async def connect(self):
        await self.nats.start()
        while not self.nats.connected:
            await asyncio.sleep(0.01)

    async def join(self, rooms, each):
        """`each` people in each of `rooms`; seconds and CPU seconds it took."""
        began, used = time.monotonic(), cpu()
        for first in range(0, len(rooms), 50):
            await asyncio.gather(*(self._join(room, each) for room in rooms[first : first + 50]))
        await self.nats.flush()
        return time.monotonic() - began, cpu() - used

    async def _join(self, room, each):
        for _ in range(each):
            async with self.hub.entering(room):
                member, _ = self.hub.join(
                    room,
                    connection_id=str(uuid.uuid4()),
                    identity=Identity(
                        account_id=str(uuid.uuid4()),
                        name="somebody",
                        nick="some",
                        profile=b"{}",
                        updated_at=1.0,
                    ),
                    joined_at=time.time(),
                    dialect=Dialect.GUIDE,
                    outlet=self.outlet,
                )
            self.members.setdefault(room, []).append(member)

    async def say(self, rooms, seconds, rate, what):
        """Broadcast at `rate` a second over the rooms in turn; how many, and the CPU seconds it took."""
        began, used, count = time.monotonic(), cpu(), 0
        while (now := time.monotonic()) < began + seconds:
            while count < (now - began) * rate:
                member = self.members[rooms[count % len(rooms)]][0]
                data = b'{"stamp":%f}' % time.monotonic() if what == "stamp" else SDP
                member.room.post(member, Signal("offer", data, None, None), size=len(data), received_at=now)
                count += 1
            await asyncio.sleep(0.001)
        await self.nats.flush()
        return count, cpu() - used


def serve(url: str, pipe: PipeEnd) -> None:
    """A replica's process: does what comes through the pipe."""

    async def run() -> None:
        replica = Replica(url)
        await replica.connect()
        loop = asyncio.get_running_loop()
        pipe.send("ready")
        while True:
            what, *arguments = await loop.run_in_executor(None, pipe.recv)
            if what == "join":
                pipe.send(await replica.join(*arguments))
            elif what == "say":
                pipe.send(await replica.say(*arguments))
            elif what == "stamped":
                replica.outlet.stamped = True
                pipe.send(None)
            elif what == "state":
                remotes = sum(len(room.remotes) for room in replica.hub.rooms.values())
                pipe.send(
                    {
                        "cpu": cpu(),
                        "taken": replica.observer.taken,
                        "sent": replica.observer.sent,
                        "gaps": replica.observer.gaps,
                        "packets": replica.outlet.packets_out,
                        "latencies": replica.outlet.latencies,
                        "remotes": remotes,
                    }
                )
            else:
                await replica.nats.close()
                pipe.send(None)
                return

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    uvloop.run(run())


class Remote:
    """A replica's process as the driver sees it."""

    def __init__(self, url):
        self.pipe, theirs = Pipe()
        self.process = Process(target=serve, args=(url, theirs), daemon=True)
        self.process.start()
        self.pipe.recv()

    def ask(self, *what):
        self.pipe.send(what)
        return self.pipe.recv()

    def begin(self, *what):
        self.pipe.send(what)

    def end(self):
        return self.pipe.recv()
