"""The plots show every server that was measured, and no label lies on another."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest

from bench import cases, plot
from bench.cases import Case
from bench.rounds import Results

GROWN = cases.GROWTH[-1]


def measured(p99_us: dict[str, float], *, spread: float = 1.0) -> Results:
    """Every case by every server; costs are alike, or each server's `spread` times the one's before."""
    results = Results()
    for case in (*cases.SATURATED, *cases.OPEN_LOOP):
        for number, server in enumerate(case.servers):
            figures = {"cpu_s_per_million": 12.0 * spread**number, "p99_us": p99_us.get(server.name, 900.0)}
            results.runs[case.name, server.name].append(figures)
    for number, server in enumerate(GROWN.servers):
        costs = [cost * spread**number for cost in (11.0, 12.0, 13.0, 14.0)]
        results.runs[GROWN.name, server.name].append({"cpu_s_per_million": costs})
    return results


def pictures(results: Results) -> tuple[tuple[str, tuple[Case, ...]], ...]:
    return (
        (plot.cost(results), cases.SATURATED),
        (plot.latency(results, cases.OPEN_LOOP_OF_TWO), cases.OPEN_LOOP_OF_TWO),
        (plot.latency(results, cases.OPEN_LOOP_OF_EIGHT), cases.OPEN_LOOP_OF_EIGHT),
        (plot.growth(results), (GROWN,)),
    )


def texts(picture: str) -> list[tuple[str, float, float, float, float]]:
    """Each text with the box it needs where letters are largest: left, top, right, bottom."""
    found = []
    for text in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text"):
        words, kind = text.text or "", text.get("class", "").split()
        x, y, width = float(text.get("x", 0)), float(text.get("y", 0)), len(text.text or "") * plot.LETTER
        left = x - width if "end" in kind else x - width / 2 if "middle" in kind else x
        found.append((words, left, y - 15, left + width, y + 4))
    return found


@pytest.mark.parametrize(
    "results",
    [
        measured({}),
        measured({}, spread=1.3),
        measured({"sidecar": 99_000, "C floor": 98_000, "Node ws": 2e6, "websockets": 2e6}),
        measured({"sidecar": 2e6, "C floor": 2e6, "Node ws": 2e6, "websockets": 2e6}, spread=0.2),
    ],
    ids=["all alike", "side by side", "two behind", "all behind"],
)
def test_every_server_of_every_case_plotted_has_its_place(results: Results):
    for picture, rows in pictures(results):
        labels = texts(picture)
        for server in {server.name for case in rows for server in case.servers}:
            assert any(words.startswith(server) for words, *_ in labels)
        for (one, left, top, right, bottom), (other, x0, y0, x1, y1) in itertools.combinations(labels, 2):
            assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top, (one, other)


def test_who_falls_behind_is_said_once_and_drawn_no_further():
    picture = plot.latency(measured({"Node ws": 250_000}), cases.OPEN_LOOP_OF_TWO)
    assert picture.count('class="cross"') == 1
    assert [words for words, *_ in texts(picture)].count("Node ws") == 1


def test_without_any_figures_there_are_plots_that_show_none():
    for picture, _ in pictures(Results()):
        ElementTree.fromstring(picture)
