"""Many connections at once, and how long something took."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from tests.harness import Client, Sidecar

AT_ONCE = 8


async def within(seconds: float, what: Awaitable):
    """What the promise says happens within `seconds`; a TimeoutError where it does not."""
    async with asyncio.timeout(seconds):
        return await what


async def connect_all(sidecar: Sidecar, joins: list[tuple[str, str]]) -> list[Client]:
    """One connection for each (room, token), a few at a time."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(room: str, token: str) -> Client:
        async with turns:
            return await sidecar.connect(room, token, close_timeout=1)

    return await asyncio.gather(*(one(room, token) for room, token in joins))


async def still_there(clients: list[Client]) -> None:
    """Fail if one of them was closed: each gets an answer of the sidecar."""

    async def one(client: Client) -> None:
        await client.send({"type": "ping", "data": "still there?"})
        while (await client.receive())["type"] != "pong":
            pass

    await asyncio.gather(*(one(client) for client in clients))


@asynccontextmanager
async def kept(clients: list[Client]) -> AsyncIterator[None]:
    """These connections are there when the body ends, and are closed afterwards."""
    try:
        yield
        await still_there(clients)
    finally:
        await asyncio.gather(*(client.close() for client in clients))


def count(metrics: dict[str, float], name: str, **labels: str) -> float:
    """The sum of a counter's samples that bear these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        value
        for sample, value in metrics.items()
        if sample.partition("{")[0] == f"sphere_sidecar_{name}" and all(part in sample for part in wanted)
    )


async def disconnects(sidecar: Sidecar) -> float:
    return count(await sidecar.metrics(), "disconnects_total")
