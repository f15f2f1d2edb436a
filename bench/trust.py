"""What trust costs: `python -m bench.trust [handshakes | flood | rechecks]`, all three when none is named.

The sidecar is the shipped program, alone on CPU 0; whoever asks it is on CPU 1. CPU is that of the whole sidecar
process, from /proc. On a machine that others use too, CPU figures keep their meaning and rates and times do not,
so each figure is the median of several rounds, with the least and the most beside it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import grpc

from tests.auth.auth_issuer import live_claims, private_key, sign
from tests.chat_service import ChatServiceDouble
from tests.harness import Client, Sidecar, guid, run_sidecar
from tests.trust import trust_issuer as issuing
from tests.trust.trust_issuer import NO_LIMITS, token
from tests.trust.trust_peers import connect_all, count

HANDSHAKES = 2000
ROUNDS = 5
AT_ONCE = 16
FLOOD_CONNECTIONS = 64
FLOOD_SECONDS = 4.0
PING_SECONDS = 0.025  # within the rate a connection may send at
LIVE = 1000
WATCHED_SECONDS = 60.0
SETTLING_SECONDS = 20.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(sidecar: Sidecar) -> float:
    """What the process has used so far, all threads, user and system."""
    fields = Path(f"/proc/{sidecar.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def pin(sidecar: Sidecar) -> None:
    for thread in Path(f"/proc/{sidecar.process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {0})


@asynccontextmanager
async def measured(chat: ChatServiceDouble, **settings: object) -> AsyncIterator[Sidecar]:
    with tempfile.NamedTemporaryFile() as key_file:
        key_file.write(issuing.PEM_OLD)
        key_file.flush()
        given = issuing.SETTINGS | {"jwt_public_key_file": key_file.name, "membership_target": chat.target}
        async with run_sidecar(**given | settings) as sidecar:
            pin(sidecar)
            yield sidecar


def head(room: str, credential: str, *, upgrade: bool) -> bytes:
    lines = [f"GET /sphere/chat/realtime/{room} HTTP/1.1", "Host: localhost"]
    if upgrade:
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    return "\r\n".join([*lines, f"Authorization: Bearer {credential}", "", ""]).encode()


# Handshakes


async def handshakes() -> None:
    """TCP, HTTP, token, membership, upgrade, join and welcome, each in a room of its own."""
    async with (
        ChatServiceDouble() as chat,
        measured(chat, **NO_LIMITS, membership_cache_seconds=600, membership_recheck_seconds=3600) as sidecar,
    ):
        figures: dict[str, list[tuple[float, float]]] = {}
        for _ in range(ROUNDS):
            people = [(guid(), guid()) for _ in range(HANDSHAKES)]
            for room, account in people:
                chat.allow(room, account)
            first, second = ([(room, token(account)) for room, account in people] for _ in range(2))
            for name, joins in (
                ("verified | asked by gRPC", first),
                ("verified | cached", second),
                ("cached | cached", second),
            ):
                before, begun = cpu_seconds(sidecar), time.perf_counter()
                writers = await shake_all(sidecar, joins)
                rate = len(joins) / (time.perf_counter() - begun)
                used = (cpu_seconds(sidecar) - before) / len(joins)
                figures.setdefault(name, []).append((used * 1e6, rate))
                await hang_up(sidecar, writers)
        print(f"\n{HANDSHAKES} handshakes, {AT_ONCE} at once; median of {ROUNDS} rounds (least, most)\n")
        print("| token | membership | CPU µs of the sidecar | handshakes/s |\n|---|---|---|---|")
        for name, rounds in figures.items():
            used, rates = zip(*rounds, strict=True)
            print(f"| {name} | {spread(used, 0)} | {spread(rates, 0)} |")


async def shake_all(sidecar: Sidecar, joins: list[tuple[str, str]]) -> list[asyncio.StreamWriter]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(room: str, credential: str) -> asyncio.StreamWriter:
        async with turns:
            reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
            writer.write(head(room, credential, upgrade=True))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 101"), answer
            await reader.readuntil(b'"heartbeatSeconds"')
            return writer

    return await asyncio.gather(*(one(*join) for join in joins))


async def hang_up(sidecar: Sidecar, writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()
    while count(await sidecar.metrics(), "connections"):
        await asyncio.sleep(0.1)


# A flood of bad tokens


@dataclass(frozen=True)
class Flooded:
    answers_per_second: float
    cpu_microseconds: float
    """Of the whole sidecar, for each answer."""
    ping_p50_ms: float
    ping_p99_ms: float


async def flood() -> None:
    """As many bad tokens as 64 connections can send, and somebody in a call beside them."""
    kinds = (
        ("nothing", "off"),
        ("what is no token", "off"),
        ("signed by a stranger", "off"),
        ("signed by a stranger", "as shipped"),
    )
    rounds: dict[tuple[str, str], list[Flooded]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, limits in kinds:
            async with (
                ChatServiceDouble() as chat,
                measured(chat, **(NO_LIMITS if limits == "off" else {})) as sidecar,
            ):
                rounds[kind, limits].append(await flood_one(sidecar, chat, kind))
    print(
        f"\n{FLOOD_CONNECTIONS} senders, each sends when it was answered; "
        f"medians of {ROUNDS} rounds of {FLOOD_SECONDS:g} s (least, most)\n"
    )
    print(
        "| they send | limits | answers/s | CPU µs each | a ping beside them: p50 ms | p99 ms |\n"
        "|---|---|---|---|---|---|"
    )
    for (kind, limits), results in rounds.items():
        cells = (
            spread([one.answers_per_second for one in results], 0),
            spread([one.cpu_microseconds for one in results], 0),
            spread([one.ping_p50_ms for one in results], 2),
            spread([one.ping_p99_ms for one in results], 1),
        )
        print(f"| {kind} | {limits} | {' | '.join(cells)} |")


def spread(values: list[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}, {max(values):.{digits}f})"


async def flood_one(sidecar: Sidecar, chat: ChatServiceDouble, kind: str) -> Flooded:
    room, account = guid(), guid()
    chat.allow(room, account)
    client = await sidecar.connect(room, token(account))
    process = None
    if kind != "nothing":
        process = await asyncio.create_subprocess_exec(
            *("nice", sys.executable, "-m", "bench.trust", "flooder", str(sidecar.port), kind),
            stdout=asyncio.subprocess.PIPE,
        )
        await process.stdout.readline()  # it begins
    before, begun = cpu_seconds(sidecar), time.perf_counter()
    pings = await ping_for(client, FLOOD_SECONDS)
    cores = (cpu_seconds(sidecar) - before) / (time.perf_counter() - begun)
    rate = each = 0.0
    if process is not None:
        statuses = json.loads((await process.communicate())[0])
        assert set(statuses) <= {"401", "429"}, statuses
        rate = sum(statuses.values()) / FLOOD_SECONDS
        each = cores / rate * 1e6
    await client.close()
    hundredths = quantiles(pings, n=100)
    return Flooded(rate, each, hundredths[49] * 1e3, hundredths[98] * 1e3)


async def ping_for(client: Client, seconds: float) -> list[float]:
    pings = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        await client.send({"type": "ping"})
        await client.receive()
        pings.append(time.perf_counter() - begun)
        await asyncio.sleep(PING_SECONDS)
    return pings


class Flooder(asyncio.Protocol):
    """One request per connection: the sidecar closes it with its refusal of an upgrade."""

    def __init__(self, requests: Iterator[bytes], statuses: Counter[int], closed: Callable[[], None]) -> None:
        self.requests, self.statuses, self.closed = requests, statuses, closed

    def connection_made(self, transport: asyncio.Transport) -> None:
        transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            self.statuses[int(data[9:12])] += 1

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed()


async def flooder(port: int, kind: str) -> None:
    stranger = private_key("stranger")
    credentials = {
        "what is no token": lambda: guid() * 20,
        "signed by a stranger": lambda: sign(live_claims(sub=guid()), stranger, kid=guid()),
    }
    requests = itertools.cycle([head(guid(), credentials[kind](), upgrade=True) for _ in range(1000)])
    statuses: Counter[int] = Counter()
    loop = asyncio.get_running_loop()

    async def one_after_the_other() -> None:
        while True:
            closed = asyncio.Event()
            connection = Flooder(requests, statuses, closed.set)
            await loop.create_connection(lambda made=connection: made, "127.0.0.1", port)
            await closed.wait()

    tasks = [asyncio.create_task(one_after_the_other()) for _ in range(FLOOD_CONNECTIONS)]
    await asyncio.sleep(1)
    print("flooding", flush=True)
    statuses.clear()
    await asyncio.sleep(FLOOD_SECONDS)
    print(json.dumps(statuses), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# Re-checks


async def rechecks() -> None:
    """What a thousand people who stay cost the chat service, everything as shipped."""
    print(f"\n{LIVE} live connections of as many accounts, in rooms of ten, as shipped, one minute\n")
    print(
        "| stream of changes | BatchGetMemberships | keys asked about | GetMembership | CPU of the sidecar |\n"
        "|---|---|---|---|---|"
    )
    for stream in ("there", "UNIMPLEMENTED"):
        async with ChatServiceDouble() as chat:
            if stream == "UNIMPLEMENTED":
                chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")
            async with measured(chat, **NO_LIMITS) as sidecar:
                await rechecks_one(sidecar, chat, stream)


async def rechecks_one(sidecar: Sidecar, chat: ChatServiceDouble, stream: str) -> None:
    rooms = [guid() for _ in range(LIVE // 10)]
    people = [(room, guid()) for room in rooms for _ in range(10)]
    for room, account in people:
        chat.allow(room, account)
    clients = await connect_all(sidecar, [(room, token(account)) for room, account in people])
    await asyncio.sleep(SETTLING_SECONDS)
    chat.calls.clear()
    chat.batch_sizes.clear()
    before = cpu_seconds(sidecar)
    await asyncio.sleep(WATCHED_SECONDS)
    used = (cpu_seconds(sidecar) - before) / WATCHED_SECONDS
    assert count(await sidecar.metrics(), "connections") == LIVE
    print(
        f"| {stream} | {chat.calls['BatchGetMemberships']} | {sum(chat.batch_sizes)} "
        f"| {chat.calls['GetMembership']} | {used * 100:.1f} % of a core, heartbeats included |"
    )
    for client in clients:
        client.ws.transport.abort()


async def main(*wanted: str) -> None:
    os.sched_setaffinity(0, {1})
    print(f"load of the machine before: {' '.join(f'{one:.1f}' for one in os.getloadavg())}")
    for part in (handshakes, flood, rechecks):
        if not wanted or part.__name__ in wanted:
            await part()
    print(f"\nload of the machine after: {' '.join(f'{one:.1f}' for one in os.getloadavg())}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["flooder"]:
        asyncio.run(flooder(int(sys.argv[2]), sys.argv[3]))
    else:
        asyncio.run(main(*sys.argv[1:]))
