"""A host beyond a cable that can be pulled: packets are lost then, and nothing is reset."""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.harness import DEADLINE_SECONDS


class Cable:
    """Between this network namespace and another one: `within` begins a command there, `dial` a connection to here."""

    def __init__(self) -> None:
        self._name = f"far{secrets.token_hex(4)}"
        net, subnet = secrets.token_bytes(2)
        self.here, self.there = (f"10.232.{net}.{subnet & ~3 | host}" for host in (1, 2))
        self.within = ("ip", "netns", "exec", self._name)

    async def pull(self) -> None:
        await _run("ip", "-n", self._name, "link", "set", "far", "down")

    async def plug_in(self) -> None:
        await _run("ip", "-n", self._name, "link", "set", "far", "up")

    async def dial(self, port: int) -> socket.socket:
        """Connect from there to `port` here."""
        return await asyncio.to_thread(self._dial, port)

    def _dial(self, port: int) -> socket.socket:
        made: list[socket.socket] = []

        def dial() -> None:
            with Path(f"/var/run/netns/{self._name}").open() as file:
                assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0) == 0
            made.append(socket.create_connection((self.here, port), timeout=DEADLINE_SECONDS))

        # A thread of its own, that never comes back to this namespace; a socket stays where it was made.
        thread = threading.Thread(target=dial)
        thread.start()
        thread.join()
        made[0].setblocking(False)
        return made[0]

    async def lay(self) -> None:
        name = self._name
        await _run("ip", "link", "add", name, "type", "veth", "peer", "name", "far", "netns", name)
        await _run("ip", "addr", "add", f"{self.here}/30", "dev", name)
        await _run("ip", "link", "set", name, "up")
        await _run("ip", "-n", name, "addr", "add", f"{self.there}/30", "dev", "far")
        await self.plug_in()


@asynccontextmanager
async def laid_cable() -> AsyncIterator[Cable]:
    cable = Cable()
    name = cable.within[-1]
    await _run("ip", "netns", "add", name)
    try:
        await cable.lay()
        yield cable
    finally:
        await _run("ip", "netns", "del", name)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command
