"""When a stream of changes is opened again, in virtual time."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from sidecar.membership.service import CursorMoved, Reason, Unavailable, WatchStarted
from sidecar.membership.watch import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, ChangeWatch
from tests.membership.membership_virtual_time import VirtualTimeLoop


class Streams:
    """Each is opened as `opens` says, and ends after `seconds`."""

    def __init__(self, *, seconds: float, opens: bool) -> None:
        self.seconds = seconds
        self.opens = opens
        self.opened_at: list[float] = []
        self.ended_at: list[float] = []

    async def watch(self, _resume_after):
        loop = asyncio.get_running_loop()
        self.opened_at.append(loop.time())
        if self.opens:
            yield WatchStarted()
        await asyncio.sleep(self.seconds)
        self.ended_at.append(loop.time())
        if not self.opens:
            raise Unavailable(Reason.UNREACHABLE, "UNAVAILABLE nobody there")
        for cursor in ():
            yield CursorMoved(cursor)

    def pauses(self) -> list[float]:
        return [opened - ended for opened, ended in zip(self.opened_at[1:], self.ended_at, strict=False)]


def watched(streams: Streams, *, seconds: float) -> list[dict]:
    async def run() -> None:
        watch = ChangeWatch(
            service=streams,
            on_change=lambda _event, _lost_at: None,
            on_gap=lambda: None,
            clock=asyncio.get_running_loop().time,
        )
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.run(), seconds)

    with structlog.testing.capture_logs() as lines, asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())
    return lines


def test_streams_that_a_proxy_ends_after_a_while_are_opened_again_at_once():
    streams = Streams(seconds=2.0, opens=True)
    watched(streams, seconds=300)
    assert len(streams.pauses()) > 100
    assert max(streams.pauses()) <= FIRST_PAUSE_SECONDS


def test_streams_that_do_not_open_are_tried_less_and_less_and_their_trouble_is_said_once():
    streams = Streams(seconds=2.0, opens=False)
    lines = watched(streams, seconds=300)
    assert LONGEST_PAUSE_SECONDS / 2 <= max(streams.pauses()) <= LONGEST_PAUSE_SECONDS
    assert [line["event"] for line in lines] == ["no stream of membership changes"]
