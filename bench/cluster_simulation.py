"""What reconnect waves and a hot room do to a fleet: discrete events over measured unit costs; no network, no clock.

    .venv/bin/python -m bench.cluster_simulation     the plan of docs/scaling.md: every replica has a core of its own

`bench.cores` is how processes share a machine. `bench.cluster` runs the same three stories for real, and feeds this
with the costs it has measured a moment before.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.cores import Machine, Process, World
from bench.people import BACKOFF_SECONDS

RECONNECT_SPREAD_SECONDS = 1.0
"""The longest wait a draining replica asks for."""


@dataclass(frozen=True)
class Costs:
    """CPU seconds. The defaults are of one sitting; docs/performance/cluster.md has the latest."""

    accept: float = 835e-6
    """On the sidecar: token, membership and join into a room of a fleet, nothing cached."""
    answer: float = 267e-6
    """On the chat service, for each accept."""
    client: float = 130e-6
    """On the load generator, for each accept."""
    join: float = 90e-6
    """On NATS, for each accept."""
    start: float = 1.07
    """A sidecar's start until it is ready."""
    say: float = 131e-6
    """A 1 KB broadcast on the sender's replica, but for deliveries."""
    take: float = 107e-6
    """The same on another replica."""
    deliver: float = 5e-6
    """To each receiver."""
    pass_on: float = 60e-6
    """On NATS, to each other replica."""

    @property
    def accept_in_all(self) -> float:
        """Of all processes."""
        return self.accept + self.answer + self.client + self.join


@dataclass(frozen=True)
class Away:
    """Seconds each return took, in order, and when the last was in."""

    seconds: list[float]
    last: float

    def quantile(self, share: float) -> float:
        return self.seconds[min(int(len(self.seconds) * share), len(self.seconds) - 1)]


class Fleet:
    """`replicas` sidecars, with `cores` for them, NATS, the chat service and the clients together; None: one each."""

    def __init__(self, replicas: int, *, costs: Costs, cores: float | None, seed: int = 1) -> None:
        self.world = World()
        self.costs = costs
        self.random = random.Random(seed)
        self.returns: list[tuple[float, float]] = []
        if cores is None:
            self.ready = [Machine(self.world, 1).process() for _ in range(replicas)]
            self._others = None
        else:
            shared = Machine(self.world, cores)
            self.ready = [shared.process() for _ in range(replicas)]
            self._others = shared.process(), shared.process(), shared.process()

    def come_back(self, wait: float, then: Callable[[Process], None] = lambda _: None) -> None:
        """One connection is lost now; its person waits, and goes to any replica that is ready then."""
        lost = self.world.now

        def connect() -> None:
            sidecar, half = self.random.choice(self.ready), self.costs.accept / 2

            def entered() -> None:
                self.returns.append((self.world.now - lost, self.world.now))
                then(sidecar)

            if self._others is None:
                sidecar.do(2 * half, entered)
                return
            clients, chat, nats = self._others

            def joined() -> None:
                nats.do(self.costs.join, lambda: None)
                entered()

            def answered() -> None:
                sidecar.do(half, joined, begun=True)

            clients.do(
                self.costs.client, lambda: sidecar.do(half, lambda: chat.do(self.costs.answer, answered))
            )

        self.world.after(wait, connect)

    def away(self) -> Away:
        self.world.run()
        return Away(sorted(seconds for seconds, _ in self.returns), max(at for _, at in self.returns))


def node_lost(lost: int, replicas: int, *, costs: Costs, cores: float | None = None) -> Away:
    """One of `replicas` is gone at once with its `lost` connections; they come back as the bundled client does."""
    fleet = Fleet(replicas, costs=costs, cores=cores)
    fleet.ready.pop()
    for _ in range(lost):
        fleet.come_back(fleet.random.uniform(0, BACKOFF_SECONDS))
    return fleet.away()


def rolling_restart(
    each: int, replicas: int, *, drain_seconds: float, costs: Costs, cores: float | None = None
) -> Away:
    """The replicas, `each` with so many connections, drain in turn, each after the one before is ready again."""
    fleet = Fleet(replicas, costs=costs, cores=cores)
    here = dict.fromkeys(fleet.ready, each)
    turns = iter(list(fleet.ready))

    def enter(process: Process) -> None:
        here[process] += 1

    def drain() -> None:
        old = next(turns, None)
        if old is None:
            return
        fleet.ready.remove(old)
        leaving, here[old] = here[old], 0
        for number in range(leaving):
            fleet.world.after(
                drain_seconds * number / leaving,
                lambda: fleet.come_back(fleet.random.uniform(0, RECONNECT_SPREAD_SECONDS), enter),
            )
        fleet.world.after(
            drain_seconds, lambda: old.do(costs.start, lambda: (fleet.ready.append(old), drain())[1])
        )

    drain()
    return fleet.away()


def hot_room(people: int, replicas: int, rate: float, *, costs: Costs) -> tuple[float, float]:
    """Cores each replica and NATS need for one room of `people`, who make `rate` broadcasts a second together."""
    here, said_here = people / replicas, rate / replicas
    deliveries = said_here * (here - 1) + (rate - said_here) * here
    replica = said_here * costs.say + (rate - said_here) * costs.take + deliveries * costs.deliver
    return replica, rate * (replicas - 1) * costs.pass_on


def plan(costs: Costs) -> Iterator[str]:
    """The rows docs/scaling.md quotes, as Markdown."""
    yield "| computed, a core for each replica | |"
    yield "|---|---|"
    for replicas in (3, 10, 100):
        away = node_lost(10_000, replicas, costs=costs)
        yield (
            f"| 1 of {replicas} full replicas is lost (10,000 connections) | all back after {away.last:.1f} s, "
            f"p99 {away.quantile(0.99):.2f} s |"
        )
    for replicas in (3, 10):
        away = rolling_restart(10_000, replicas, drain_seconds=20, costs=costs)
        busy = costs.accept * 10_000 / 20 / (replicas - 1)
        yield (
            f"| rolling restart of {replicas} full replicas, `DRAIN_SECONDS=20` | away p50 {away.quantile(0.5):.2f} s, "
            f"p99 {away.quantile(0.99):.2f} s; {busy * 100:.0f} % of each other's core |"
        )
    for people, replicas in ((100, 3), (100, 10), (1000, 10), (1000, 50)):
        each, nats = hot_room(people, replicas, people, costs=costs)
        yield (
            f"| a room of {people:,} over {replicas} replicas, a broadcast a second from each | {each * 100:.1f} % of "
            f"each replica's core, {nats * 100:.0f} % of one for NATS |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for cost in dataclasses.fields(Costs):
        parser.add_argument(f"--{cost.name.replace('_', '-')}", type=float, default=cost.default)
    print("\n".join(plan(Costs(**vars(parser.parse_args())))))


if __name__ == "__main__":
    main()
