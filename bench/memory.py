"""What an idle connection holds, by the line of ours that asked for it (python -m bench.memory).

Python's objects alone: uvloop's transport, libuv and the kernel are not seen by tracemalloc.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import uvloop

from bench.accept import door
from bench.world import ROOT

CONNECTIONS = 2000
CACHED_ROUTES = 1024 + 100
"""Sanic remembers as many paths: they are filled before, because they are no connection's."""
FRAMES = 8
SHOWN = 40


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        # Nobody answers pings here: the first is due when this is long over.
        async with door(Path(name), heartbeat_seconds=36_000) as entrance:
            await entrance.let_in(entrance.requests(2 * CACHED_ROUTES))
            requests = entrance.requests(CONNECTIONS)
            gc.collect()
            tracemalloc.start(FRAMES)
            before = tracemalloc.take_snapshot()
            await entrance.let_in(requests)
            await asyncio.sleep(0.2)  # what was scheduled is done
            gc.collect()
            after = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(inclusive=False, filename_pattern=str(ROOT / "bench" / "*"))]
            )
            tracemalloc.stop()
    sizes: Counter[str] = Counter()
    for difference in after.compare_to(before, "traceback"):
        sizes[_ours(difference.traceback)] += difference.size_diff
    print(f"{sum(sizes.values()) / CONNECTIONS:8.0f} B a connection, Python's objects in all")
    for line, size in sizes.most_common(SHOWN):
        print(f"{size / CONNECTIONS:8.0f} B {line}")


def _ours(traceback: tracemalloc.Traceback) -> str:
    for frame in reversed(traceback):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT / "sidecar"):
            source = linecache.getline(frame.filename, frame.lineno).strip()
            return f"{path.relative_to(ROOT)}:{frame.lineno} {source[:70]}"
    return f"elsewhere: {Path(traceback[-1].filename).name}:{traceback[-1].lineno}"


if __name__ == "__main__":
    uvloop.run(main())
