"""A real sidecar in its own process, a real chat service, real sockets: what end-to-end tests stand on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from sidecar.dev.issuer import AUDIENCE, Issuer

ROOT = Path(__file__).parent.parent
DEADLINE_SECONDS = 15
START_SECONDS = 60  # what a process may take to start on a machine that is busy with other things


def guid() -> str:
    return str(uuid.uuid4())


async def until(condition, what: str = "condition", seconds: float = DEADLINE_SECONDS):
    """Wait until `condition()` is true, and return what it gave; fail with `what` if that takes too long."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            while True:
                result = condition()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        if deadline.expired():
            raise AssertionError(f"{what}: not within {seconds} s") from error
        raise


class LoopTurns:
    """`with LoopTurns() as turns:` counts the turns of the running loop."""

    def __enter__(self):
        self.number = -1
        self._turn()
        return self

    def _turn(self) -> None:
        self.number += 1
        self._next = asyncio.get_running_loop().call_soon(self._turn)

    def __exit__(self, *_):
        self._next.cancel()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


async def http(url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    def ask() -> Answer:
        request = urllib.request.Request(url, method=method, headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:
                return Answer(
                    response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
                )
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    return await asyncio.to_thread(ask)


class Client:
    """A WebSocket client of a library nobody here wrote, that speaks JSON."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.welcome: dict = {}
        self.account = ""

    @property
    def connection_id(self) -> str:
        return self.welcome.get("connectionId") or self.welcome["connection_id"]

    async def send(self, packet: object) -> None:
        await self.ws.send(packet if isinstance(packet, str | bytes) else json.dumps(packet))

    async def receive(self) -> dict:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return json.loads(await self.ws.recv())

    async def receive_signal(self, kind: str) -> dict:
        """The data of the next signal of that type; what comes before it is passed over."""
        while True:
            packet = await self.receive()
            if packet.get("data", {}).get("type") == kind:
                return packet["data"]

    async def nothing_more(self) -> None:
        """Fail if anything arrived that was not received: whatever was on its way is here before the pong."""
        mark = guid()
        await self.send({"type": "ping", "data": mark})
        packet = await self.receive()
        assert packet == {"type": "pong", "data": mark}, packet

    async def closed(self) -> tuple[int, str]:
        """Wait until the server closes; the close code and reason."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.ws.wait_closed()
        return self.ws.close_code, self.ws.close_reason

    async def close(self) -> None:
        await self.ws.close()


@dataclass
class Sidecar:
    """One running `python -m sidecar serve`."""

    process: asyncio.subprocess.Process
    log: list[dict] = field(default_factory=list)
    raw_log: list[str] = field(default_factory=list)
    port: int = 0
    ops_port: int = 0
    clients: list[Client] = field(default_factory=list)

    def url(self, room: str, *, scheme: str = "ws", prefix: str = "/sphere", query: str = "") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{prefix}/chat/realtime/{room}{query and '?' + query}"

    async def connect(
        self,
        room: str,
        token: str | None = None,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        **options,
    ) -> Client:
        """Connect and read the welcome. Raises websockets' InvalidStatus where the handshake is refused."""
        extra = dict(headers or {})
        if token is not None:
            extra["Authorization"] = f"Bearer {token}"
        options.setdefault("compression", None)
        options.setdefault("max_size", None)
        client = Client(
            await connect(self.url(room, query=query), additional_headers=extra, proxy=None, **options)
        )
        self.clients.append(client)
        first = await client.receive()
        assert first["type"] == "webrtc", first
        client.welcome = first["data"]
        return client

    async def probe(self, room: str, token: str | None = None, **headers: str) -> Answer:
        """A plain GET of the endpoint."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return await http(self.url(room, scheme="http"), headers=headers)

    async def ops(self, path: str, **options) -> Answer:
        return await http(f"http://127.0.0.1:{self.ops_port}{path}", **options)

    async def metrics(self) -> dict[str, float]:
        """Samples by name with labels, as the text format writes them."""
        page = (await self.ops("/metrics")).body.decode()
        lines = [line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    async def logged(self, event: str, **fields) -> dict:
        """Wait for a log line."""

        def find():
            for line in self.log:
                if line.get("event") == event and all(
                    line.get(key) == value for key, value in fields.items()
                ):
                    return line
            return None

        return await until(find, f"log line {event!r} {fields}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_status(self) -> int:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def run_sidecar(*, open_files: int | None = None, **settings: object) -> AsyncIterator[Sidecar]:
    """Start a sidecar with these settings (names without prefix, any case); end it however the test ended.

    `open_files` is how many it may have open; None: as many as the test.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    defaults = {"host": "127.0.0.1", "port": 0, "ops_host": "127.0.0.1", "ops_port": 0}
    environ |= {f"SIDECAR_{name.upper()}": str(value) for name, value in (defaults | settings).items()}
    limited = ["prlimit", f"--nofile={open_files}"] if open_files else []
    process = await asyncio.create_subprocess_exec(
        *limited, sys.executable, "-m", "sidecar", "serve",
        cwd=ROOT, env=environ, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    sidecar = Sidecar(process)
    started = asyncio.Event()

    async def read_log() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            sidecar.raw_log.append(line.decode())
            with contextlib.suppress(json.JSONDecodeError):
                sidecar.log.append(json.loads(line))
                if sidecar.log[-1].get("event") == "started":
                    sidecar.port = int(sidecar.log[-1]["signaling"].rpartition(":")[2])
                    sidecar.ops_port = int(sidecar.log[-1]["ops"].rpartition(":")[2])
                    started.set()
        started.set()

    reader = asyncio.create_task(read_log())
    try:
        async with asyncio.timeout(START_SECONDS):
            await started.wait()
        if not sidecar.port:
            raise AssertionError("the sidecar did not start:\n" + "".join(sidecar.raw_log))
        yield sidecar
    finally:
        for client in sidecar.clients:
            client.ws.transport.abort()
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


def auth_settings(issuer: Issuer) -> dict[str, object]:
    return {"jwt_public_key_file": issuer.public_file, "jwt_audiences": AUDIENCE}
