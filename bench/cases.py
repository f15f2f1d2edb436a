"""What is measured: each case is one way of loading a server, and the servers that bear it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.servers import BARE_UVLOOP, FLOOR, NODE_WS, SIDECAR, STOCK_SANIC, WEBSOCKETS, Server

EVERYONE = (SIDECAR, NODE_WS, WEBSOCKETS, STOCK_SANIC, FLOOR)
NO_MEMBERSHIP_CACHE = Server("sidecar", settings={"membership_cache_seconds": 0})
DIALECTS = ("guide", "guide-client", "dyson")


@dataclass(frozen=True, eq=False)
class Case:
    """`options` go to the load generator as they are."""

    name: str
    mode: str
    rooms: int
    size: int
    servers: tuple[Server, ...] = (SIDECAR,)
    options: dict[str, float] = field(default_factory=dict)
    dialects: tuple[str, ...] = ("guide",)
    once: bool = False
    """Its figures repeat: the first round is enough."""
    turns: int = 1
    """Runs of its servers in each round, all of them once in each turn: of what three rounds do not settle."""

    @property
    def seconds_matter(self) -> bool:
        return self.mode in {"sat", "lat", "grow"}

    @property
    def stalled(self) -> int:
        """Connections of the first room that never read."""
        return int(self.options.get("slow", 0))


def _open_loop(rooms: int, size: int, rate: int, servers: tuple[Server, ...], turns: int = 1) -> Case:
    name = f"{rooms} rooms of {size}, {rate * (size - 1) // 1000}k deliveries/s"
    return Case(name, "lat", rooms, size, servers, {"rate": rate}, turns=turns)


SATURATED = (
    Case("saturated, rooms of 2", "sat", 250, 2, (*EVERYONE, BARE_UVLOOP), {"win": 4}),
    Case("saturated, rooms of 8", "sat", 32, 8, EVERYONE, {"win": 8}),
    Case("saturated, rooms of 100", "sat", 2, 100, EVERYONE, {"win": 50}),
    Case("saturated, room of 1,000", "sat", 1, 1000, (SIDECAR, NODE_WS, FLOOR), {"win": 50}),
)
OPEN_LOOP_OF_TWO = (
    *(_open_loop(250, 2, rate, (SIDECAR, NODE_WS, WEBSOCKETS, FLOOR)) for rate in (20_000, 40_000, 80_000)),
    *(_open_loop(250, 2, rate, (SIDECAR, FLOOR)) for rate in (120_000, 160_000, 200_000)),
)
"""Up to everybody's collapse."""
OPEN_LOOP_OF_EIGHT = (
    # The core sleeps between messages and wakes with cold caches: a run's median is 20 % off the next one's.
    _open_loop(32, 8, 1300, (SIDECAR, NODE_WS, WEBSOCKETS, FLOOR), turns=5),
    *(_open_loop(32, 8, rate, (SIDECAR, NODE_WS, WEBSOCKETS, FLOOR)) for rate in (6000, 12_000, 24_000)),
    *(_open_loop(32, 8, rate, (SIDECAR,)) for rate in (36_000, 48_000, 64_000)),
)
"""Beyond the last it is the generator that collapses."""
OPEN_LOOP = (*OPEN_LOOP_OF_TWO, *OPEN_LOOP_OF_EIGHT)
SIZES = (
    Case("messages of 0.3 KB", "sat", 32, 8, (SIDECAR, NODE_WS, FLOOR), {"win": 8, "bytes": 300}),
    SATURATED[1],
    Case("messages of 8 KB", "sat", 32, 8, (SIDECAR, NODE_WS, FLOOR), {"win": 8, "bytes": 8192}),
)
KINDS = (
    Case("directed, rooms of 100", "sat", 2, 100, (SIDECAR,), {"win": 50, "to": 1}),
    SATURATED[1],
    Case("three dialects, rooms of 8", "sat", 32, 8, (SIDECAR,), {"win": 8}, DIALECTS),
)
STALLED = tuple(
    Case(name, "lat", 8, 8, (SIDECAR,), {"rate": 6000, "first": 1} | ({"slow": stalled} if stalled else {}))
    for name, stalled in (("everybody reads", 0), ("and one more stalled", 1), ("and 50 more stalled", 50))
)
"""750 messages a second into the room watched: who does not read is over `SEND_BUFFER_BYTES` within two seconds."""
GROWTH = tuple(
    Case(
        f"{connections:,} connections, {rate // 500}k deliveries/s", "grow", rooms, 3, servers, {"rate": rate}
    )
    for connections, rooms, rate, servers in (
        (1000, 334, 5000, (SIDECAR,)),
        (1000, 334, 20000, (SIDECAR,)),
        (15000, 5000, 5000, (SIDECAR, NODE_WS)),
        (15000, 5000, 20000, (SIDECAR, BARE_UVLOOP, FLOOR)),
    )
)
"""Node does not bear what the others do."""
IDLE = (
    Case("idle, 5,000 connections", "idle", 2500, 2, EVERYONE, once=True),
    Case("idle, 15,000 connections", "idle", 7500, 2, (SIDECAR, NODE_WS), once=True),
)
ACCEPTS = (
    Case("accepts: nothing cached, then both cached", "accept", 2000, 2, (SIDECAR,), {"passes": 2}),
    Case("accepts: nothing cached, then tokens cached", "accept", 2000, 2, (NO_MEMBERSHIP_CACHE,), {"passes": 2}),
    Case("accepts, no checks at all", "accept", 2000, 2, (NODE_WS, WEBSOCKETS, STOCK_SANIC, FLOOR)),
)  # fmt: skip
ALL = (*SATURATED, *OPEN_LOOP, SIZES[0], SIZES[2], KINDS[0], KINDS[2], *STALLED, *GROWTH, *IDLE, *ACCEPTS)
GATE = SATURATED[:3]
"""What `make bench-check` runs: latency is no gate, a busy machine decides it."""
