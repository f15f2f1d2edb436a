"""`python -m bench.check`: the cases that matter against the bounds in bounds.toml; status 1 if one slipped."""

from __future__ import annotations

import dataclasses
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from bench import cases, instructions
from bench.rounds import Results, run_rounds
from bench.servers import NODE_WS, SIDECAR
from bench.world import World

ROUNDS = 3
SECONDS = 2.0
BOUNDS = Path(__file__).parent / "bounds.toml"

Verdict = tuple[bool, str]


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    bounds = tomllib.loads(BOUNDS.read_text())
    gate = [dataclasses.replace(case, servers=(SIDECAR, NODE_WS)) for case in cases.GATE]
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as name:
        world = World(Path(name))
        world.build(node=True)
        counted = instructions.count(Path(name))
        lines = instructions.cold_lines(Path(name))
        with world.chat_service():
            results = run_rounds(world, gate, rounds=ROUNDS, seconds=SECONDS)
    verdicts = [
        *_instructions(bounds["instructions"], counted),
        (
            lines <= bounds["cold_lines"],
            f"cache lines of its own, message in one of {instructions.MANY_ROOMS:,} rooms: {lines:.1f}, "
            f"bound {bounds['cold_lines']}",
        ),
        *_runs(bounds["node_over_ours"], gate, results),
    ]
    for good, text in verdicts:
        print("ok     " if good else "SLIPPED", text)
    sys.exit(not all(good for good, _ in verdicts))


def _instructions(bounds: dict[str, int], counted: dict[str, int]) -> Iterator[Verdict]:
    for what, most in bounds.items():
        text = f"{what}: {counted[what]:,} instructions, bound {most:,}"
        yield (
            (counted[what] <= most, text)
            if instructions.COMPARABLE
            else (True, text + " (for another build: not judged)")
        )


def _runs(bounds: dict[str, float], gate: list[cases.Case], results: Results) -> Iterator[Verdict]:
    for case in gate:
        ours = results.median(case, SIDECAR, "cpu_s_per_million")
        nodes = results.median(case, NODE_WS, "cpu_s_per_million")
        if ours is None or nodes is None:
            yield False, f"{case.name}: no run that counts"
            continue
        ratio, least = nodes / ours, bounds[case.name]
        yield (
            ratio >= least,
            f"{case.name}: {ours:.2f} CPU-s per million, Node {ratio:.1f}×, at least {least}×",
        )
    for spoilt in results.spoilt:
        yield False, f"does not count: {spoilt}"


if __name__ == "__main__":
    main()
