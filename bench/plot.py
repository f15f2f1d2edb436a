"""The two pictures of docs/performance.md, as SVG by hand: cost per delivery, and latency up to collapse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bench import cases
from bench.cases import Case
from bench.rounds import Results
from bench.servers import Server

COLOURS = {
    "sidecar": "#0b6e4f", "Node ws": "#c9a227", "websockets": "#3a6ea5", "stock Sanic": "#b0413e", "C floor": "#777777",
    "bare uvloop": "#b8a8c8",
}  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 400, 70, 60, 60


def cost(results: Results) -> str:
    """Bars on a logarithmic scale: CPU seconds per million deliveries."""
    rows = [case for case in cases.SATURATED if _measured(results, case)]
    return _svg("CPU seconds per million deliveries (less is better, logarithmic)", _bars(results, rows))


def latency(results: Results) -> str:
    """Lines on logarithmic scales: p99 over deliveries a second."""
    rows = [case for case in cases.OPEN_LOOP if _measured(results, case)]
    return _svg(
        "p99 latency in ms, 32 rooms of 8, open loop (less is better, logarithmic)", _lines(results, rows)
    )


def _measured(results: Results, case: Case) -> bool:
    return any(results.runs[case.name, server.name] for server in case.servers)


def _svg(title: str, body: Iterator[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
            ' font-family="sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="24" font-size="16" font-weight="bold">{title}</text>',
            *body,
            "</svg>\n",
        ]
    )


def _scale(values: Sequence[float]) -> tuple[float, float]:
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


def _height(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (math.log10(value) - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def _grid(low: float, high: float) -> Iterator[str]:
    for power in range(int(low), int(high) + 1):
        y = _height(10**power, low, high)
        yield f'<line x1="{LEFT}" y1="{y:.0f}" x2="{WIDTH - 20}" y2="{y:.0f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end" fill="#555">{10**power:g}</text>'


def _legend(servers: Sequence[Server]) -> Iterator[str]:
    for number, server in enumerate(servers):
        x = LEFT + number * 130
        yield f'<rect x="{x}" y="36" width="12" height="12" fill="{COLOURS[server.name]}"/>'
        yield f'<text x="{x + 17}" y="47">{server.name}</text>'


def _bars(results: Results, rows: list[Case]) -> Iterator[str]:
    values = {
        (row, server): value
        for row in rows
        for server in row.servers
        if (value := results.median(row, server, "cpu_s_per_million")) is not None
    }
    if not values:
        return
    low, high = _scale(list(values.values()))
    yield from _grid(low, high)
    yield from _legend(rows[0].servers)
    group = (WIDTH - LEFT - 20) / len(rows)
    for at, row in enumerate(rows):
        yield f'<text x="{LEFT + group * (at + 0.45):.0f}" y="{HEIGHT - 30}" text-anchor="middle">{row.name}</text>'
        for number, server in enumerate(row.servers):
            if (row, server) in values:
                value = values[row, server]
                x, y = LEFT + group * at + number * group * 0.155, _height(value, low, high)
                yield (
                    f'<rect x="{x:.0f}" y="{y:.0f}" width="{group * 0.14:.0f}" height="{HEIGHT - BOTTOM - y:.0f}" '
                    f'fill="{COLOURS[server.name]}"/>'
                    f'<text x="{x + group * 0.07:.0f}" y="{y - 4:.0f}" text-anchor="middle" font-size="11">'
                    f"{value:.3g}</text>"
                )


def _lines(results: Results, rows: list[Case]) -> Iterator[str]:
    points: dict[Server, list[tuple[float, float]]] = {}
    for row in rows:
        for server in row.servers:
            p99 = results.median(row, server, "p99_us")
            if p99:
                points.setdefault(server, []).append((row.options["rate"] * 7 / 1000, p99 / 1000))
    if not points:
        return
    low, high = _scale([y for line in points.values() for _, y in line])
    rates = [x for line in points.values() for x, _ in line]
    left, right = math.log10(min(rates)), math.log10(max(rates))

    def place(rate: float) -> float:
        return LEFT + 30 + (math.log10(rate) - left) / ((right - left) or 1) * (WIDTH - LEFT - 90)

    yield from _grid(low, high)
    yield from _legend(list(points))
    for rate in sorted(set(rates)):
        yield f'<text x="{place(rate):.0f}" y="{HEIGHT - 38}" text-anchor="middle">{rate:.0f}k</text>'
    yield f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle">deliveries a second asked for</text>'
    for server, line in points.items():
        path = " ".join(f"{place(x):.0f},{_height(y, low, high):.0f}" for x, y in line)
        yield f'<polyline points="{path}" fill="none" stroke="{COLOURS[server.name]}" stroke-width="2.5"/>'
        for x, y in line:
            yield f'<circle cx="{place(x):.0f}" cy="{_height(y, low, high):.0f}" r="4" fill="{COLOURS[server.name]}"/>'
