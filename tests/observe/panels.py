"""Panels of the dashboard as pictures, by Matplotlib: where everything stands is said in pixels of a page."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

WIDTH, MARGIN, GAP, COLUMNS = 880, 14, 24, 3
PANEL = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) // COLUMNS
HEAD, SCALE, PLOT, FOOT, LINE = 26, 66, 118, 28, 16
"""Of a panel: its title, left the marks of the scale, the plot, below the seconds; a line of its legend."""
NUMBERS = 84
SHARPNESS = 2
TEXT, QUIET, GRID, AWAY = "#1b2430", "#636c76", "#e4e8ec", "#eef0f3"
LEVELS = {"green": "#1a7f37", "orange": "#9a6700", "red": "#c62828"}
COLOURS = (
    (re.compile("(?i)fail|unavail|deadline|error|unreach|unusable"), ("#cf222e", "#8e1519", "#f0807a", "#d6569b")),
    (re.compile("(?i)refused|denied|unauthorized|expired|not_"), ("#b35900", "#e0a030", "#7d4e00")),
    (re.compile("99 %|90 %"), ("#0a3f86",)),
    (re.compile("10 %"), ("#a5cdf7",)),
    (re.compile(""), ("#1f6feb", "#1a7f37", "#8250df", "#0a9ea4", "#bf3989", "#6e7781")),
)  # fmt: skip
"""By what a series is called: failures are red, refusals brown; slow ones darker than the middle."""
STEPS = {
    "s": ((86400, " days"), (3600, " h"), (60, " min"), (1, " s"), (1e-3, " ms"), (1e-6, " µs")),
    "bytes": ((1e6, " MB"), (1e3, " kB"), (1, " B")),
    "Bps": ((1e6, " MB/s"), (1e3, " kB/s"), (1, " B/s")),
    "percentunit": ((0.01, " %"),),
    "ops": ((1, " /s"),),
    "short": ((1, ""),),
}
"""By a panel's `unit`: sizes and their names, the largest first."""
NAMED = {"CPU": " cores"}
"""What Grafana has no unit for."""


@dataclass
class Series:
    name: str
    seconds: list[float]
    """Before now, and so below zero."""
    values: list[float]
    colour: str = TEXT

    @property
    def is_nothing(self) -> bool:
        return not any(value for value in self.values if not math.isnan(value))

    def lies_on(self, other: Series, height: float) -> bool:
        """All along, as far as an eye can tell."""
        return self.seconds == other.seconds and all(
            abs(one - two) < height / 100 for one, two in zip(self.values, other.values, strict=True)
        )


@dataclass
class Panel:
    title: str
    unit: str
    series: list[Series]


@dataclass
class Number:
    title: str
    text: str
    level: str


def draw(
    path: Path, numbers: Sequence[Number], panels: Sequence[Panel], *, begin: float, away: tuple[float, float]
) -> None:
    """Numbers above, panels below, from `begin` to now, at 0 s; `away` is shaded where something is shown."""
    mpl.rcParams |= {
        "lines.scale_dashes": False,
        "font.size": _points(11),
        "text.color": TEXT,
        "axes.edgecolor": "#9aa4ae",
    }
    rows = [panels[at : at + COLUMNS] for at in range(0, len(panels), COLUMNS)]
    for panel in panels:
        _colour(panel)
    heights = [HEAD + PLOT + FOOT + max(len(_flow(panel)) for panel in row) * LINE + GAP for row in rows]
    top = MARGIN - 4 + NUMBERS * bool(numbers)
    height = top + sum(heights) - GAP + MARGIN - 4
    sheet = Sheet(Figure(figsize=(WIDTH / 100, height / 100), dpi=100), height)
    for at, number in enumerate(numbers):
        x = MARGIN + (at + 0.5) * (WIDTH - 2 * MARGIN) / len(numbers)
        sheet.text(x, 14, textwrap.fill(number.title, 15), colour=QUIET, ha="center", va="top")
        sheet.text(x, 64, number.text, colour=LEVELS.get(number.level, TEXT), size=20, ha="center")
    for row, high in zip(rows, heights, strict=True):
        for at, panel in enumerate(row):
            axes = _draw(sheet, panel, MARGIN + at * (PANEL + GAP), top)
            if axes.lines:
                axes.axvspan(*away, color=AWAY, lw=0)
            axes.set_xlim(begin, 0)
        top += high
    whole = io.BytesIO()
    sheet.figure.savefig(whole, dpi=100 * SHARPNESS)
    Image.open(whole).convert("RGB").quantize(256).save(path, optimize=True)


