"""The pictures of docs/performance.md, as SVG by hand: cost of a delivery, also as rooms grow, and latency."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from bench import cases
from bench.cases import Case
from bench.rounds import Results
from bench.servers import Server

COLOURS = {
    "sidecar": "#0b6e4f", "Node ws": "#c9a227", "websockets": "#3a6ea5", "stock Sanic": "#b0413e", "C floor": "#777777",
    "bare uvloop": "#b8a8c8",
}  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 400, 70, 60, 60

Lines = dict[Server, list[tuple[float, float]]]
"""Points of each server's line."""


class Logarithmic:
    """From the power of ten below the least to the one above the most."""

    def __init__(self, values: Sequence[float]) -> None:
        self._low, self._high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def marks(self) -> Iterator[float]:
        return (10.0**power for power in range(self._low, self._high + 1))

    def height(self, value: float) -> float:
        return _height((math.log10(value) - self._low) / (self._high - self._low))


class FromZero:
    """From zero to the multiple of five above the most."""

    def __init__(self, values: Sequence[float]) -> None:
        self._high = math.ceil(max(values) / 5) * 5

    def marks(self) -> Iterator[float]:
        return iter(range(0, self._high + 1, 5))

    def height(self, value: float) -> float:
        return _height(value / self._high)


Scale = Logarithmic | FromZero


def cost(results: Results) -> str:
    """Bars on a logarithmic scale: CPU seconds per million deliveries."""
    return _svg(
        "CPU seconds per million deliveries (less is better, logarithmic)", _bars(results, cases.SATURATED)
    )


def latency(results: Results, rows: Sequence[Case]) -> str:
    """Lines on logarithmic scales: p99 over deliveries a second, of cases with rooms alike."""
    title = (
        f"p99 latency in ms, {rows[0].rooms} rooms of {rows[0].size}, open loop (less is better, logarithmic)"
    )
    lines: Lines = {}
    for row in rows:
        for server in row.servers:
            if p99 := results.median(row, server, "p99_us"):
                rate = row.options["rate"] * (row.size - 1) / 1000
                lines.setdefault(server, []).append((rate, p99 / 1000))
    return _svg(title, _lines(lines, Logarithmic, "{:.0f}k", "deliveries a second asked for"))


def growth(results: Results) -> str:
    """Lines from zero: what a delivery costs as the same load is spread over more rooms."""
    row = cases.GROWTH[-1]
    title = f"CPU µs of a delivery, {row.name}"
    lines: Lines = {}
    for server in row.servers:
        for step, rooms in enumerate((10, 100, 1000, row.rooms)):
            if value := results.median(row, server, "cpu_s_per_million", step):
                lines.setdefault(server, []).append((rooms, value))
    return _svg(title, _lines(lines, FromZero, "{:,.0f}", "rooms, of 3, that the load is spread over"))


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


def _height(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _grid(scale: Scale) -> Iterator[str]:
    for mark in scale.marks():
        y = scale.height(mark)
        yield f'<line x1="{LEFT}" y1="{y:.0f}" x2="{WIDTH - 20}" y2="{y:.0f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end" fill="#555">{mark:g}</text>'


def _legend(servers: Iterable[Server]) -> Iterator[str]:
    for number, server in enumerate(servers):
        x = LEFT + number * 130
        yield f'<rect x="{x}" y="36" width="12" height="12" fill="{COLOURS[server.name]}"/>'
        yield f'<text x="{x + 17}" y="47">{server.name}</text>'


def _bars(results: Results, rows: Sequence[Case]) -> Iterator[str]:
    values = {
        (row, server): value
        for row in rows
        for server in row.servers
        if (value := results.median(row, server, "cpu_s_per_million")) is not None
    }
    if not values:
        return
    scale = Logarithmic(list(values.values()))
    yield from _grid(scale)
    yield from _legend(rows[0].servers)
    group = (WIDTH - LEFT - 20) / len(rows)
    for at, row in enumerate(rows):
        yield f'<text x="{LEFT + group * (at + 0.45):.0f}" y="{HEIGHT - 30}" text-anchor="middle">{row.name}</text>'
        for number, server in enumerate(row.servers):
            if (row, server) in values:
                value = values[row, server]
                x, y = LEFT + group * at + number * group * 0.155, scale.height(value)
                yield (
                    f'<rect x="{x:.0f}" y="{y:.0f}" width="{group * 0.14:.0f}" height="{HEIGHT - BOTTOM - y:.0f}" '
                    f'fill="{COLOURS[server.name]}"/>'
                    f'<text x="{x + group * 0.07:.0f}" y="{y - 4:.0f}" text-anchor="middle" font-size="11">'
                    f"{value:.3g}</text>"
                )


def _lines(lines: Lines, scaled: type[Scale], mark: str, under: str) -> Iterator[str]:
    """Points from left to right on a logarithmic scale, marked below as `mark` formats them."""
    if not lines:
        return
    scale = scaled([y for line in lines.values() for _, y in line])
    marks = sorted({x for line in lines.values() for x, _ in line})
    left, right = math.log10(marks[0]), math.log10(marks[-1])

    def place(x: float) -> float:
        return LEFT + 30 + (math.log10(x) - left) / ((right - left) or 1) * (WIDTH - LEFT - 90)

    yield from _grid(scale)
    yield from _legend(lines)
    for x in marks:
        yield f'<text x="{place(x):.0f}" y="{HEIGHT - 38}" text-anchor="middle">{mark.format(x)}</text>'
    yield f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle">{under}</text>'
    for server, line in lines.items():
        path = " ".join(f"{place(x):.0f},{scale.height(y):.0f}" for x, y in line)
        yield f'<polyline points="{path}" fill="none" stroke="{COLOURS[server.name]}" stroke-width="2.5"/>'
        for x, y in line:
            yield f'<circle cx="{place(x):.0f}" cy="{scale.height(y):.0f}" r="4" fill="{COLOURS[server.name]}"/>'
