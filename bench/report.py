"""The results as Markdown: medians, and how many times ours the others' are."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from bench import cases
from bench.cases import Case
from bench.rounds import Results
from bench.servers import SIDECAR, Server


def markdown(results: Results, *, rounds: int, seconds: float) -> str:
    return "\n".join(_lines(results, rounds, seconds)) + "\n"


def _lines(results: Results, rounds: int, seconds: float) -> Iterator[str]:
    yield from _machine(results, rounds, seconds)
    yield from _table(
        results, "CPU seconds of the server per million deliveries", (*cases.SATURATED, *cases.SIZES, *cases.KINDS[:2]),
        "cpu_s_per_million",
    )  # fmt: skip
    yield from _table(
        results, "Deliveries a second, thousands, same runs", cases.SATURATED, "deliveries_per_s", 1e-3
    )
    for figure, name in (("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9")):
        yield from _table(
            results, f"Latency {name}, milliseconds", (*cases.OPEN_LOOP, cases.KINDS[2]), figure, 1e-3
        )
    yield from _table(
        results, "Deliveries a second, thousands, same runs", cases.OPEN_LOOP, "deliveries_per_s", 1e-3
    )
    yield from _table(
        results, "As rooms grow: CPU seconds per million deliveries, upkeep of idle connections included", cases.GROWTH,
        "cpu_s_per_million",
    )  # fmt: skip
    yield from _table(results, "As rooms grow: cores of idle upkeep", cases.GROWTH, "idle_cpu")
    yield from _table(results, "KB of memory (RSS) per idle connection", cases.IDLE, "kb_per_connection")
    yield from _table(
        results,
        "KB per connection after one message in each room",
        cases.IDLE,
        "kb_per_connection_after_message",
    )
    yield from _accepts(results)
    if results.spoilt:
        yield "\n## Runs that do not count\n"
        yield from (f"- {spoilt}" for spoilt in results.spoilt)


def _machine(results: Results, rounds: int, seconds: float) -> Iterator[str]:
    loads = [float(run["load_average"]) for runs in results.runs.values() for run in runs]  # type: ignore[arg-type]  # read from JSON
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("sanic", "uvloop", "websockets", "msgspec", "grpcio")
    )
    yield "Written by `make bench`; do not edit.\n"
    yield f"- machine: {model}, {os.cpu_count()} CPUs, Linux {platform.release()}; server on one, load on the other"
    yield f"- Python {platform.python_version()}, {packages}; Node {node}"
    yield f"- {rounds} rounds, {seconds:g} s measured per run, medians; 1 KB messages where nothing else is said"
    if loads:
        yield f"- load average while measuring: {min(loads):.1f} to {max(loads):.1f} (a run by itself makes 2)"
    yield "- `×` is how many times ours; the sidecar authenticates, limits, counts and logs, the peers do none of it"


def _table(
    results: Results, title: str, rows: Iterable[Case], figure: str, scale: float = 1
) -> Iterator[str]:
    rows = [row for row in rows if any(results.runs[row.name, server.name] for server in row.servers)]
    if not rows:
        return
    servers: list[Server] = []
    for row in rows:
        servers += [server for server in row.servers if server not in servers]
    yield f"\n## {title}\n"
    yield "| | " + " | ".join(server.name for server in servers) + " |"
    yield "|---|" + "---:|" * len(servers)
    for row in rows:
        ours = results.median(row, SIDECAR, figure)
        cells = []
        for server in servers:
            value = results.median(row, server, figure) if server in row.servers else None
            cells.append("" if value is None else _cell(value * scale, ours and value / ours, server))
        yield f"| {row.name} | " + " | ".join(cells) + " |"


def _cell(value: float, ratio: float | None, server: Server) -> str:
    text = f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return text if server.is_ours or not ratio else f"{text} ({ratio:.1f}×)"


def _accepts(results: Results) -> Iterator[str]:
    ours, tokens, peers = cases.ACCEPTS
    lines = [
        ("sidecar: nothing cached (RS256 and gRPC)", ours, SIDECAR, 0),
        ("sidecar: tokens cached", tokens, tokens.servers[0], 1),
        ("sidecar: both cached", ours, SIDECAR, 1),
        *((f"{server.name}: no checks at all", peers, server, 0) for server in peers.servers),
    ]
    if not any(results.runs[case.name, server.name] for _, case, server, _ in lines):
        return
    yield "\n## Accepts\n"
    yield "| | accepts a second | CPU µs each |"
    yield "|---|---:|---:|"
    for name, case, server, index in lines:
        rate = results.median(case, server, "accepts_per_s", index)
        cost = results.median(case, server, "cpu_us_per_accept", index)
        if rate is not None and cost is not None:
            yield f"| {name} | {rate:,.0f} | {cost:.0f} |"
