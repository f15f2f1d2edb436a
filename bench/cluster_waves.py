"""Three whole sidecars on one NATS, beside the simulation: a full one is lost, each is restarted, a room is hot.

Unit costs are taken a moment before on the same fleet: what accepts cost while the first people enter, and what
messages cost in rooms of 6 and 60 at the same rate. Clients and chat service share the cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Protocol, Self

import uvloop

from bench import cluster_simulation as simulation
from bench.cluster_simulation import Away, Costs
from bench.people import People
from bench.servers import SETTINGS
from bench.world import World
from tests.harness import Sidecar, run_sidecar, until

REPLICAS = 3
FULL, OTHERS = 10_000, 2_000
"""Connections of the replica that is lost, and of the two others together."""
RESTARTED, DRAIN_SECONDS = 1_000, 5.0
HOT_PEOPLE, HOT_RATE, HOT_SECONDS = 90, 900.0, 5.0
SMALL_ROOM, LARGE_ROOM = 6, 60
CALM_SECONDS = 2.0
DEADLINE_SECONDS = 120.0


class Bus(Protocol):
    url: str

    @property
    def pid(self) -> int: ...


class Fleet:
    """The replicas on one bus. `async with` starts and ends them."""

    def __init__(self, world: World, bus: Bus) -> None:
        self.sidecars: list[Sidecar] = []
        self._world = world
        self._bus = bus
        self._ends = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        for _ in range(REPLICAS):
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._ends.aclose()

    async def start(self) -> None:
        settings = SETTINGS | {
            "jwt_public_key_file": self._world.public_key, "membership_target": f"127.0.0.1:{self._world.chat_port}",
            "bus_url": self._bus.url, "drain_seconds": DRAIN_SECONDS,
        }  # fmt: skip
        self.sidecars.append(await self._ends.enter_async_context(run_sidecar(**settings)))

    @property
    def ports(self) -> list[int]:
        return [sidecar.port for sidecar in self.sidecars]

    def cpu(self) -> CpuSeconds:
        """Spent so far. Load on the machine does not change it much, frequency and caches do."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        return CpuSeconds(
            sidecars=[_cpu_seconds(sidecar.process.pid) for sidecar in self.sidecars],
            chat=_cpu_seconds(self._world.chat_pid),
            nats=_cpu_seconds(self._bus.pid),
            clients=own.ru_utime + own.ru_stime,
        )

    @contextlib.asynccontextmanager
    async def people(self, number: int, *, room_size: int) -> AsyncIterator[People]:
        """Not connected yet; they leave at the end."""
        first_room = random.randrange(10**11)
        targets = [
            f"/api/chat/realtime/00000000-0000-4000-8000-{first_room + at // room_size:012d}?tk={token}"
            for at, (_, token) in enumerate(self._world.people(number))
        ]
        people = People(targets, ports=self.ports)
        try:
            yield people
        finally:
            await people.leave()


