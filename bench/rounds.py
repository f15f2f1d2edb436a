"""Rounds of runs, the servers of a case one right after the other, so that what the machine does hits all of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.cases import Case
from bench.servers import Server, running
from bench.world import LOAD_CORE, World

RUN_SECONDS = 180

Result = dict[str, float | list[float]]


@dataclass
class Results:
    """Every run's figures by case and server.

    Runs in which anything was refused, or a step of a growing load was not borne, are not among them.
    """

    runs: dict[tuple[str, str], list[Result]] = field(default_factory=lambda: defaultdict(list))
    spoilt: list[str] = field(default_factory=list)

    def median(self, case: Case, server: Server, figure: str, index: int = 0) -> float | None:
        values = [run[figure] for run in self.runs[case.name, server.name]]
        numbers = [value[index] if isinstance(value, list) else value for value in values]
        return statistics.median(numbers) if numbers else None

    def growth(self, case: Case, server: Server, figure: str) -> float | None:
        """From the first to the last step of a load, the median of the runs' ratios."""
        ratios = [run[figure][-1] / run[figure][0] for run in self.runs[case.name, server.name]]
        return statistics.median(ratios) if ratios else None


def run_rounds(world: World, cases: Iterable[Case], *, rounds: int, seconds: float) -> Results:
    """Each case on each of its servers, `rounds` times its turns over. A server is started anew for each run."""
    results = Results()
    cases = list(cases)
    for number in range(rounds):
        run_round(world, [case for case in cases if not (case.once and number)], results, seconds=seconds)
    return results


def run_round(world: World, cases: Iterable[Case], results: Results, *, seconds: float) -> None:
    for case in cases:
        for server in case.servers * case.turns:
            outcome = _run(world, case, server, seconds)
            load = os.getloadavg()[0]
            print(f"[load {load:.1f}] {case.name}: {server.name}: {outcome}", file=sys.stderr)
            if isinstance(outcome, str) or outcome.get("refused") or outcome.get("behind"):
                results.spoilt.append(f"{case.name}: {server.name}: {outcome}")
            else:
                results.runs[case.name, server.name].append(outcome | {"load_average": load})


def _run(world: World, case: Case, server: Server, seconds: float) -> Result | str:
    options = {"dur": seconds} | case.options if case.seconds_matter else case.options
    paths = world.paths(rooms=case.rooms, size=case.size, more=case.stalled, dialects=case.dialects)
    with running(server, world) as target:
        command = [
            "taskset", "-c", LOAD_CORE, world.loadgen, case.mode, f"port={target.port}", f"pid={target.pid}",
            f"paths={paths}", f"rooms={case.rooms}", f"size={case.size}",
            *(f"{name}={value:g}" for name, value in options.items()),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"not done within {RUN_SECONDS} s"
    if done.returncode:
        return f"status {done.returncode}: {done.stderr.strip()[-300:]}"
    try:
        outcome: Result = json.loads(done.stdout)
    except json.JSONDecodeError:
        return f"not read: {done.stdout[:300]}"
    return outcome
