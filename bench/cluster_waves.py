"""Three whole sidecars on one NATS, beside the simulation: a full one is lost, each is restarted, a room is hot.

Unit costs are taken a moment before on the same fleet: what accepts cost while the first people enter, and what
messages cost in rooms of 6 and 60 at the same rate. Clients and chat service share the cores.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import NamedTuple

import uvloop

from bench import cluster_simulation as simulation
from bench.cluster_fleet import DRAIN_SECONDS, REPLICAS, Bus, CpuSeconds, Fleet, idle_seconds
from bench.cluster_simulation import Away, Costs
from bench.people import People
from bench.world import World
from tests.harness import until

FULL = 10_000
"""Connections of the replica that is lost."""
EARLY, REHEARSAL = 2_000, 4_000
"""Connections of the two others together: the first to enter, and those who come as the lost ones will."""
TIMES = 5
"""As often a room is hot and a replica lost: the machine's other guests can make it half as fast for seconds."""
RESTARTED = 1_000
HOT_PEOPLE, HOT_RATE, HOT_SECONDS = 90, 900.0, 5.0
SMALL_ROOM, LARGE_ROOM = 6, 60
CALM_SECONDS = 2.0
DEADLINE_SECONDS = 120.0


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
        costs = replace(Costs(), start=sum(fleet.cpu().sidecars) / REPLICAS)
        rooms = [await _heat_a_room(fleet, costs) for _ in range(TIMES)]
    rooms.sort(key=lambda room: room[1].each / room[2].each)
    costs, used, computed_room = rooms[TIMES // 2]
    rows = [
        _row("hot room: cores of each replica", used.each, computed_room.each),
        _row("hot room: cores of NATS", used.nats, computed_room.nats),
    ]
    losses = []
    for _ in range(TIMES):
        async with Fleet(world, bus) as fleet:
            losses.append(await _lose_a_full_one(fleet, costs))
    losses.sort(key=lambda loss: FULL * loss[0].accept_in_all / loss[2])
    ratios = ", ".join(f"{FULL * costs.accept_in_all / busy:.2f}" for costs, _, busy, _ in losses)
    costs, away, busy, left = losses[TIMES // 2]
    computed = simulation.node_lost(FULL, REPLICAS, costs=costs, cores=left)
    work = FULL * costs.accept_in_all
    rows += _beside("a full replica lost", away, computed)
    rows.append(_row("a full replica lost: CPU seconds of all processes", busy, work))
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
        f"- a full replica lost: {FULL:,} connections, killed at once; {EARLY + REHEARSAL:,} on the two others",
        f"- unit costs of its accepts: {REHEARSAL:,} of those, who come in a wave of the same kind a moment before",
        f"- of {TIMES} hot rooms and {TIMES} losses, each with unit costs of its own, the middle one by the ratio",
        f"- computed / measured CPU seconds of the {TIMES} losses: {ratios}",
        f"- while it was lost, other work left the fleet {left:.2f} of {cores:g} cores: the simulation has as many",
        f"- rolling restart: {RESTARTED:,} connections each, `DRAIN_SECONDS={DRAIN_SECONDS:g}`; rooms of 2 in both",
        f"- unit costs of this sitting, µs of CPU (`Costs` in `bench/cluster_simulation.py`): {unit}\n",
        "| | measured | computed | computed / measured |",
        "|---|---:|---:|---:|",
        *rows,
        "\n## The plan from these unit costs\n",
        *simulation.plan(costs),
    ]


class Cores(NamedTuple):
    each: float
    """Of a replica."""
    nats: float


async def _heat_a_room(fleet: Fleet, costs: Costs) -> tuple[Costs, Cores, Cores]:
    """The unit costs of messages, then what a hot room took, and what is computed for it."""
    costs = await _message_costs(fleet, costs)
    used, _ = await _say(fleet, people=HOT_PEOPLE, one_replica=False)
    measured = Cores(sum(used.sidecars) / REPLICAS / HOT_SECONDS, used.nats / HOT_SECONDS)
    return costs, measured, Cores(*simulation.hot_room(HOT_PEOPLE, REPLICAS, HOT_RATE, costs=costs))


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


async def _lose_a_full_one(fleet: Fleet, costs: Costs) -> tuple[Costs, Away, float, float]:
    """And the CPU seconds it took, and the cores it could have had.

    What an accept costs comes from a smaller wave into the same two others, a moment before.
    """
    async with fleet.people(EARLY + REHEARSAL + FULL, room_size=2) as people:
        full, *left = fleet.ports
        people.ports = left
        await people.enter(people.everybody[:EARLY])
        before = fleet.cpu()
        await people.rush(people.everybody[EARLY : EARLY + REHEARSAL])
        used = fleet.cpu().since(before)
        await people.enter(people.everybody[EARLY + REHEARSAL :], port=full)
        await asyncio.sleep(CALM_SECONDS)
        people.entries.clear()
        lost = fleet.sidecars.pop(0)
        calm, idle, lost_at = fleet.cpu(), idle_seconds(), monotonic()
        lost.process.kill()
        await until(lambda: len(people.entries) >= FULL, "all are back", DEADLINE_SECONDS)
        busy = fleet.cpu().since(calm).total
        left = (busy + idle_seconds() - idle) / (monotonic() - lost_at)
        away = _away(people, lost_at, lost_at)
    accepted = replace(
        costs,
        accept=sum(used.sidecars) / REHEARSAL,
        answer=used.chat / REHEARSAL,
        client=used.clients / REHEARSAL,
        join=used.nats / REHEARSAL,
    )
    return accepted, away, busy, left


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
