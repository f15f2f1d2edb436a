"""What crosses the bus, counted: plain integers, read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Iterable


class BusCounters:
    """Only ever grows."""

    __slots__ = ("dropped_by_reason", "gaps", "published_entries", "received_entries")

    def __init__(self) -> None:
        self.published_entries = 0
        self.received_entries = 0
        self.gaps = 0
        self.dropped_by_reason: dict[str, int] = {}

    def expect(self, reasons: Iterable[str]) -> None:
        """Why something may be dropped: these stand at 0 from the start."""
        self.dropped_by_reason = dict.fromkeys(reasons, 0)

    def published(self) -> None:
        self.published_entries += 1

    def received(self) -> None:
        self.received_entries += 1

    def dropped(self, reason: str) -> None:
        self.dropped_by_reason[reason] += 1

    def gap(self) -> None:
        self.gaps += 1
