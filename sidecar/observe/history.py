"""The last minutes of a few numbers, for the live page: kept only where the page is on."""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import nlargest

import msgspec

import sidecar
from sidecar.observe.metrics import Metrics
from sidecar.observe.refusals import Refusals

SAMPLE_SECONDS = 2.0
SAMPLES = 150
LARGEST_ROOMS = 12


class Sample(msgspec.Struct, frozen=True):
    """One moment. Rates are per second since the moment before."""

    connections: int
    rooms: int
    received: float
    delivered: float
    accepted: float
    refused: float


class RoomNow(msgspec.Struct, frozen=True):
    room: str
    connections: int
    participants: int


class MembershipNow(msgspec.Struct, frozen=True, rename="camel"):
    stale: bool
    breaker_open: bool
    answered: int
    failed: int
    slowest_seconds: float | None
    """The histogram bound under which 99 % of GetMembership calls lie."""


class Refused(msgspec.Struct, frozen=True, rename="camel"):
    at: float
    status: int
    code: str
    reason: str
    room: str | None
    trace_id: str


class State(msgspec.Struct, frozen=True, rename="camel"):
    """What the live page shows. No addresses, no accounts."""

    version: str
    draining: bool
    connections_limit: int
    sample_seconds: float
    samples: list[Sample]
    largest_rooms: list[RoomNow]
    membership: MembershipNow
    relay_seconds: float | None
    """The bound under which 99 % of relays lie, since the start."""
    call_seconds: float | None
    """The bound under which half of the offers found their answer, since the start."""
    refusals: list[Refused]


class History:
    """Takes a sample every `SAMPLE_SECONDS` between `start` and `close`, and remembers `SAMPLES` of them."""

    def __init__(self, *, metrics: Metrics, refusals: Refusals) -> None:
        self._metrics = metrics
        self._refusals = refusals
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._before = (0, 0, 0, 0)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._before = self._counts()
        self._task = asyncio.get_running_loop().create_task(self._sample(), name="history")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def state(self) -> State:
        """As of now."""
        metrics = self._metrics
        return State(
            version=sidecar.__version__,
            draining=metrics.is_draining,
            connections_limit=metrics.connections_limit,
            sample_seconds=SAMPLE_SECONDS,
            samples=[*self._samples] or [self._now((0.0, 0.0, 0.0, 0.0))],
            largest_rooms=[
                RoomNow(room.id, len(room.members), room.local_accounts())
                for room in nlargest(LARGEST_ROOMS, metrics.open_rooms(), key=lambda room: len(room.members))
            ],
            membership=self._membership(),
            relay_seconds=_finite(metrics.relay_seconds.quantile(0.99)),
            call_seconds=_finite(metrics.offer_answer_seconds.quantile(0.5)),
            refusals=[
                Refused(one.at, one.status, one.code, one.reason, one.room_id, one.trace_id)
                for one in self._refusals.recent()
            ],
        )

    def _membership(self) -> MembershipNow:
        metrics = self._metrics
        answered = failed = 0
        for (method, code), count in metrics.membership_requests.items():
            if method != "WatchMemberships":
                if code in {"OK", "NOT_FOUND"}:
                    answered += count
                else:
                    failed += count
        asked = metrics.membership_seconds.get("GetMembership")
        return MembershipNow(
            stale=metrics.is_stale(),
            breaker_open=metrics.is_breaker_open(),
            answered=answered,
            failed=failed,
            slowest_seconds=_finite(asked.quantile(0.99)) if asked else None,
        )

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            counts = self._counts()
            received, delivered, accepted, refused = (
                (now - before) / SAMPLE_SECONDS for now, before in zip(counts, self._before, strict=True)
            )
            self._before = counts
            self._samples.append(self._now((received, delivered, accepted, refused)))

    def _now(self, rates: tuple[float, float, float, float]) -> Sample:
        return Sample(self._metrics.open_connections(), len(self._metrics.open_rooms()), *rates)

    def _counts(self) -> tuple[int, int, int, int]:
        rooms = self._metrics.rooms.totals()
        accepted = self._metrics.handshakes["accepted",]
        return (
            sum(rooms.received.values()),
            rooms.delivered,
            accepted,
            self._metrics.handshakes.total() - accepted,
        )


def _finite(seconds: float | None) -> float | None:
    return None if seconds == float("inf") else seconds
