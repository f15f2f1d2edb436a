"""Three real sidecars are restarted one after the other under calls."""

from __future__ import annotations

from tests.bus.nats_server import run_nats
from tests.bus.rolling import Calls, Fleet


async def test_after_a_rolling_restart_every_call_is_together_again_and_nobody_had_to_guess(
    start, chat, issuer, tmp_path
):
    async with run_nats(tmp_path) as bus:

        def replica():
            return start(bus_url=bus.url, handshake_rate=0, address_handshake_rate=0, drain_seconds=1)

        async with Fleet(replica, 3) as fleet, Calls(fleet, chat, issuer, 15) as calls:
            await calls.all_together()
            await fleet.restart_each()
            await calls.all_together()
            assert all(caller.moved_at for caller in calls.callers)
            assert all(len(caller.away) == len(caller.moved_at) for caller in calls.callers)
            assert {code for caller in calls.callers for code in caller.closes} == {1012}
