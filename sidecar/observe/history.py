"""The last minutes of a few numbers, for the live page: kept only where the page is on."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from heapq import nlargest

import msgspec

import sidecar
from sidecar.observe.metrics import NAMESPACE, Metrics
from sidecar.observe.refusals import Refusals
from sidecar.observe.tally import Tally

SAMPLE_SECONDS = 2.0
SAMPLES = 150
LARGEST_ROOMS = 12
STREAM_SAMPLES = 20
"""How long failures of the stream of changes count: it is tried again every 15 seconds at the latest."""

_ANSWERS = {"OK", "NOT_FOUND"}
_STREAM_FAILURES = {"UNAVAILABLE", "INTERNAL", "UNKNOWN"}


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


class ChatServiceState(StrEnum):
    ANSWERS = "answers"
    SILENT = "silent"
    """Its last answer was none, or live connections could not be verified."""
    UNASKED = "unasked"


class MembershipNow(msgspec.Struct, frozen=True, rename="camel"):
    chat_service: ChatServiceState
    asked_at: float | None
    """When it was last asked, to the interval of the samples; seconds since the epoch."""
    stale: bool
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
    ready: str
    """What `/readyz` says."""
    draining: bool
    keys_failing: bool
    bus_connected: bool | None
    """None where there is no bus."""
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

    def __init__(
        self, *, metrics: Metrics, refusals: Refusals, why_not_ready: Callable[[], str | None]
    ) -> None:
        self._metrics = metrics
        self._refusals = refusals
        self._why_not_ready = why_not_ready
        self._questions = _Questions(metrics.membership_requests)
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
        gauges = {
            family.name.removeprefix(f"{NAMESPACE}_"): family.samples[0].value
            for family in metrics.collect()
            if family.type == "gauge" and family.samples
        }
        return State(
            version=sidecar.__version__,
            ready=self._why_not_ready() or "ok",
            draining=metrics.is_draining,
            keys_failing=bool(gauges["jwks_failing"]),
            bus_connected=bool(gauges["bus_connected"]) if gauges["bus_configured"] else None,
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
        metrics, questions = self._metrics, self._questions
        silent = metrics.is_stale() or metrics.is_breaker_open()
        asked = metrics.membership_seconds.get("GetMembership")
        return MembershipNow(
            chat_service=ChatServiceState.SILENT if silent else questions.state,
            asked_at=questions.asked_at,
            stale=metrics.is_stale(),
            answered=questions.answered,
            failed=questions.failed,
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
            self._questions.look(time.time())
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


class _Questions:
    """How questions to the chat service ended, from one `look` at their counts to the next.

    The stream of changes tells of the service too, where nobody asks: it is counted as it ends, so one that breaks and
    is open again counts once, one that cannot be opened again and again.
    """

    def __init__(self, requests: Tally) -> None:
        self._requests = requests
        self._last = ChatServiceState.UNASKED
        self._streams_failed = 0
        self._stream_failures: deque[int] = deque(maxlen=STREAM_SAMPLES)
        self.answered = self.failed = 0
        self.asked_at: float | None = None

    @property
    def state(self) -> ChatServiceState:
        return ChatServiceState.SILENT if sum(self._stream_failures) > 1 else self._last

    def look(self, now: float) -> None:
        answered = failed = streams_failed = 0
        for (method, code), count in self._requests.items():
            if method == "WatchMemberships":
                streams_failed += count if code in _STREAM_FAILURES else 0
            elif code in _ANSWERS:
                answered += count
            else:
                failed += count
        self._stream_failures.append(streams_failed - self._streams_failed)
        if answered > self.answered:
            self._last = ChatServiceState.ANSWERS
            self._stream_failures.clear()
        elif failed > self.failed:
            self._last = ChatServiceState.SILENT
        if (answered, failed) != (self.answered, self.failed):
            self.asked_at = now
        self.answered, self.failed, self._streams_failed = answered, failed, streams_failed


def _finite(seconds: float | None) -> float | None:
    return None if seconds == float("inf") else seconds
