"""`python -m bench.reconnect`: 10,000 idle connections to a sidecar with one CPU and 512 MiB are cut and come back.

Twice: all in the same instant, and as docs/clients.md asks (a random time below 0.5 s, then backoff). From the sixth
second on 100 a second more leave and return, so that there is something to see after the wave. A handshake's time
begins with its TCP connection. Tokens and memberships are still remembered by then, as they would be.

Memory is bounded by RLIMIT_DATA (private writable memory, touched or not), which needs no privilege; what sockets hold
in the kernel is in neither this bound nor the peak (VmHWM).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import uvloop

from bench.people import Entry, People
from bench.servers import Running, Server, running
from bench.world import LOAD_CORE, World

CONNECTIONS = 10_000
MEMORY_MIB = 512
BOUNDED = Server("sidecar", memory_mib=MEMORY_MIB)
CALM_SECONDS = 3.0
WAVE_SECONDS = 5.0
LEAVING_SECONDS = 5.0
LEAVING_PER_SECOND = 100
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Wave:
    """Seconds, but for the numbers of connections and the megabytes."""

    all_at_once: bool
    all_back_after: float
    handshake_p50: float
    handshake_p99: float
    handshake_longest: float
    late_p99: float
    """Of the handshakes that ended more than `WAVE_SECONDS` after the cut."""
    late: int
    in_vain: int
    missing: int
    """Who was not inside at the end; all of them, if the server died."""
    peak_mb: float


def measure(world: World, *, connections: int = CONNECTIONS) -> list[Wave]:
    """Both waves, on one server. The chat service has to run. Raises: RuntimeError, TimeoutError."""
    targets = [
        f"/api/chat/realtime/00000000-0000-4000-8000-{number // 2:012d}?tk={token}"
        for number, (_, token) in enumerate(world.people(connections))
    ]
    with running(BOUNDED, world) as server, _on_the_load_core():
        return uvloop.run(_waves(server, targets))


@contextlib.contextmanager
def _on_the_load_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _waves(server: Running, targets: list[str]) -> list[Wave]:
    people = People(targets, ports=[server.port])
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await people.enter(people.everybody)
        return [await _wave(server, people, all_at_once=all_at_once) for all_at_once in (True, False)]
    finally:
        await people.leave()


async def _wave(server: Running, people: People, *, all_at_once: bool) -> Wave:
    await asyncio.sleep(CALM_SECONDS)
    everybody = people.everybody
    people.entries.clear()
    people.refused = 0
    cut_at = monotonic()
    people.cut(everybody, all_at_once=all_at_once)
    await _until(lambda: len(people.entries) >= len(everybody), cut_at + DEADLINE_SECONDS)
    back = list(people.entries)
    await asyncio.sleep(cut_at + WAVE_SECONDS - monotonic())
    begun, leaving = monotonic(), 0
    while (past := monotonic() - begun) < LEAVING_SECONDS:
        while leaving < past * LEAVING_PER_SECOND:
            people.cut(everybody[leaving % len(everybody) :][:1], all_at_once=True)
            leaving += 1
        await asyncio.sleep(0.005)
    await _until(lambda: people.inside == len(everybody), monotonic() + CALM_SECONDS)
    took = _times(back)
    late = _times([entry for entry in people.entries if entry.entered_at > cut_at + WAVE_SECONDS])
    return Wave(
        all_at_once=all_at_once,
        all_back_after=max(entry.entered_at for entry in back) - cut_at if back else DEADLINE_SECONDS,
        handshake_p50=quantile(took, 0.5),
        handshake_p99=quantile(took, 0.99),
        handshake_longest=took[-1],
        late_p99=quantile(late, 0.99),
        late=len(late),
        in_vain=people.refused,
        missing=len(everybody) - people.inside,
        peak_mb=_peak_mb(server.pid),
    )


async def _until(condition, deadline: float) -> None:
    """Wait for it, but not longer: what is missing then is counted."""
    while not condition() and monotonic() < deadline:
        await asyncio.sleep(0.02)


def _times(entries: Sequence[Entry]) -> list[float]:
    return sorted(entry.entered_at - entry.tried_at for entry in entries) or [float("nan")]


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _peak_mb(pid: int) -> float:
    """0 where the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def lines(waves: Sequence[Wave]) -> Iterator[str]:
    """The medians as Markdown."""
    if not waves:
        return
    yield f"\n## One CPU, {MEMORY_MIB} MiB: {CONNECTIONS:,} connections are cut and come back\n"
    yield f"Seconds; after the first {WAVE_SECONDS:g} s {LEAVING_PER_SECOND} a second more leave and return. Memory is"
    yield "bounded by RLIMIT_DATA; the peak is VmHWM.\n"
    yield (
        "| back | all inside after | handshake p50 | p99 | longest | p99 after the first 5 s | tries in vain "
        "| not back | peak MB |"
    )
    yield "|---|" + "---:|" * 8
    for all_at_once, name in ((True, "all in one instant"), (False, "with the client's backoff")):
        ours = [wave for wave in waves if wave.all_at_once == all_at_once]

        def middle(figure: str, ours: Sequence[Wave] = ours) -> float:
            return statistics.median(getattr(wave, figure) for wave in ours)

        cells = [
            *(f"{middle(figure):.2f}" for figure in ("all_back_after", "handshake_p50", "handshake_p99")),
            *(f"{middle(figure):.2f}" for figure in ("handshake_longest", "late_p99")),
            *(f"{middle(figure):.0f}" for figure in ("in_vain", "missing", "peak_mb")),
        ]
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    waves = []
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as name:
        world = World(Path(name))
        world.build(node=False)
        with world.chat_service():
            for _ in range(arguments.rounds):
                waves += measure(world, connections=arguments.connections)
                print(*waves[-2:], sep="\n", file=sys.stderr)
    print("\n".join(lines(waves)))


if __name__ == "__main__":
    main()
