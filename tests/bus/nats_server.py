"""A real nats-server of the test's own, on loopback: started, killed, stalled and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.harness import DEADLINE_SECONDS

CUT_SECONDS = float(os.environ.get("CUT_SECONDS", "0"))
"""How long the bus stays away beyond that being noticed; 30 takes its time."""
_PROGRAM = str(Path(sys.executable).parent / "nats-server")
_LISTENING = re.compile(r"Listening for client connections on 127\.0\.0\.1:(\d+)")


class NatsServer:
    """`directory` keeps its configuration and JetStream's files; the port stays the same over restarts."""

    def __init__(self, directory: Path, config: str = "", *, jetstream: bool = True) -> None:
        self.directory = directory
        self.config = config
        if jetstream:
            self.config += f"\njetstream {{ store_dir: {str(directory / 'jetstream')!r} }}\n"
        self.port = 0
        self.log: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        file = self.directory / "nats.conf"
        file.write_text(f"host: 127.0.0.1\nport: {self.port or -1}\n{self.config}")
        program = shutil.which("nats-server", path=str(Path(_PROGRAM).parent)) or "nats-server"
        self._process = await asyncio.create_subprocess_exec(
            program, "-c", str(file), stderr=asyncio.subprocess.PIPE
        )
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(self._process, ready))
        async with asyncio.timeout(DEADLINE_SECONDS):
            self.port = await ready

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Future[int]) -> None:
        assert process.stderr is not None
        port = 0
        async for raw in process.stderr:
            line = raw.decode()
            self.log.append(line)
            if found := _LISTENING.search(line):
                port = int(found[1])
            if "Server is ready" in line:
                ready.set_result(port)
        if not ready.done():
            ready.set_exception(RuntimeError("nats-server did not start:\n" + "".join(self.log)))

    async def kill(self) -> None:
        """At once; again does nothing."""
        if self._process is None:
            return
        assert self._reader is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader
        self._process = None

    def stall(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def run_nats(directory: Path, config: str = "", *, jetstream: bool = True) -> AsyncIterator[NatsServer]:
    server = NatsServer(directory, config, jetstream=jetstream)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@contextlib.asynccontextmanager
async def run_nats_cluster(directory: Path, names: str = "abc") -> AsyncIterator[list[NatsServer]]:
    """Servers that are each a member of one cluster, and know each other."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = [each.getsockname()[1] for each in sockets]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    servers = []
    for name, port in zip(names, ports, strict=True):
        (directory / name).mkdir()
        cluster = f"cluster {{ name: test, host: 127.0.0.1, port: {port}, routes: [{routes}] }}"
        servers.append(NatsServer(directory / name, f"server_name: {name}\n{cluster}"))
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_callback(server.kill)
        await asyncio.gather(*(server.start() for server in servers))
        yield servers
