"""A deploy behind a real Envoy, small; `python -m bench.rolling_restart` is the large one."""

from __future__ import annotations

from bench.rolling_restart import restart


async def test_every_call_comes_together_again_on_the_new_replica():
    figures = await restart(pairs=30, drain_seconds=3)
    assert figures.still_apart == 0
    assert figures.reconnects == 60
    assert figures.exit_status == 0
    assert figures.apart_p99_seconds < 5
