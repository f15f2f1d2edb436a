"""The pictures of docs/performance.md, as SVG by hand: cost of a delivery, also as rooms grow, and latency.

They are read at the width of a page and of a telephone, in the light and in the dark.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bench import cases
from bench.cases import Case
from bench.rounds import Results
from bench.servers import SIDECAR, Server

COLOURS = {  # in the light, in the dark
    "sidecar": ("#0b7a57", "#2fbf8f"), "Node ws": ("#946a00", "#e3b341"), "websockets": ("#2f6fb3", "#6cb0f5"),
    "stock Sanic": ("#b0413e", "#f0807a"), "C floor": ("#6e7781", "#9aa4ae"), "bare uvloop": ("#8b5fb5", "#bf9ee6"),
}  # fmt: skip
WIDTH, LEFT, TOP = 680, 80, 72
LINE, LETTER = 21, 10.5
"""Height of a line and width of a letter, also where a narrow picture has larger ones."""
BEHIND_MS = 100
"""Who answers later has fallen behind: how much later tells how long the run was, and nothing of the server."""
STYLE = """
svg { color: #24292f }
text { fill: #24292f; font: 14px system-ui, sans-serif } .title { font-size: 17px; font-weight: 600 }
.quiet { fill: #636c76 } .ours { font-weight: 600 } .middle { text-anchor: middle } .end { text-anchor: end }
.paper { fill: #fff } .band { fill: #f3f4f6 } .grid { stroke: #dde1e6 } .in { fill: currentColor }
.label { stroke: #fff; stroke-width: 4px; paint-order: stroke } .bar { opacity: 0.55 } .sidecar .bar { opacity: 1 }
.line, .cross { fill: none; stroke: currentColor; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round }
.line { stroke-width: 5; opacity: 0.5 } .sidecar .line { stroke-width: 2.5; opacity: 1 }
@media (prefers-color-scheme: dark) {
  svg { color: #e6edf3 } text { fill: #e6edf3 } .quiet { fill: #9198a1 } .paper { fill: #0d1117 }
  .band { fill: #191f27 } .grid { stroke: #2f363e } .label { stroke: #0d1117 }
}
@media (max-width: 500px) { text { font-size: 18px } .title { font-size: 21px } }
"""

Point = tuple[float, float]
Lines = dict[Server, list[Point]]


@dataclass(frozen=True)
class Axis:
    """From `low` to `high` in the values' unit, which are at `start` and `end` in the picture."""

    low: float
    high: float
    start: float
    end: float
    marks: dict[float, str]
    is_logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


@dataclass
class Labels:
    """Finds a place for each that touches neither another nor a line; all of it where the picture has it."""

    lines: list[list[Point]]
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def beside(self, x: float, y: float, text: str, *, left: bool = False) -> str:
        width = len(text) * LETTER
        near = x - 10 - width if left else x + 10
        for down in (0, -LINE / 2, LINE / 2, -LINE, LINE, -2 * LINE, 2 * LINE):
            box = near, y + down - LINE / 2, near + width, y + down + LINE / 2
            if self._is_free(*box):
                break
        self.taken.append(box)
        return _text(x + (-10 if left else 10), y + down + 5, text, "label in end" if left else "label in")

    def _is_free(self, left: float, top: float, right: float, bottom: float) -> bool:
        if any(left < x1 and x0 < right and top < y1 and y0 < bottom for x0, y0, x1, y1 in self.taken):
            return False
        return not any(left < x < right and top < y < bottom for line in self.lines for x, y in _dense(line))


def cost(results: Results) -> str:
    """Bars from zero, each case on a scale of its own: CPU seconds per million deliveries."""
    names, start, end = 132, 142, 520
    body: list[str] = []
    y = float(TOP)
    for row in cases.SATURATED:
        found = {server: results.median(row, server, "cpu_s_per_million") for server in row.servers}
        values = {server: value for server, value in found.items() if value is not None}
        if not values:
            continue
        body.append(_text(start, y + 13, row.name.removeprefix("saturated, "), "quiet"))
        for server, value in values.items():
            y += LINE
            length = max(value / max(values.values()) * (end - start), 2)
            text = f"{value:.2f}" if value < 10 else f"{value:.1f}"
            if server is not SIDECAR and (ours := values.get(SIDECAR)):
                text += f" · {value / ours:.1f}×" if value < 10 * ours else f" · {value / ours:.0f}×"
            strong = "ours" if server is SIDECAR else ""
            body += [
                _text(names, y + 15, server.name, f"end {strong}"),
                _of(
                    server,
                    f'<rect class="in bar" x="{start}" y="{y + 2}" width="{length:.1f}" height="16" rx="2"/>',
                ),
                _text(start + length + 8, y + 15, text, strong),
            ]
        y += LINE + 14
    title = "CPU seconds per million deliveries"
    return _svg(title, "less is better; × is how many times ours", body, y - 48)


def latency(results: Results, rows: Sequence[Case]) -> str:
    """Lines on a logarithmic scale, p99 over deliveries a second of cases with rooms alike, until one falls behind."""
    lines: Lines = {}
    behind: dict[Server, float] = {}
    for row in rows:
        rate = row.options["rate"] * (row.size - 1)
        for server in row.servers:
            p99 = results.median(row, server, "p99_us")
            if not p99 or server in behind:
                continue
            lines.setdefault(server, [])
            if p99 / 1000 > BEHIND_MS:
                behind[server] = rate
            else:
                lines[server].append((rate, p99 / 1000))
    if not lines:
        return _svg("p99 latency", "nothing was measured", [], TOP)
    most = max([x for line in lines.values() for x, _ in line] + list(behind.values()))
    least = min([y for line in lines.values() for _, y in line] + [BEHIND_MS / 10])
    powers = range(math.floor(math.log10(least)), round(math.log10(BEHIND_MS)) + 1)
    top = TOP + (len(behind) + 1.5) * LINE * bool(behind)
    marks = {x: f"{x / 1000:g}k" for x in _steps(most) if 0 < x <= most}
    across = Axis(0, most, LEFT, 550, marks)
    marks = {10.0**power: f"{10**power} ms" if power >= 0 else f"{10 ** (power + 3)} µs" for power in powers}
    up = Axis(min(marks), max(marks), top + 260, top, marks, is_logarithmic=True)
    body = _chart(lines, across, up, "deliveries a second asked for", behind=behind, figures=False)
    title = f"p99 latency, {rows[0].rooms} rooms of {rows[0].size}"
    return _svg(title, "less is better, logarithmic", body, up.start)


def growth(results: Results) -> str:
    """Lines from zero: what a delivery costs as the same load is spread over more rooms."""
    row = cases.GROWTH[-1]
    rooms = (10, 100, 1000, row.rooms)
    lines: Lines = {}
    for server in row.servers:
        for step, x in enumerate(rooms):
            if value := results.median(row, server, "cpu_s_per_million", step):
                lines.setdefault(server, []).append((x, value))
    steps = _steps(max((y for line in lines.values() for _, y in line), default=1))
    across = Axis(rooms[0], rooms[-1], 140, 495, {x: f"{x:,}" for x in rooms}, is_logarithmic=True)
    up = Axis(0, steps[-1], TOP + 280, TOP, {y: f"{y:g} µs" for y in steps})
    body = _chart(lines, across, up, "rooms, of 3, that the load is spread over", behind={}, figures=True)
    return _svg("CPU time of a delivery", f"{row.name}; less is better", body, up.start)


def _chart(
    lines: Lines, across: Axis, up: Axis, under: str, *, behind: dict[Server, float], figures: bool
) -> Iterator[str]:
    """Lines with their names at their ends; of those that fall behind in a band above, the first topmost."""
    for value, mark in up.marks.items():
        y = up.place(value)
        yield f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{across.end}" y2="{y:.1f}"/>'
        yield _text(LEFT - 8, y + 5, mark, "quiet end")
    for value, mark in across.marks.items():
        yield _text(across.place(value), up.start + 22, mark, "quiet middle")
    yield _text((LEFT + across.end) / 2, up.start + 46, under, "quiet middle")
    drawn = {server: [(across.place(x), up.place(y)) for x, y in line] for server, line in lines.items()}
    if behind:
        yield f'<rect class="band" x="{LEFT}" y="{TOP}" width="{WIDTH - 16 - LEFT}" height="{up.end - TOP:.1f}"/>'
        yield _text(LEFT + 8, TOP + 17, f"falls behind: over {BEHIND_MS} ms from here on", "quiet")
    for number, server in enumerate(sorted(behind, key=lambda server: -behind[server])):
        x, y = across.place(behind[server]), up.end - LINE * (number + 0.6)
        drawn[server].append((x, y))
        cross = f'<path class="cross" d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>'
        yield _of(server, _text(x + 10, y + 5, server.name, "in"), cross)
    labels = Labels(list(drawn.values()), [(0, 0, WIDTH, up.end)])
    for server, line in reversed(drawn.items()):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        dots = line[: len(lines[server])]
        yield _of(
            server,
            f'<polyline class="line" points="{points}"/>',
            *(f'<circle class="in" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in dots),
        )
        if server not in behind:
            figure = f" {lines[server][-1][1]:.1f}" if figures else ""
            yield _of(server, labels.beside(*line[-1], server.name + figure))
        if figures:
            yield _of(server, labels.beside(*line[0], f"{lines[server][0][1]:.1f}", left=True))


def _svg(title: str, subtitle: str, body: Iterable[str], bottom: float) -> str:
    height = round(bottom + 58)
    light, dark = (
        " ".join(f".{_class(name)} {{ color: {colours[scheme]} }}" for name, colours in COLOURS.items())
        for scheme in (0, 1)
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}">',
            f"<style>{STYLE}{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
            _text(16, 28, title, "title"),
            _text(16, 52, subtitle, "quiet"),
            *body,
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>'


def _of(server: Server, *shapes: str) -> str:
    return f'<g class="{_class(server.name)}">{"".join(shapes)}</g>'


def _class(name: str) -> str:
    return name.lower().replace(" ", "-")


def _steps(most: float) -> list[float]:
    """Three to six round numbers, from zero to the first that is not below `most`."""
    power = 10.0 ** math.floor(math.log10(most))
    step = next(size * power for size in (0.2, 0.5, 1, 2) if most <= 5 * size * power)
    return [number * step for number in range(math.ceil(most / step) + 1)]


def _dense(line: Sequence[Point]) -> Iterator[Point]:
    """Along it in small steps."""
    yield from line
    for (x, y), (right, end) in itertools.pairwise(line):
        pieces = math.ceil((abs(right - x) + abs(end - y)) / 4)
        yield from ((x + (right - x) * n / pieces, y + (end - y) * n / pieces) for n in range(1, pieces))
