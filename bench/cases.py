"""What is measured: each case is one way of loading a server, and the servers that bear it."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.servers import FLOOR, NODE_WS, SIDECAR, STOCK_SANIC, WEBSOCKETS, Server

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

    @property
    def seconds_matter(self) -> bool:
        return self.mode in {"sat", "lat"}


SATURATED = (
    Case("saturated, rooms of 2", "sat", 250, 2, EVERYONE, {"win": 4}),
    Case("saturated, rooms of 8", "sat", 32, 8, EVERYONE, {"win": 8}),
    Case("saturated, rooms of 100", "sat", 2, 100, EVERYONE, {"win": 50}),
    Case("saturated, room of 1,000", "sat", 1, 1000, EVERYONE, {"win": 50}),
)
RATES = (1250, 6000, 12000, 24000)
OPEN_LOOP = tuple(
    Case(
        f"open loop, 32 rooms of 8, {rate * 7 // 1000}k deliveries/s", "lat", 32, 8,
        (SIDECAR, NODE_WS, WEBSOCKETS, FLOOR), {"rate": rate},
    )
    for rate in RATES
)  # fmt: skip
SIZES = (
    Case("messages of 0.3 KB, rooms of 8", "sat", 32, 8, (SIDECAR, NODE_WS, FLOOR), {"win": 8, "bytes": 300}),
    Case("messages of 8 KB, rooms of 8", "sat", 32, 8, (SIDECAR, NODE_WS, FLOOR), {"win": 8, "bytes": 8192}),
)
KINDS = (
    Case("directed, rooms of 100", "sat", 2, 100, (SIDECAR,), {"win": 50, "to": 1}),
    Case("three dialects, rooms of 8", "sat", 32, 8, (SIDECAR,), {"win": 8}, DIALECTS),
    Case(
        "one slow reader, 32 rooms of 8, 42k deliveries/s",
        "lat",
        32,
        8,
        (SIDECAR,),
        {"rate": 6000, "slow": 1},
    ),
)
GROWTH = tuple(
    Case(f"{rooms:,} rooms of 3, 12k deliveries/s", "lat", rooms, 3, (SIDECAR,), {"rate": 6000})
    for rooms in (10, 100, 1000, 5000)
)
IDLE = (
    Case("idle, 5,000 connections", "idle", 2500, 2, EVERYONE),
    Case("idle, 15,000 connections", "idle", 7500, 2, (SIDECAR, NODE_WS)),
)
ACCEPTS = (
    Case("accepts: nothing cached, then both cached", "accept", 2000, 2, (SIDECAR,), {"passes": 2}),
    Case(
        "accepts: nothing cached, then tokens cached",
        "accept",
        2000,
        2,
        (NO_MEMBERSHIP_CACHE,),
        {"passes": 2},
    ),
    Case("accepts, no checks at all", "accept", 2000, 2, (NODE_WS, WEBSOCKETS, STOCK_SANIC, FLOOR)),
)
ALL = (*SATURATED, *OPEN_LOOP, *SIZES, *KINDS, *GROWTH, *IDLE, *ACCEPTS)
GATE = SATURATED[:3]
"""What `make bench-check` runs: latency is no gate, a busy machine decides it."""
