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
    """CPU seconds, measured on one replica (docs/performance.md, docs/scaling.md) but for the last."""

    handshake: float = 700e-6
    """One accepted with nothing cached: token verified, membership asked, welcomed."""
    first_join: float = 86e-6
    """Into a room that is open elsewhere, whole; the tenth of an accept that is joining is thus counted twice."""
    publish: float = 49e-6
    """A 1 KB broadcast that goes to the bus too; the middle of 41 to 57 µs."""
    receive: float = 34e-6
    """One taken in from the bus; the middle of 29 to 39 µs."""
    delivery: float = 4e-6
    """To each further receiver in a large room: an estimate, 1 µs of 3,750 instructions and a `send`."""


RETRY_TIMEOUT_SECONDS = 5.0
"""Assumed of the clients: how long they wait for an answer before they try again."""
JITTER_SECONDS = 1.0
"""What the reconnect packet asks for at most, and a lost client waits at first."""


def wave(
    closes: list[float], replicas: int, seconds_each: float, rng: random.Random
) -> tuple[float, list[float], int]:
    """Serve those whose connections end at `closes`, and who come back after their jitter, to any of `replicas`.

    Returns when the last is in, the seconds each was away, sorted, and the tries that were in vain.
    """
    timeout = RETRY_TIMEOUT_SECONDS
    free_at = [0.0] * replicas
    events = [(at + rng.uniform(0, JITTER_SECONDS), at, 0) for at in closes]
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
    return last, away, vain


def p99(seconds: list[float]) -> float:
    return seconds[len(seconds) * 99 // 100]


def move(
    each: int, replicas: int, drain: float, costs: Costs, rng: random.Random | None = None
) -> list[float]:
    """Seconds away, when each of `replicas` in turn spreads its `each` connections over `drain` seconds."""
    closes = [number * drain + drain * index / each for number in range(replicas) for index in range(each)]
    return wave(closes, replicas - 1, costs.handshake + costs.first_join, rng or random.Random(1))[1]


def node_lost(connections: int, replicas: int, costs: Costs, rng: random.Random) -> None:
    """One of `replicas` is gone; its share comes back with full-jitter backoff of at most 1 s, then more."""
    lost = connections // replicas
    last, away, vain = wave([0.0] * lost, replicas - 1, costs.handshake + costs.first_join, rng)
    print(
        f"  {replicas:5d} replicas, {lost:6d} lost: all back after {last:5.1f} s, "
        f"p99 {p99(away):5.2f} s, {vain} in vain"
    )


def rolling_restart(connections: int, replicas: int, drain: float, costs: Costs, rng: random.Random) -> None:
    """Replicas drain one after the other, each spreads its share over `drain` seconds."""
    each = connections // replicas
    away = move(each, replicas, drain, costs, rng)
    busy = (costs.handshake + costs.first_join) * each / drain / max(replicas - 1, 1)
    print(f"  {replicas:5d} replicas, {each * replicas} moved: "
          f"away p50 {away[len(away) // 2]:5.2f} s, p99 {p99(away):5.2f} s, "
          f"{busy * 100:4.1f} % of each other's CPU")  # fmt: skip


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
