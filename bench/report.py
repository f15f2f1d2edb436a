"""The results as Markdown: medians, and how many times ours the others' are."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from bench import cases, reconnect
from bench.cases import Case
from bench.reconnect import Wave
from bench.rounds import Results
from bench.servers import SIDECAR, Server


def markdown(results: Results, waves: Sequence[Wave], *, rounds: int, seconds: float) -> str:
    return "\n".join([*_lines(results, rounds, seconds), *reconnect.lines(waves)]) + "\n"


def _lines(results: Results, rounds: int, seconds: float) -> Iterator[str]:
    yield from _machine(results, rounds, seconds)
    cost = "cpu_s_per_million"
    yield from _table(
        results, "CPU seconds of the server per million deliveries", _named(*cases.SATURATED), cost
    )
    yield from _table(
        results,
        "Deliveries a second, thousands, same runs",
        _named(*cases.SATURATED),
        "deliveries_per_s",
        1e-3,
    )
    yield from _table(
        results,
        "Size of messages, saturated rooms of 8: CPU seconds per million deliveries",
        dict(zip(("0.3 KB", "1 KB", "8 KB"), cases.SIZES, strict=True)),
        cost,
    )
    yield from _table(
        results,
        "Directed messages and dialects: CPU seconds per million deliveries",
        _named(*cases.KINDS),
        cost,
    )
    for figure, name in (("p50_us", "p50"), ("p99_us", "p99"), ("p999_us", "p99.9")):
        title = f"Open loop: latency {name}, milliseconds"
        yield from _table(results, title, _named(*cases.OPEN_LOOP), figure, 1e-3)
    for title, figure, scale in (
        ("Open loop: deliveries a second, thousands", "deliveries_per_s", 1e-3),
        ("Open loop: cores the server used", "server_cpu", 1.0),
        (
            "Open loop: messages a second sent, thousands (deliveries / receivers, unless the generator is late)",
            "sent_per_s",
            1e-3,
        ),
    ):
        yield from _table(results, title, _named(*cases.OPEN_LOOP), figure, scale)
    yield from _stalled(results)
    yield from _growth(results)
    yield from _table(
        results, "KB of memory (RSS) per idle connection", _named(*cases.IDLE), "kb_per_connection"
    )
    title = "KB per connection after one message in each room"
    yield from _table(results, title, _named(*cases.IDLE), "kb_per_connection_after_message")
    yield from _table(results, "Cores of idle upkeep", _named(*cases.IDLE), "idle_cpu")
    yield from _accepts(results)
    if results.spoilt:
        yield "\n## Runs that do not count\n"
        yield from (f"- {spoilt}" for spoilt in results.spoilt)


def _named(*rows: Case) -> dict[str, Case]:
    return {case.name: case for case in rows}


def _machine(results: Results, rounds: int, seconds: float) -> Iterator[str]:
    loads = [float(run["load_average"]) for runs in results.runs.values() for run in runs]
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
    yield (
        f"- {rounds} rounds (memory: one; rooms of 8 at 9k deliveries/s: five times as many), {seconds:g} s measured "
        "per run, medians; 1 KB messages but where said"
    )
    if loads:
        yield f"- load average while measuring: {min(loads):.1f} to {max(loads):.1f} (a run by itself makes 2)"
    yield "- `×` is how many times ours; the sidecar authenticates, limits, counts and logs, the peers do none of it"


def _table(
    results: Results, title: str, rows: dict[str, Case], figure: str, scale: float = 1
) -> Iterator[str]:
    rows = {
        name: row
        for name, row in rows.items()
        if any(results.runs[row.name, server.name] for server in row.servers)
    }
    if not rows:
        return
    servers: list[Server] = []
    for row in rows.values():
        servers += [server for server in row.servers if server not in servers]
    yield f"\n## {title}\n"
    yield "| | " + " | ".join(server.name for server in servers) + " |"
    yield "|---|" + "---:|" * len(servers)
    for name, row in rows.items():
        ours = results.median(row, SIDECAR, figure)
        cells = []
        for server in servers:
            value = results.median(row, server, figure) if server in row.servers else None
            cells.append("" if value is None else _cell(value * scale, ours and value / ours, server))
        yield f"| {name} | " + " | ".join(cells) + " |"


def _stalled(results: Results) -> Iterator[str]:
    rows = [case for case in cases.STALLED if results.runs[case.name, SIDECAR.name]]
    if not rows:
        return
    yield "\n## Readers that stall: latency of the others in their room, milliseconds\n"
    yield "8 rooms of 8, 42k deliveries/s, the same in each row; the stalled come on top, and are closed meanwhile.\n"
    yield "| | p50 | p99 | p99.9 | stalled, closed | peak memory, MB |"
    yield "|---|---:|---:|---:|---:|---:|"
    for case in rows:
        figure = functools.partial(results.median, case, SIDECAR)
        times = " | ".join(f"{(figure(name) or 0) / 1e3:.3f}" for name in ("p50_us", "p99_us", "p999_us"))
        yield f"| {case.name} | {times} | {figure('stalled_closed'):.0f} | {figure('peak_mb'):.0f} |"


def _growth(results: Results) -> Iterator[str]:
    rows = [case for case in cases.GROWTH if results.runs[case.name, SIDECAR.name]]
    if not rows:
        return
    yield "\n## As rooms and connections grow: CPU seconds per million deliveries (TCP segments a delivery)\n"
    yield "Rooms of 3; the same load spread over so many of them, after everybody spoke once. Upkeep is what the"
    yield "connections cost without any message, measured by itself on the same ones and taken off the others.\n"
    yield "| | 10 rooms speak | 100 | 1,000 | all | all / 10 | upkeep, cores |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for case in rows:
        steps = 3 if case.rooms <= 1000 else 4
        for server in case.servers:
            figure = functools.partial(results.median, case, server)
            costs = [
                f"{figure('cpu_s_per_million', step):.2f} ({figure('segments_per_delivery', step):.1f})"
                for step in range(steps)
                if results.runs[case.name, server.name]
            ]
            if costs:
                cells = [*costs[:-1], *[""] * (4 - steps), costs[-1]]
                growth = results.growth(case, server, "cpu_s_per_million")
                cells += [f"{growth:.2f}", f"{figure('idle_cpu'):.3f}"]
                yield f"| {case.name}: {server.name} | " + " | ".join(cells) + " |"


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
