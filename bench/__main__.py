"""`python -m bench`: every case in interleaved rounds, then the reconnect wave.

The table goes to standard output and docs/performance/, anew after every round.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import cases, plot, reconnect, report
from bench.reconnect import Wave
from bench.rounds import Results, run_round
from bench.servers import NODE_WS
from bench.world import ROOT, World

OUTPUT = ROOT / "docs" / "performance"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.5, help="measured per run")
    parser.add_argument("--only", default="", help="cases whose name has this in it; nothing is written then")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    chosen = [case for case in cases.ALL if arguments.only in case.name]
    results, waves, table = Results(), list[Wave](), ""
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as name:
        world = World(Path(name))
        world.build(node=any(NODE_WS in case.servers for case in chosen))
        for number in range(arguments.rounds):
            due = [case for case in chosen if not (case.once and number)]
            with world.chat_service():
                run_round(world, due, results, seconds=arguments.seconds)
                if not arguments.only:
                    waves += _waves(world, results)
            table = report.markdown(results, waves, rounds=number + 1, seconds=arguments.seconds)
            if not arguments.only:
                _write(table, results)
    print(table)


def _waves(world: World, results: Results) -> Sequence[Wave]:
    try:
        return reconnect.measure(world)
    except (RuntimeError, TimeoutError, OSError) as problem:
        results.spoilt.append(f"reconnect wave: {problem!r}")
        return []


def _write(table: str, results: Results) -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "table.md").write_text(table)
    (OUTPUT / "cost.svg").write_text(plot.cost(results))
    (OUTPUT / "latency-of-two.svg").write_text(plot.latency(results, cases.OPEN_LOOP_OF_TWO))
    (OUTPUT / "latency-of-eight.svg").write_text(plot.latency(results, cases.OPEN_LOOP_OF_EIGHT))
    (OUTPUT / "growth.svg").write_text(plot.growth(results))


if __name__ == "__main__":
    main()
