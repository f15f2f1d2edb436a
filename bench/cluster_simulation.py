"""What reconnect waves do to a fleet: discrete events over measured unit costs; no network, no clock, seconds to run.

    .venv/bin/python bench/cluster_simulation.py

Three stories: a node is lost and its clients come back, a rolling restart, a hot room. Costs are those bench/cluster.py
and bench/ measure on one replica; change them by the options to see what follows.
"""

from __future__ import annotations

import argparse
import heapq
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    handshake: float = 670e-6
    """CPU seconds of one accepted handshake: JWT verified, membership asked (1,500 a second)."""
    first_join: float = 90e-6
    """CPU seconds a room's opening adds on the bus: subscribe, ask, take the answers in."""
    publish: float = 47e-6
    receive: float = 31e-6
    delivery: float = 3e-6


def wave(
    arrivals: list[float], replicas: int, seconds_each: float, timeout: float, rng: random.Random
) -> tuple[float, float, int]:
    """Serve handshakes that come at `arrivals`; a client whose handshake takes longer than `timeout` tries again.

    Returns when the last is in, the 99th percentile of time away in seconds, and the tries that were in vain.
    """
    free_at = [0.0] * replicas
    events = [(at, at, 0) for at in arrivals]
    heapq.heapify(events)
    away, vain, last = [], 0, 0.0
    while events:
        at, began, tries = heapq.heappop(events)
        server = rng.randrange(replicas)
        done = max(at, free_at[server]) + seconds_each
        if done - at > timeout:
            vain += 1
            free_at[server] += seconds_each / 2  # part of the work is done before the client gives up
            backoff = min(2**tries, 16) * rng.uniform(0.5, 1.0)
            heapq.heappush(events, (at + timeout + backoff, began, tries + 1))
            continue
        free_at[server] = done
        away.append(done - began)
        last = max(last, done)
    away.sort()
    return last, away[len(away) * 99 // 100], vain


def node_lost(connections: int, replicas: int, costs: Costs, rng: random.Random) -> None:
    """One of `replicas` is gone; its share comes back with full-jitter backoff of at most 1 s, then more."""
    lost = connections // replicas
    arrivals = [rng.uniform(0, 1.0) for _ in range(lost)]
    last, p99, vain = wave(arrivals, replicas - 1, costs.handshake + costs.first_join, 5.0, rng)
    print(
        f"  {replicas:5d} replicas, {lost:6d} lost: all back after {last:5.1f} s, p99 {p99:5.2f} s, {vain} in vain"
    )


def rolling_restart(connections: int, replicas: int, drain: float, costs: Costs, rng: random.Random) -> None:
    """Replicas drain one after the other, each spreads its share over `drain` seconds."""
    each = connections // replicas
    arrivals = [
        number * drain + drain * index / each + rng.uniform(0, 1.0)
        for number in range(replicas)
        for index in range(each)
    ]
    last, p99, vain = wave(arrivals, replicas - 1, costs.handshake + costs.first_join, 5.0, rng)
    busy = (costs.handshake + costs.first_join) * each / drain / max(replicas - 1, 1)
    print(f"  {replicas:5d} replicas, {len(arrivals)} moved in {last:6.0f} s: p99 away {p99:5.2f} s after the close, "
          f"{busy * 100:4.1f} % of each other's CPU, {vain} tries in vain")  # fmt: skip


def hot_room(people: int, replicas: int, rate: float, costs: Costs) -> None:
    """`people` in one room over `replicas`, each says `rate` broadcasts a second."""
    said = people * rate
    here = people / replicas
    cpu = here * rate * costs.publish + (said - here * rate) * costs.receive + said * here * costs.delivery
    print(f"  {people:5d} people over {replicas:2d} replicas at {rate:g}/s each: {cpu * 100:6.1f} % of a CPU on each, "
          f"{said * (replicas - 1):8.0f} bus deliveries/s")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in vars(Costs()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    costs = Costs(**vars(parser.parse_args()))
    rng = random.Random(1)
    print("a node is lost")
    for replicas in (3, 10, 100):
        node_lost(10_000 * replicas, replicas, costs, rng)
    print("rolling restart, DRAIN_SECONDS=20")
    for replicas in (3, 10):
        rolling_restart(10_000 * replicas, replicas, 20.0, costs, rng)
    print("a hot room")
    for people, replicas in ((100, 3), (100, 10), (1000, 10), (1000, 50)):
        hot_room(people, replicas, 1.0, costs)


if __name__ == "__main__":
    main()