def scaled(unit: str, most: float) -> tuple[float, str]:
    """What to divide by so that `most` reads well, and what the result is called."""
    return next((step for step in STEPS[unit] if most >= step[0]), STEPS[unit][-1])


@dataclass
class Sheet:
    """A figure whose pixels are counted from its upper left corner."""

    figure: Figure
    height: float

    def text(
        self, x: float, y: float, text: str, *, colour: str = TEXT, size: float = 11, **how: str
    ) -> None:
        self.figure.text(
            x / WIDTH,
            1 - y / self.height,
            text,
            color=colour,
            fontsize=_points(size),
            **{"va": "center"} | how,
        )

    def stroke(self, x: float, y: float, colour: str) -> None:
        place = [1 - y / self.height] * 2
        self.figure.add_artist(Line2D([x / WIDTH, (x + 12) / WIDTH], place, color=colour, lw=2))

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        return self.figure.add_axes(
            (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        )


def _points(pixels: float) -> float:
    return pixels * 72 / 100


def _colour(panel: Panel) -> None:
    used: dict[re.Pattern[str], int] = {}
    for series in sorted(panel.series, key=lambda series: series.name):
        words, colours = next(entry for entry in COLOURS if entry[0].search(series.name))
        series.colour = colours[used.get(words, 0) % len(colours)]
        used[words] = used.get(words, 0) + 1


def _flow(panel: Panel) -> list[list[tuple[str, str]]]:
    """Names and colours in lines as wide as a panel."""
    entries = [(series.name, series.colour) for series in panel.series if not series.is_nothing]
    if entries and (rest := len(panel.series) - len(entries)):
        entries.append((f"{rest} more at zero", ""))
    lines: list[list[tuple[str, str]]] = [[]]
    for entry in entries:
        if lines[-1] and sum(_wide(name) for name, _ in [*lines[-1], entry]) > PANEL:
            lines.append([])
        lines[-1].append(entry)
    return lines


def _wide(name: str) -> float:
    return 18 + TextPath((0, 0), name, size=11).get_extents().width + 14


def _draw(sheet: Sheet, panel: Panel, x: float, top: float) -> Axes:
    sheet.text(x, top + 10, panel.title, size=12, weight="bold")
    axes = sheet.axes(x + SCALE, top + HEAD, PANEL - SCALE - 10, PLOT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor=QUIET, pad=5)
    axes.xaxis.set_major_locator(MultipleLocator(30))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda at, _: f"{at:.0f} s".replace("-", "−") if at else "now")
    )
    shown = [series for series in panel.series if not series.is_nothing]
    if not shown:
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "nothing happened", transform=axes.transAxes, color=QUIET, ha="center", va="center"
        )
        return axes
    most = max(value for series in shown for value in series.values if not math.isnan(value))
    size, name = scaled(panel.unit, most)
    name = NAMED.get(panel.title, name)
    for number, series in enumerate(shown):
        twins = [other for other in shown if other.lies_on(series, most)]
        dashes = (4 * twins.index(series), (4, 4 * len(twins) - 4)) if len(twins) > 1 else "-"
        values = [value / size for value in series.values]
        width = 1.6 if len(twins) > 1 else 1.9 - 0.8 * number / len(shown)  # what lies below still shows
        axes.plot(
            series.seconds,
            values,
            color=series.colour,
            lw=width,
            ls=dashes,
            dash_capstyle="butt",
            clip_on=False,
        )
    axes.set_ylim(0, most / size * 1.08)
    axes.yaxis.set_major_locator(
        MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=panel.unit == "short" and most > 4)
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}{name}" if value else "0"))
    axes.grid(visible=True, axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    for number, line in enumerate(_flow(panel)):
        left, y = x, top + HEAD + PLOT + FOOT + (number + 0.5) * LINE
        for words, colour in line:
            if colour:
                sheet.stroke(left, y, colour)
            sheet.text(left + (18 if colour else 0), y, words, colour=TEXT if colour else QUIET)
            left += _wide(words)
    return axes