@dataclass(frozen=True)
class CpuSeconds:
    sidecars: list[float]
    chat: float
    nats: float
    clients: float

    @property
    def total(self) -> float:
        return sum(self.sidecars) + self.chat + self.nats + self.clients

    def since(self, before: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(
            sidecars=[now - was for now, was in zip(self.sidecars, before.sidecars, strict=True)],
            chat=self.chat - before.chat,
            nats=self.nats - before.nats,
            clients=self.clients - before.clients,
        )


def _cpu_seconds(pid: int) -> float:
    """Of its threads that have not ended."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def measure(bus: Bus) -> list[str]:
    """Markdown: what was measured beside what was computed, and the plan from the same unit costs."""
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as name:
        world = World(Path(name))
        world.build(node=False)
        with world.chat_service(pinned=False):
            return uvloop.run(_stories(world, bus))


async def _stories(world: World, bus: Bus) -> list[str]:
    cores = float(os.cpu_count() or 1)
    async with Fleet(world, bus) as fleet:
        costs = await _message_costs(fleet, replace(Costs(), start=sum(fleet.cpu().sidecars) / REPLICAS))
        used, _ = await _say(fleet, people=HOT_PEOPLE, one_replica=False)
    each, nats = simulation.hot_room(HOT_PEOPLE, REPLICAS, HOT_RATE, costs=costs)
    rows = [
        _row("hot room: cores of each replica", sum(used.sidecars) / REPLICAS / HOT_SECONDS, each),
        _row("hot room: cores of NATS", used.nats / HOT_SECONDS, nats),
    ]
    async with Fleet(world, bus) as fleet:
        costs, away, busy = await _lose_a_full_one(fleet, costs)
    computed = simulation.node_lost(FULL, REPLICAS, costs=costs, cores=cores)
    work = FULL * (costs.accept + costs.answer + costs.client + costs.join)
    rows += _beside("a full replica lost", away, computed)
    rows.append(_row("a full replica lost: cores used meanwhile", busy / away.last, work / computed.last))
    async with Fleet(world, bus) as fleet:
        away = await _restart_each(fleet)
    rows += _beside(
        "rolling restart",
        away,
        simulation.rolling_restart(
            RESTARTED, REPLICAS, drain_seconds=DRAIN_SECONDS, costs=costs, cores=cores
        ),
    )
    unit = ", ".join(f"{name} {seconds * 1e6:,.0f}" for name, seconds in vars(costs).items())
    return [
        f"\n## Three whole sidecars beside the simulation, {cores:g} cores for everything\n",
        f"- hot room: {HOT_PEOPLE} people, {HOT_RATE:g} broadcasts of 1 KB a second among them",
        f"- a full replica lost: {FULL:,} connections, killed at once; {OTHERS:,} on the two others; rooms of 2",
        f"- rolling restart: {RESTARTED:,} connections each, `DRAIN_SECONDS={DRAIN_SECONDS:g}`, rooms of 2",
        f"- unit costs of this sitting, µs of CPU (`Costs` in `bench/cluster_simulation.py`): {unit}\n",
        "| | measured | computed | computed / measured |",
        "|---|---:|---:|---:|",
        *rows,
        "\n## The plan from these unit costs\n",
        *simulation.plan(costs),
    ]


async def _message_costs(fleet: Fleet, costs: Costs) -> Costs:
    """From two rooms in which everybody speaks: they differ in deliveries alone.

    A third, in which one replica's people speak, says how the rest divides into saying and taking in.
    """
    small, said_small = await _say(fleet, people=SMALL_ROOM, one_replica=False)
    large, said_large = await _say(fleet, people=LARGE_ROOM, one_replica=False)
    one, said_one = await _say(fleet, people=SMALL_ROOM, one_replica=True)
    in_small, in_large = sum(small.sidecars) / said_small, sum(large.sidecars) / said_large
    deliver = (in_large - in_small) / (LARGE_ROOM - SMALL_ROOM)
    message = in_small - deliver * (SMALL_ROOM - 1)
    here = SMALL_ROOM // REPLICAS
    say = one.sidecars[0] / said_one - deliver * (here - 1)
    take = sum(one.sidecars[1:]) / (REPLICAS - 1) / said_one - deliver * here
    share = message / (say + (REPLICAS - 1) * take)
    return replace(
        costs,
        deliver=deliver,
        say=say * share,
        take=take * share,
        pass_on=large.nats / said_large / (REPLICAS - 1),
    )


async def _say(fleet: Fleet, *, people: int, one_replica: bool) -> tuple[CpuSeconds, int]:
    """CPU seconds of a room with so many people while they, or those of the first replica, speak; messages said."""
    async with fleet.people(people, room_size=people) as room:
        for number, port in enumerate(fleet.ports):
            await room.enter(room.everybody[number::REPLICAS], port=port)
        await asyncio.sleep(CALM_SECONDS)
        before, heard = fleet.cpu(), room.received
        speakers = room.everybody[:: REPLICAS if one_replica else 1]
        said = await room.say(speakers, rate=HOT_RATE, seconds=HOT_SECONDS)
        await until(lambda: room.received >= heard + said * (people - 1), "everybody has heard all of it")
        return fleet.cpu().since(before), said


async def _lose_a_full_one(fleet: Fleet, costs: Costs) -> tuple[Costs, Away, float]:
    """And the CPU seconds it took. What an accept costs comes from those who enter the two others before."""
    async with fleet.people(OTHERS + FULL, room_size=2) as people:
        full, *left = fleet.ports
        people.ports = left
        before = fleet.cpu()
        await people.enter(people.everybody[:OTHERS])
        used = fleet.cpu().since(before)
        await people.enter(people.everybody[OTHERS:], port=full)
        await asyncio.sleep(CALM_SECONDS)
        people.entries.clear()
        lost = fleet.sidecars.pop(0)
        calm, lost_at = fleet.cpu(), monotonic()
        lost.process.kill()
        await until(lambda: len(people.entries) >= FULL, "all are back", DEADLINE_SECONDS)
        busy = fleet.cpu().since(calm).total
        away = _away(people, lost_at, lost_at)
    accepted = replace(
        costs,
        accept=sum(used.sidecars) / OTHERS,
        answer=used.chat / OTHERS,
        client=used.clients / OTHERS,
        join=used.nats / OTHERS,
    )
    return accepted, away, busy


async def _restart_each(fleet: Fleet) -> Away:
    async with fleet.people(RESTARTED * REPLICAS, room_size=2) as people:
        await people.enter(people.everybody)
        await asyncio.sleep(CALM_SECONDS)
        people.entries.clear()
        begun = monotonic()
        for old in list(fleet.sidecars):
            fleet.sidecars.remove(old)
            people.ports = fleet.ports
            old.terminate()
            async with asyncio.timeout(DEADLINE_SECONDS):
                await old.process.wait()
            await fleet.start()
            people.ports = fleet.ports
        await until(lambda: people.inside == len(people.everybody), "all are back", DEADLINE_SECONDS)
        return _away(people, begun, None)


def _away(people: People, begun: float, lost_at: float | None) -> Away:
    """From `lost_at`, or from when each was told."""
    entries = people.entries
    seconds = sorted(entry.entered_at - (entry.lost_at if lost_at is None else lost_at) for entry in entries)
    return Away(seconds, max(entry.entered_at for entry in entries) - begun)


def _row(what: str, measured: float, computed: float) -> str:
    return f"| {what} | {measured:.2f} | {computed:.2f} | {computed / measured if measured else 0:.2f} |"


def _beside(story: str, measured: Away, computed: Away) -> list[str]:
    return [
        _row(f"{story}: away, p50, s", measured.quantile(0.5), computed.quantile(0.5)),
        _row(f"{story}: away, p99, s", measured.quantile(0.99), computed.quantile(0.99)),
        _row(f"{story}: the last is back after, s", measured.last, computed.last),
    ]
