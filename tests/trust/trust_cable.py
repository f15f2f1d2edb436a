"""A host beyond a cable that can be pulled: packets are lost then, and nothing is reset."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Cable:
    """Between this network namespace and another one, in which `within` begins a command."""

    def __init__(self) -> None:
        self._name = f"trust{secrets.token_hex(3)}"
        net, subnet = secrets.token_bytes(2)
        self._here, self.far_address = (f"10.232.{net}.{subnet & ~3 | host}" for host in (1, 2))
        self.within = ("ip", "netns", "exec", self._name)

    async def lay(self) -> None:
        name = self._name
        await _run("ip", "link", "add", name, "type", "veth", "peer", "name", "far", "netns", name)
        await _run("ip", "addr", "add", f"{self._here}/30", "dev", name)
        await _run("ip", "link", "set", name, "up")
        await _run("ip", "-n", name, "addr", "add", f"{self.far_address}/30", "dev", "far")
        await self.plug_in()

    async def pull(self) -> None:
        await _run("ip", "-n", self._name, "link", "set", "far", "down")

    async def plug_in(self) -> None:
        await _run("ip", "-n", self._name, "link", "set", "far", "up")


@asynccontextmanager
async def laid_cable() -> AsyncIterator[Cable]:
    cable = Cable()
    await _run(*cable.within[:2], "add", cable.within[-1])
    try:
        await cable.lay()
        yield cable
    finally:
        await _run(*cable.within[:2], "del", cable.within[-1])


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command
