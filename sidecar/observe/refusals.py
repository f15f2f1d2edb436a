"""Handshakes refused of late: a few of them in full for people, and whether one address makes most of them.

Addresses stay in here: no series and no page names one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

RECENT = 20
ADDRESSES_WATCHED = 64
WINDOW_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class RefusedHandshake:
    """One refused handshake. `address` is what limits count by: an IPv6 one by its /64."""

    at: float
    """Seconds since the epoch."""
    status: int
    code: str
    reason: str
    room_id: str | None
    trace_id: str
    address: str


class Refusals:
    """Remembers the last `RECENT` refusals, and counts those of five to ten minutes by address, in bounded memory."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: deque[RefusedHandshake] = deque(maxlen=RECENT)
        self._began = clock()
        self._now, self._before = _Frequent(), _Frequent()

    def note(self, refused: RefusedHandshake) -> None:
        self._recent.appendleft(refused)
        self._turn()
        self._now.add(refused.address)

    def recent(self) -> Iterator[RefusedHandshake]:
        """The last ones first."""
        return iter(self._recent)

    def top_address_ratio(self) -> float:
        """0 to 1; without refusals 0. Exact as long as few addresses are refused, else at most 1/64 too low."""
        self._turn()
        total = self._now.total + self._before.total
        if not total:
            return 0.0
        addresses = self._now.counts.keys() | self._before.counts.keys()
        top = max((self._now.counts.get(a, 0) + self._before.counts.get(a, 0) for a in addresses), default=0)
        return top / total

    def _turn(self) -> None:
        """Begin a new window where the old one is over."""
        windows = int((self._clock() - self._began) // WINDOW_SECONDS)
        if windows:
            self._began += windows * WINDOW_SECONDS
            self._before = self._now if windows == 1 else _Frequent()
            self._now = _Frequent()


class _Frequent:
    """Frequent items of a stream with a fixed number of counters (Misra and Gries, 1982).

    A count is too low by at most `total / ADDRESSES_WATCHED`; whatever is more frequent than that is there.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.total = 0

    def add(self, item: str) -> None:
        self.total += 1
        if item in self.counts or len(self.counts) < ADDRESSES_WATCHED:
            self.counts[item] = self.counts.get(item, 0) + 1
            return
        self.counts = {other: count - 1 for other, count in self.counts.items() if count > 1}
