"""Three whole sidecars on one NATS, the people in their rooms, and the CPU seconds of every process."""

from __future__ import annotations

import contextlib
import os
import random
import resource
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from bench.people import People
from bench.servers import SETTINGS
from bench.world import World
from tests.harness import Sidecar, run_sidecar

REPLICAS = 3
DRAIN_SECONDS = 5.0


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


def idle_seconds() -> float:
    """Of all cores, since the machine started."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
