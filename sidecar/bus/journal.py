"""What this replica said lately, as it was sent: so that one who lost some of it can be sent it again.

The replica that spoke keeps its own words, no server does: what a receiver missed is known to it alone, by number, and
is asked of the one who surely has it. That works however the bus was lost: cut, restarted, or with its memory gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

KEPT_SECONDS = 45.0
"""Longer than the longest cut that loses nothing (30 s), with time to find out and to ask."""
KEPT_BYTES = 64 * 1024 * 1024


class Pages:
    """One room's part: encoded entries with consecutive numbers, the last one's being `last`."""

    __slots__ = ("entries", "last")

    def __init__(self) -> None:
        self.entries: deque[bytes] = deque()
        self.last = 0

    def after(self, seq: int) -> Iterator[bytes] | None:
        """The entries from `seq` + 1 on; None if some of them are no longer kept."""
        missing = self.last - seq
        if missing > len(self.entries):
            return None
        return (self.entries[index] for index in range(len(self.entries) - missing, len(self.entries)))


class Journal:
    """Every room's pages, bounded together in time and bytes: the oldest entries go first."""

    def __init__(self, *, kept_seconds: float = KEPT_SECONDS, kept_bytes: int = KEPT_BYTES) -> None:
        self.bytes = 0
        self._kept_seconds = kept_seconds
        self._kept_bytes = kept_bytes
        self._order: deque[tuple[float, Pages]] = deque()

    def write(self, pages: Pages, entry: bytes, now: float) -> None:
        """Keep the entry numbered `pages.last` + 1, said at `now` on the monotonic clock."""
        pages.last += 1
        pages.entries.append(entry)
        self._order.append((now, pages))
        self.bytes += len(entry)
        while self.bytes > self._kept_bytes:
            self._drop_oldest()
        self.forget_old(now)

    def forget_old(self, now: float) -> None:
        """Drop what was said longer ago than is kept."""
        while self._order and self._order[0][0] < now - self._kept_seconds:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, pages = self._order.popleft()
        self.bytes -= len(pages.entries.popleft())
