"""What is counted as it happens: plain numbers of the loop's thread, read when somebody scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import ItemsView, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily


class Tally:
    """A counter for each combination of label values. Those expected stand at 0 from the start."""

    __slots__ = ("_counts",)

    def __init__(self, *expected: tuple[str, ...]) -> None:
        self._counts = dict.fromkeys(expected, 0)

    def expect(self, *values: str) -> None:
        self._counts.setdefault(values, 0)

    def add(self, *values: str) -> None:
        self._counts[values] = self._counts.get(values, 0) + 1

    def total(self) -> int:
        return sum(self._counts.values())

    def __getitem__(self, values: tuple[str, ...]) -> int:
        return self._counts.get(values, 0)

    def items(self) -> ItemsView[tuple[str, ...], int]:
        return self._counts.items()

    def family(self, name: str, text: str, *labels: str) -> CounterMetricFamily:
        family = CounterMetricFamily(name, text, labels=labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        return family


class Timing:
    """A histogram whose `observe` is one search and three additions."""

    __slots__ = ("_counts", "_sum", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self._sum += value

    def quantile(self, share: float) -> float | None:
        """The bound under which `share` (0 to 1) of all values lie; None without values, infinity above every bound."""
        wanted = share * sum(self._counts)
        if not wanted:
            return None
        seen = 0
        for bound, count in zip(self.bounds, self._counts, strict=False):
            seen += count
            if seen >= wanted:
                return bound
        return float("inf")

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        family = HistogramMetricFamily(name, text, labels=[])
        self.add_to(family)
        return family

    def add_to(self, family: HistogramMetricFamily, *labels: str) -> None:
        cumulative = 0
        buckets = []
        for bound, count in zip((*self.bounds, float("inf")), self._counts, strict=True):
            cumulative += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(cumulative)))
        family.add_metric(list(labels), buckets, self._sum)
