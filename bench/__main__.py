"""`python -m bench`: every case in interleaved rounds, then the reconnect wave.

The table goes to standard output and docs/performance/.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from bench import cases, plot, reconnect, report
from bench.rounds import run_rounds
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
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as name:
        world = World(Path(name))
        world.build(node=True)
        with world.chat_service():
            results = run_rounds(world, chosen, rounds=arguments.rounds, seconds=arguments.seconds)
            whole = 0 if arguments.only else arguments.rounds
            waves = [wave for _ in range(whole) for wave in reconnect.measure(world)]
    table = report.markdown(results, waves, rounds=arguments.rounds, seconds=arguments.seconds)
    print(table)
    if not arguments.only:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        (OUTPUT / "table.md").write_text(table)
        (OUTPUT / "cost.svg").write_text(plot.cost(results))
        (OUTPUT / "latency.svg").write_text(plot.latency(results))


if __name__ == "__main__":
    main()
