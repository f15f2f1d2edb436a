"""The servers under load, one at a time: ours as it ships, and its peers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.world import AUDIENCE, PEERS, ROOT, SERVER_CORE, World

START_SECONDS = 15
STOP_SECONDS = 30

# Everything is on; only what would refuse the load is raised.
SETTINGS = {
    "host": "127.0.0.1",
    "port": 0,
    "ops_host": "127.0.0.1",
    "ops_port": 0,
    "jwt_audiences": AUDIENCE,
    "max_connections": 16_000,
    "max_room_connections": 2_000,
    "membership_timeout_ms": 10_000,  # the chat service shares a core with the generator
    "message_rate": 1_000_000,
    "message_burst": 1_000_000,
    "handshake_rate": 1_000_000,
    "handshake_burst": 1_000_000,
    "address_handshake_rate": 1_000_000,
    "address_handshake_burst": 1_000_000,
}


@dataclass(frozen=True, eq=False)
class Server:
    """How to start one; `command` gets the world and a free port. `settings` are our own program's alone."""

    name: str
    command: Callable[[World, int], list[str | Path]] | None = None
    settings: dict[str, object] = field(default_factory=dict)
    memory_mib: int = 0
    """Private writable memory it may have (RLIMIT_DATA); 0: no bound."""

    @property
    def is_ours(self) -> bool:
        return self.command is None


SIDECAR = Server("sidecar")
NODE_WS = Server("Node ws", lambda world, port: ["node", world.directory / "node_ws.js", str(port)])
WEBSOCKETS = Server("websockets", lambda _, port: [sys.executable, PEERS / "python_websockets.py", str(port)])
STOCK_SANIC = Server("stock Sanic", lambda _, port: [sys.executable, PEERS / "stock_sanic.py", str(port)])
BARE_UVLOOP = Server("bare uvloop", lambda _, port: [sys.executable, PEERS / "bare_uvloop.py", str(port)])
FLOOR = Server("C floor", lambda world, port: [world.floor, str(port)])


@dataclass(frozen=True)
class Running:
    pid: int
    port: int


@contextlib.contextmanager
def running(server: Server, world: World) -> Iterator[Running]:
    """The server on a core of its own, until the block ends. Raises: RuntimeError where it does not start."""
    log = world.directory / "server.log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    port = _free_port()
    if server.command is None:
        settings = SETTINGS | server.settings
        settings |= {
            "jwt_public_key_file": world.public_key,
            "membership_target": f"127.0.0.1:{world.chat_port}",
        }
        environ |= {f"SIDECAR_{name.upper()}": str(value) for name, value in settings.items()}
        command: list[str | Path] = [sys.executable, "-m", "sidecar", "serve"]
    else:
        command = server.command(world, port)
    if server.memory_mib:
        command = ["prlimit", f"--data={server.memory_mib << 20}", *command]
    with log.open("w") as out:
        process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *command], cwd=ROOT, env=environ, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port if server.command else (port := _told_port(log)), process):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{server.name} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield Running(process.pid, port)
    finally:
        process.kill()
        process.wait(STOP_SECONDS)


def _told_port(log: Path) -> int:
    """Our own program says in its log where it listens."""
    for line in log.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if entry.get("event") == "started":
                return int(entry["signaling"].rpartition(":")[2])
    return 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _listens(port: int, process: subprocess.Popen) -> bool:
    if not port or process.poll() is not None:
        return False
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0
