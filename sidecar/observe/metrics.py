"""What Prometheus scrapes (docs/protocol.md has none of it; docs/metrics.md lists every series).

On the path of a message nothing is counted but plain integers; they are read when somebody scrapes.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import sidecar
from sidecar.errors import RefusalCode
from sidecar.signaling.hub import Hub
from sidecar.signaling.room import MESSAGE_TYPES, RoomCounters

NAMESPACE = "sphere_sidecar"
EMPTY_ROOM_KEPT_SECONDS = 300.0
OTHER_ROOMS = "other"
DROP_REASONS = ("malformed", "rate_limited", "slow_consumer", "target_not_in_room")
DISCONNECT_CODES = (
    1000, 1001, 1002, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 4401, 4403, 4408, 4409, 4429,
)  # fmt: skip

_FINE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_USUAL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_CALL = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LIFE = (1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)
_SKEW = (-60.0, -10.0, -1.0, 0.0, 1.0, 10.0, 60.0, 300.0)


class Timing:
    """A histogram whose `observe` is one search and three additions. One thread only: the loop's."""

    __slots__ = ("_counts", "_sum", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        cumulative = 0
        buckets = []
        for bound, count in zip((*self.bounds, float("inf")), self._counts, strict=True):
            cumulative += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(cumulative)))
        family.add_metric(list(labels), buckets, self._sum)


class RoomBook:
    """Counters of the rooms with a label of their own, at most `max_rooms` (0: any number); the rest share one.

    A room's series outlive it by `EMPTY_ROOM_KEPT_SECONDS`. Where a place becomes free, a room that shared `other`
    counts on its own from then on; what it counted before stays in `other`, so no counter ever goes back.
    """

    def __init__(self, *, max_rooms: int, clock: Callable[[], float] = monotonic) -> None:
        self.other = RoomCounters()
        self._max_rooms = max_rooms
        self._clock = clock
        self._own: dict[str, RoomCounters] = {}
        self._empty_since: dict[str, float] = {}  # in the order they became empty

    def open(self, room_id: str) -> RoomCounters:
        self._empty_since.pop(room_id, None)
        counters = self._own.get(room_id)
        if counters is None:
            self._forget_long_empty()
            counters = self._claim(room_id)
        return counters

    def close(self, room_id: str) -> None:
        if room_id in self._own:
            self._empty_since[room_id] = self._clock()

    def labelled(self, hub: Hub) -> dict[str, RoomCounters]:
        """Rooms with series of their own now; free places go to rooms of `hub` that have none."""
        self._forget_long_empty()
        if len(self._own) < (self._max_rooms or len(self._own) + 1):
            for room in hub.rooms.values():
                if room.id not in self._own:
                    room.counters = self._claim(room.id)
                    if room.counters is self.other:
                        break
        return self._own

    def _claim(self, room_id: str) -> RoomCounters:
        if self._max_rooms and len(self._own) >= self._max_rooms:
            return self.other
        counters = self._own[room_id] = RoomCounters()
        return counters

    def _forget_long_empty(self) -> None:
        before = self._clock() - EMPTY_ROOM_KEPT_SECONDS
        while self._empty_since:
            room_id, since = next(iter(self._empty_since.items()))
            if since > before:
                return
            del self._empty_since[room_id], self._own[room_id]


class BusCounters:
    """What crossed the bus. Only ever grows."""

    __slots__ = ("dropped_by_reason", "gaps", "published_entries", "received_entries")

    def __init__(self) -> None:
        self.published_entries = 0
        self.received_entries = 0
        self.gaps = 0
        self.dropped_by_reason: dict[str, int] = {}

    def published(self) -> None:
        self.published_entries += 1

    def received(self) -> None:
        self.received_entries += 1

    def dropped(self, reason: str) -> None:
        self.dropped_by_reason[reason] += 1

    def gap(self) -> None:
        self.gaps += 1


