"""What rooms over several replicas cost: real sidecars' buses and rooms, a real nats-server, no WebSockets.

    .venv/bin/python bench/cluster.py            every measurement, about a minute
    .venv/bin/python bench/cluster.py relay      one of: relay, joins, death, outage
    .venv/bin/python bench/cluster.py rolling    three whole sidecars restarted under 200 calls; a minute of its own

Each replica is a process of its own with a Hub and a SpanningBus on NATS, as in the sidecar; clients are outlets that
count. CPU is each process's own (getrusage), so other load on the machine changes latencies more than costs.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection as PipeEnd
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import uvloop  # noqa: E402

from bench.cluster_simulation import Costs, move  # noqa: E402
from sidecar.bus.nats import NatsBus  # noqa: E402
from sidecar.bus.nats_client import Access  # noqa: E402
from sidecar.bus.spanning import SpanningBus  # noqa: E402
from sidecar.dev.issuer import Issuer  # noqa: E402
from sidecar.signaling.counters import RoomCounters  # noqa: E402
from sidecar.signaling.envelope import Dialect, Identity  # noqa: E402
from sidecar.signaling.hub import Hub  # noqa: E402
from sidecar.signaling.packets import Signal  # noqa: E402
from tests.bus.rolling import Calls, Fleet  # noqa: E402
from tests.chat_service import ChatServiceDouble  # noqa: E402
from tests.harness import auth_settings, run_sidecar  # noqa: E402

SDP = json.dumps(
    {"sdp": "v=0\r\n" + "a=candidate:1 1 udp 2122260223 192.0.2.1 54400 typ host\r\n" * 16}
).encode()
NODE_TIMEOUT_SECONDS = 6.0


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Instruments:
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


class Outlet:
    """Counts packets; notes when the last came, and how long a stamped one took."""

    def __init__(self):
        self.packets = 0
        self.latencies = []
        self.stamped = False

    def write(self, frames, packets):
        self.packets += packets
        if self.stamped:
            at = frames.find(b'"stamp":')
            if at >= 0:
                self.latencies.append(time.monotonic() - float(frames[at + 8 :].split(b"}", 1)[0]))


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
        self.outlet = Outlet()

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
                        "packets": replica.outlet.packets,
                        "latencies": replica.outlet.latencies,
                        "remotes": remotes,
                    }
                )
            else:
                await replica.nats.close()
                pipe.send(None)
                return

    import logging  # noqa: PLC0415

    import structlog  # noqa: PLC0415

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


def rooms(number: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(number)]


def wait_for(condition, seconds=30.0):
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError
        time.sleep(0.01)
    return time.monotonic() - began


def everywhere(replicas, ids, each):
    for replica in replicas:
        replica.ask("join", ids, each)
    others = len(ids) * each * (len(replicas) - 1)
    wait_for(lambda: all(replica.ask("state")["remotes"] == others for replica in replicas))


def relay(url: str) -> None:
    """CPU per message on who publishes and who receives, and the time a message takes."""
    print("relay: 20 rooms, 2 people on each replica, 1 KB broadcasts")
    for number in (1, 2, 3):
        replicas = [Remote(url) for _ in range(number)]
        ids = rooms(20)
        everywhere(replicas, ids, 2)
        before = [replica.ask("state") for replica in replicas]
        count, used = replicas[0].ask("say", ids, 3.0, 2000, "sdp")
        wait_for(
            lambda r=replicas, b=before, c=count: all(
                x.ask("state")["taken"] - y["taken"] >= c for x, y in zip(r[1:], b[1:], strict=True)
            )
        )
        after = [replica.ask("state") for replica in replicas]
        received = [(a["cpu"] - b["cpu"]) / count * 1e6 for a, b in zip(after[1:], before[1:], strict=True)]
        print(f"  {number} replicas: publisher {used / count * 1e6:.1f} us/message, "
              f"receivers {[round(value, 1) for value in received]} us/message, {count} messages")  # fmt: skip
        for replica in replicas:
            replica.ask("end")
    print("latency: one room, 200 messages a second for 5 s")
    one, other = Remote(url), Remote(url)
    (room,) = rooms(1)
    everywhere([one, other], [room], 2)
    one.ask("stamped")
    other.ask("stamped")
    one.ask("say", [room], 5.0, 200, "stamp")
    wait_for(lambda: other.ask("state")["latencies"])
    for name, replica in (("same replica", one), ("across NATS", other)):
        values = sorted(replica.ask("state")["latencies"])
        p99 = values[len(values) * 99 // 100]
        print(f"  {name}: p50 {statistics.median(values) * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
    one.ask("end"), other.ask("end")
    print(
        "throughput: every replica publishes and receives; the highest rate that is said and taken in in time"
    )
    for number in (1, 2, 3):
        best = 0
        for rate in (2000, 4000, 6000, 8000, 12000, 16000, 24000, 32000):
            replicas = [Remote(url) for _ in range(number)]
            ids = rooms(20)
            everywhere(replicas, ids, 2)
            before = sum(replica.ask("state")["taken"] for replica in replicas)
            for replica in replicas:
                replica.begin("say", ids, 2.0, rate / number, "sdp")
            said = sum(replica.end()[0] for replica in replicas)
            time.sleep(0.3)
            taken = sum(replica.ask("state")["taken"] for replica in replicas) - before
            for replica in replicas:
                replica.process.kill()
            if said < 1.9 * rate or taken < said * (number - 1):
                break
            best = rate
        print(f"  {number} replicas: {best} signals/s in all, each taken in by {number - 1} other(s)")


def joins(url: str) -> None:
    """Joins a second, into rooms that are alone and into rooms open elsewhere."""
    print("joins: 1000 rooms, 2 people each")
    one, other = Remote(url), Remote(url)
    ids = rooms(1000)
    seconds, used = one.ask("join", ids, 2)
    print(f"  rooms open nowhere else: {2000 / seconds:.0f} joins/s, {used / 2000 * 1e6:.0f} us CPU a join")
    seconds, used = other.ask("join", ids, 2)
    print(
        f"  rooms open on another replica: {2000 / seconds:.0f} joins/s, {used / 2000 * 1e6:.0f} us CPU a join"
    )
    one.ask("end"), other.ask("end")


def death(url: str) -> None:
    """A replica with 10,000 connections is killed: when the others have told all of it."""
    print("death: 1250 rooms, 8 people on the one that dies and 1 on each of two others")
    replicas = [Remote(url) for _ in range(3)]
    ids = rooms(1250)
    replicas[0].ask("join", ids, 8)
    for replica in replicas[1:]:
        replica.ask("join", ids, 1)
    wait_for(lambda: all(replica.ask("state")["remotes"] == 11250 for replica in replicas[1:]))
    before = [replica.ask("state")["cpu"] for replica in replicas[1:]]
    replicas[0].process.kill()
    seconds = wait_for(lambda: all(replica.ask("state")["remotes"] == 1250 for replica in replicas[1:]))
    used = [replica.ask("state")["cpu"] - was for replica, was in zip(replicas[1:], before, strict=True)]
    print(
        f"  all told after {seconds:.2f} s (timeout {NODE_TIMEOUT_SECONDS:g} s), CPU {[round(u, 2) for u in used]} s"
    )
    for replica in replicas[1:]:
        replica.ask("end")


def outage(url: str, restart) -> None:
    """The server is gone for 10 s under 10,000 connections and 500 messages a second."""
    print("outage: 1000 rooms on two replicas, 5 people each; the server is killed for 10 s")
    replicas = [Remote(url) for _ in range(2)]
    ids = rooms(1000)
    everywhere(replicas, ids, 5)
    before = replicas[1].ask("state")["taken"]
    replicas[0].begin("say", ids, 14.0, 500, "sdp")
    time.sleep(1)
    restart(10)
    began = time.monotonic()
    count, _ = replicas[0].end()
    wait_for(lambda: replicas[1].ask("state")["taken"] - before >= count)
    state = replicas[1].ask("state")
    print(f"  {count} said, {state['taken'] - before} taken, gaps {state['gaps']}, "
          f"all there {time.monotonic() - began:.1f} s after the restart (3 s of them still speaking)")  # fmt: skip
    for replica in replicas:
        replica.ask("end")


def rolling(url: str, calls: int = 200, drain_seconds: int = 10) -> None:
    """Three sidecars are restarted in turn under calls of two: how long everybody is away, beside what was computed."""
    print(
        f"rolling: {calls} calls of two on three sidecars, DRAIN_SECONDS={drain_seconds}, 1 KB offers at 2/s each"
    )

    async def run() -> Calls:
        async with ChatServiceDouble() as chat:
            with tempfile.TemporaryDirectory() as directory:
                issuer = Issuer(Path(directory))
                settings = auth_settings(issuer) | {
                    "membership_target": chat.target, "membership_timeout_ms": 10_000, "bus_url": url,
                    "drain_seconds": drain_seconds, "handshake_rate": 0, "address_handshake_rate": 0,
                }  # fmt: skip
                async with (
                    Fleet(lambda: run_sidecar(**settings), 3) as fleet,
                    Calls(fleet, chat, issuer, calls) as everybody,
                ):
                    await everybody.all_together()
                    await fleet.restart_each()
                    await everybody.all_together()
                    return everybody

    done = uvloop.run(run())
    moves = sorted(at for caller in done.callers for at in caller.moved_at)
    seconds = [int(at - moves[0]) for at in moves]
    vain = sum(caller.tries_in_vain for caller in done.callers)
    print(f"  all {calls} calls together again; {len(moves)} moves, "
          f"at most {max(map(seconds.count, seconds))} in a second, "
          f"{vain} tries in vain")  # fmt: skip
    computed = move(len(moves) // 3, 3, drain_seconds, Costs())
    for name, away in (("measured", [s for c in done.callers for s in c.away]), ("computed", computed)):
        away.sort()
        print(f"  away, {name}: p50 {away[len(away) // 2]:.2f} s, p99 {away[len(away) * 99 // 100]:.2f} s, "
              f"max {away[-1]:.2f} s")  # fmt: skip


def main() -> None:
    chosen = sys.argv[1:] or ["relay", "joins", "death", "outage"]
    port = 20000 + os.getpid() % 20000
    program = Path(sys.executable).parent / "nats-server"

    def start() -> subprocess.Popen:
        return subprocess.Popen([program, "-a", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL)

    server = start()

    def restart(seconds: float) -> None:
        nonlocal server
        server.kill()
        server.wait()
        time.sleep(seconds)
        server = start()

    try:
        time.sleep(0.5)
        url = f"nats://127.0.0.1:{port}"
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
        for name in chosen:
            if name == "outage":
                outage(url, restart)
            else:
                {"relay": relay, "joins": joins, "death": death, "rolling": rolling}[name](url)
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
