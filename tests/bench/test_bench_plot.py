"""The plots show every server that was measured."""

from __future__ import annotations

from bench import cases, plot
from bench.rounds import Results


def test_every_server_of_every_case_plotted_has_its_place():
    results = Results()
    plotted = (*cases.SATURATED, *cases.OPEN_LOOP)
    for case in plotted:
        for server in case.servers:
            results.runs[case.name, server.name].append({"cpu_s_per_million": 12.0, "p99_us": 900.0})
    pictures = plot.cost(results) + plot.latency(results)
    for server in {server.name for case in plotted for server in case.servers}:
        assert f">{server}</text>" in pictures