class Metrics(Collector):
    """Every series of the sidecar. It is told what happens as it happens, and reads the rooms when scraped."""

    def __init__(self, *, max_rooms: int, room_label: bool, connections_limit: int) -> None:
        self.registry = CollectorRegistry()
        self.rooms = RoomBook(max_rooms=max_rooms)
        self.bus = BusCounters()
        self._room_label = room_label
        self._hub: Hub | None = None
        self._connections: Callable[[], int] = lambda: 0
        self._stale: Callable[[], bool] = lambda: False
        self._bus_connected: Callable[[], bool] = lambda: False

        self._handshakes = self._counter("handshakes", "Handshakes by outcome.", "outcome")
        self._disconnects = self._counter("disconnects", "Ended connections by close code.", "code")
        self._dropped = self._counter(
            "messages_dropped", "Messages that were not relayed, by reason.", "reason"
        )
        self._membership_requests = self._counter(
            "membership_requests", "Calls to the chat service by method and gRPC status.", "method", "code"
        )
        self._membership_cache = self._counter(
            "membership_cache", "Membership answers from the cache.", "result"
        )
        self._jwks_refreshes = self._counter("jwks_refreshes", "Looks at the source of token keys.", "result")
        self._draining = Gauge(
            "draining", "1 while this replica drains.", namespace=NAMESPACE, registry=self.registry
        )
        limit = Gauge(
            "connections_limit", "Most connections this replica takes; 0: no limit.",
            namespace=NAMESPACE, registry=self.registry,
        )  # fmt: skip
        limit.set(connections_limit)
        build = Gauge(
            "build_info", "Version of the sidecar and of Python.", ["version", "python"],
            namespace=NAMESPACE, registry=self.registry,
        )  # fmt: skip
        build.labels(version=sidecar.__version__, python=platform.python_version()).set(1)

        self._handshake_seconds = Timing(_USUAL)
        self._connection_seconds = Timing(_LIFE)
        self._relay_seconds = Timing(_FINE)
        self._offer_answer_seconds = Timing(_CALL)
        self._heartbeat_seconds = Timing(_USUAL)
        self._token_skew_seconds = Timing(_SKEW)
        self._membership_seconds: dict[str, Timing] = {}

        for outcome in ("accepted", *(code.lower() for code in RefusalCode)):
            self._handshakes.labels(outcome)
        for code in (*DISCONNECT_CODES, "other"):
            self._disconnects.labels(str(code))
        for reason in DROP_REASONS:
            self._dropped.labels(reason)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def expect(
        self,
        *,
        methods: Iterable[str],
        codes: Sequence[str],
        cache: Iterable[str],
        refreshes: Iterable[str],
        bus_drops: Iterable[str],
    ) -> None:
        """The label values that others report with: their series exist, at zero, from the start."""
        for method in methods:
            self._membership_seconds[method] = Timing(_USUAL)
            for code in codes:
                self._membership_requests.labels(method, code)
        for result in cache:
            self._membership_cache.labels(result)
        for result in refreshes:
            self._jwks_refreshes.labels(result)
        self.bus.dropped_by_reason = dict.fromkeys(bus_drops, 0)

    def watch(
        self,
        *,
        hub: Hub,
        connections: Callable[[], int],
        stale: Callable[[], bool],
        bus_connected: Callable[[], bool],
    ) -> None:
        """What is read at each scrape."""
        self._hub = hub
        self._connections = connections
        self._stale = stale
        self._bus_connected = bus_connected

    # What happened: from the handshake, connections, rooms, membership and keys

    def handshake(self, outcome: str, seconds: float) -> None:
        self._handshakes.labels(outcome).inc()
        self._handshake_seconds.observe(seconds)

    def disconnected(self, code: int, seconds: float) -> None:
        self._disconnects.labels(str(code) if code in DISCONNECT_CODES else "other").inc()
        self._connection_seconds.observe(seconds)

    def dropped(self, reason: str) -> None:
        self._dropped.labels(reason).inc()

    def heartbeat(self, seconds: float) -> None:
        self._heartbeat_seconds.observe(seconds)

    def relayed(self, seconds: float) -> None:
        self._relay_seconds.observe(seconds)

    def answered(self, seconds: float) -> None:
        self._offer_answer_seconds.observe(seconds)

    def token_skew(self, seconds: float) -> None:
        self._token_skew_seconds.observe(seconds)

    def membership_request(self, method: str, code: str, seconds: float) -> None:
        self._membership_requests.labels(method, code).inc()
        self._membership_seconds[method].observe(seconds)

    def membership_cache(self, result: str) -> None:
        self._membership_cache.labels(result).inc()

    def jwks_refresh(self, result: str) -> None:
        self._jwks_refreshes.labels(result).inc()

    def draining(self) -> None:
        self._draining.set(1)

    # The scrape

    def describe(self) -> Iterable[Metric]:
        return ()  # spares a collection at registration

    def collect(self) -> Iterator[Metric]:
        hub = self._hub
        yield _gauge("connections", "Upgraded connections, closing ones included.", self._connections())
        yield _gauge("rooms", "Rooms with a connection on this replica.", len(hub.rooms) if hub else 0)
        yield _gauge("membership_stale", "1 while live connections rest on old answers.", int(self._stale()))
        yield _histogram(
            "handshake_duration_seconds", "From a handshake's head to its answer.", self._handshake_seconds
        )
        yield _histogram(
            "connection_duration_seconds", "From upgrade to the last byte.", self._connection_seconds
        )
        yield _histogram(
            "relay_duration_seconds", "From a signal's frame read to it being written to every local receiver.",
            self._relay_seconds,
        )  # fmt: skip
        yield _histogram(
            "offer_answer_seconds",
            "From an offer to the first answer to its sender.",
            self._offer_answer_seconds,
        )
        yield _histogram(
            "heartbeat_rtt_seconds", "From a WebSocket ping to its pong.", self._heartbeat_seconds
        )
        yield _histogram(
            "token_clock_skew_seconds",
            "Now minus iat of tokens seen for the first time.",
            self._token_skew_seconds,
        )
        calls = HistogramMetricFamily(
            f"{NAMESPACE}_membership_request_duration_seconds",
            "Calls to the chat service.",
            labels=["method"],
        )
        for method, timing in self._membership_seconds.items():
            timing.add_to(calls, [method])
        yield calls
        yield from self._collect_bus()
        if hub is not None and self._room_label:
            yield from self._collect_rooms(hub)

    def _collect_bus(self) -> Iterator[Metric]:
        bus = self.bus
        yield _gauge("bus_connected", "1 while other replicas can be reached.", int(self._bus_connected()))
        yield _total(
            "bus_published", "Joins, leaves and signals sent to other replicas.", bus.published_entries
        )
        yield _total("bus_received", "Joins, leaves and signals of other replicas.", bus.received_entries)
        yield _total("bus_gaps", "Times that something of another replica was lost for good.", bus.gaps)
        dropped = CounterMetricFamily(
            f"{NAMESPACE}_bus_dropped", "Bus messages not sent or not used, by reason.", labels=["reason"]
        )
        for reason, number in bus.dropped_by_reason.items():
            dropped.add_metric([reason], number)
        yield dropped

    def _collect_rooms(self, hub: Hub) -> Iterator[Metric]:
        label = ["room"]
        connections = GaugeMetricFamily(f"{NAMESPACE}_room_connections", "Connections here.", labels=label)
        participants = GaugeMetricFamily(f"{NAMESPACE}_room_participants", "Accounts here.", labels=label)
        received = CounterMetricFamily(
            f"{NAMESPACE}_room_messages_received", "Signals relayed, as received.", labels=["room", "type"]
        )
        delivered = CounterMetricFamily(
            f"{NAMESPACE}_room_messages_delivered", "Signals relayed, as written to receivers.", labels=label
        )
        bytes_received = CounterMetricFamily(
            f"{NAMESPACE}_room_bytes_received", "Payload bytes of signals received.", labels=label
        )
        bytes_delivered = CounterMetricFamily(
            f"{NAMESPACE}_room_bytes_delivered", "Payload bytes of signals delivered.", labels=label
        )
        own = self.rooms.labelled(hub)
        counted = dict(own)
        others = [room for room in hub.rooms.values() if room.id not in own]
        if others or self.rooms.other.bytes_received:
            counted[OTHER_ROOMS] = self.rooms.other
        for room_id, counters in counted.items():
            room = hub.rooms.get(room_id)
            rooms = others if room_id == OTHER_ROOMS else [room] if room else []
            connections.add_metric([room_id], sum(len(room.members) for room in rooms))
            participants.add_metric([room_id], sum(room.local_accounts() for room in rooms))
            for kind in MESSAGE_TYPES:
                received.add_metric([room_id, kind], counters.received[kind])
            delivered.add_metric([room_id], counters.delivered)
            bytes_received.add_metric([room_id], counters.bytes_received)
            bytes_delivered.add_metric([room_id], counters.bytes_delivered)
        yield from (connections, participants, received, delivered, bytes_received, bytes_delivered)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace=NAMESPACE, registry=self.registry)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{NAMESPACE}_{name}", text, value=value)


def _total(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"{NAMESPACE}_{name}", text, value=value)


def _histogram(name: str, text: str, timing: Timing) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"{NAMESPACE}_{name}", text, labels=[])
    timing.add_to(family)
    return family
