"""The plots show every server that was measured."""

from __future__ import annotations

from bench import cases, plot
from bench.rounds import Results


def test_every_server_of_every_case_plotted_has_its_place():
    results = Results()
    grown = cases.GROWTH[-1]
    for case in (*cases.SATURATED, *cases.OPEN_LOOP):
        for server in case.servers:
            results.runs[case.name, server.name].append({"cpu_s_per_million": 12.0, "p99_us": 900.0})
    for server in grown.servers:
        results.runs[grown.name, server.name].append({"cpu_s_per_million": [11.0, 12.0, 13.0, 14.0]})
    for picture, rows in (
        (plot.cost(results), cases.SATURATED),
        (plot.latency(results, cases.OPEN_LOOP_OF_TWO), cases.OPEN_LOOP_OF_TWO),
        (plot.latency(results, cases.OPEN_LOOP_OF_EIGHT), cases.OPEN_LOOP_OF_EIGHT),
        (plot.growth(results), (grown,)),
    ):
        for server in {server.name for case in rows for server in case.servers}:
            assert f">{server}</text>" in picture
