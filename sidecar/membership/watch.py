"""Keeps one stream of changes open for as long as the directory lives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from math import inf

import structlog

from sidecar.membership.service import (
    Changed,
    CursorTooOld,
    MaybeChanged,
    MembershipService,
    Reason,
    Unavailable,
    WatchStarted,
    WatchUnimplemented,
)

log = structlog.stdlib.get_logger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
UNIMPLEMENTED_PAUSE_SECONDS = 300.0
REPLAY_SECONDS = 5.0


class ChangeWatch:
    """Resumes the stream where it broke off, with growing pauses.

    `on_change` gets every event about a key, and how far back the event may reach: changes made while the stream was
    broken come late, so an answer asked for after `lost_at` may be newer than the event (None: it is not).
    `on_gap` is called when a stream begins that does not continue an earlier one.
    """

    def __init__(
        self,
        *,
        service: MembershipService,
        on_change: Callable[[Changed | MaybeChanged, float | None], None],
        on_gap: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._on_change = on_change
        self._on_gap = on_gap
        self._clock = clock
        self._cursor = ""
        self._lost_at: float | None = None
        self._said: Reason | None = None  # why there is no stream, until there is one
        self._pause_seconds = FIRST_PAUSE_SECONDS

    async def run(self) -> None:
        while True:
            pause_seconds = await self._read_to_the_end()
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _read_to_the_end(self) -> float:
        """One stream, from opening to end; returns the seconds after which to open the next."""
        had_cursor = self._cursor != ""
        try:
            await self._read()
        except WatchUnimplemented:
            log.info("the chat service does not tell of changes; re-checks alone notice them")
            return UNIMPLEMENTED_PAUSE_SECONDS
        except CursorTooOld:
            self._cursor = ""
            if had_cursor:
                log.info("changes of memberships were missed, all live connections are re-checked")
                return 0.0
        except Unavailable as error:
            if error.reason is not self._said:
                self._said = error.reason
                log.warning("no stream of membership changes", problem=str(error))
        pause, self._pause_seconds = self._pause_seconds, min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        return pause

    async def _read(self) -> None:
        resumed = self._cursor != ""
        replay_until = self._clock() + REPLAY_SECONDS if resumed else 0.0
        opened_at = inf
        try:
            async with aclosing(self._service.watch(self._cursor)) as events:
                async for event in events:
                    if isinstance(event, WatchStarted):
                        opened_at = self._clock()
                        if self._said is not None:
                            self._said = None
                            log.info("the stream of membership changes is back")
                        if not resumed:
                            self._on_gap()
                        continue
                    self._pause_seconds = FIRST_PAUSE_SECONDS
                    if isinstance(event, Changed | MaybeChanged):
                        self._on_change(event, self._lost_at if self._clock() < replay_until else None)
                    self._cursor = event.cursor
        finally:
            self._lost_at = self._clock()
            if self._lost_at - opened_at >= self._pause_seconds:
                self._pause_seconds = FIRST_PAUSE_SECONDS  # it lived longer than was waited for it
