"""What Prometheus scrapes; docs/metrics.md lists every series and says what it is good for.

On the path of a message nothing is counted but plain integers; they are read when somebody scrapes.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import inf
from time import monotonic

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import sidecar
from sidecar.errors import RefusalCode
from sidecar.observe.bus import BusCounters
from sidecar.observe.certificates import Life
from sidecar.observe.refusals import Refusals
from sidecar.observe.rooms import RoomBook, room_series
from sidecar.observe.tally import Tally, Timing
from sidecar.signaling.hub import Hub
from sidecar.signaling.room import Room

NAMESPACE = "sphere_sidecar"
DROP_REASONS = ("malformed", "rate_limited", "slow_consumer", "target_not_in_room")
DISCONNECT_CODES = (
    1000, 1001, 1002, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 4401, 4403, 4408, 4409, 4429,
)  # fmt: skip
KEY_FAILURES = frozenset({"unreachable", "unusable"})

_FINE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_USUAL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_CALL = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LIFE = (1.0, 10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)
# Ages of tokens, which live five minutes; in the first bucket those from the future.
_SKEW = (0.0, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 360.0)

_EOF = b"# EOF\n"


class Metrics(Collector):
    """Every series of the sidecar. It is told what happens as it happens, and reads the rooms when scraped."""

    def __init__(
        self,
        *,
        max_rooms: int,
        room_label: bool,
        connections_limit: int,
        refusals: Refusals,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.rooms = RoomBook(max_rooms=max_rooms, clock=clock)
        self.bus = BusCounters()
        self.connections_limit = connections_limit
        self.is_draining = False
        self._room_label = room_label
        self._refusals = refusals
        self._hub: Hub | None = None
        self.open_connections: Callable[[], int] = lambda: 0
        self.is_stale: Callable[[], bool] = lambda: False
        self.is_breaker_open: Callable[[], bool] = lambda: False
        self._unsent_bytes: Callable[[], int] = lambda: 0
        self._bus_configured = False
        self._bus_connected: Callable[[], bool] = lambda: False
        self._jwks_failing = False
        self._certificates: dict[str, Life] = {}

        outcomes = ("accepted", *(code.lower() for code in RefusalCode))
        codes = (*(str(code) for code in DISCONNECT_CODES), "other")
        self.handshakes = Tally(*((outcome,) for outcome in outcomes))
        self.disconnects = Tally(*((code,) for code in codes))
        self.messages_dropped = Tally(*((reason,) for reason in DROP_REASONS))
        self.membership_requests = Tally()
        self.membership_cached = Tally()
        self._jwks_refreshes = Tally()

        self.handshake_seconds = Timing(_USUAL)
        self._connection_seconds = Timing(_LIFE)
        self.relay_seconds = Timing(_FINE)
        self.relayed = self.relay_seconds.observe  # on the path of a message: no call between
        self.next_sample = inf
        self.offer_answer_seconds = Timing(_CALL)
        self._heartbeat_seconds = Timing(_USUAL)
        self._token_skew_seconds = Timing(_SKEW)
        self.membership_seconds: dict[str, Timing] = {}

        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def expect(
        self,
        *,
        methods: Iterable[str],
        codes: Sequence[str],
        cache: Iterable[str],
        refreshes: Iterable[str],
        bus_drops: Iterable[str] = (),
    ) -> None:
        """The label values that others report with: their series exist, at zero, from the start."""
        for method in methods:
            self.membership_seconds[method] = Timing(_USUAL)
            for code in codes:
                self.membership_requests.expect(method, code)
        for result in cache:
            self.membership_cached.expect(result)
        for result in refreshes:
            self._jwks_refreshes.expect(result)
        self.bus.expect(bus_drops)

    def watch(
        self,
        *,
        hub: Hub,
        connections: Callable[[], int],
        unsent_bytes: Callable[[], int],
        stale: Callable[[], bool],
        breaker_open: Callable[[], bool],
        bus_configured: bool = False,
        bus_connected: Callable[[], bool] = lambda: False,
    ) -> None:
        """What is read at each scrape."""
        self._hub = hub
        self.open_connections = connections
        self.is_stale = stale
        self.is_breaker_open = breaker_open
        self._unsent_bytes = unsent_bytes
        self._bus_configured = bus_configured
        self._bus_connected = bus_connected

    def open_rooms(self) -> Collection[Room]:
        """The rooms with someone of this replica in them."""
        return self._hub.rooms.values() if self._hub else ()

    # What happened: from the handshake, connections, rooms, membership and keys

    def handshake(self, outcome: str, seconds: float) -> None:
        self.handshakes.add(outcome)
        self.handshake_seconds.observe(seconds)

    def disconnected(self, code: int, seconds: float) -> None:
        self.disconnects.add(str(code) if code in DISCONNECT_CODES else "other")
        self._connection_seconds.observe(seconds)

    def dropped(self, reason: str) -> None:
        self.messages_dropped.add(reason)

    def heartbeat(self, seconds: float) -> None:
        self._heartbeat_seconds.observe(seconds)

    def answered(self, seconds: float) -> None:
        self.offer_answer_seconds.observe(seconds)

    def sampled(self, room_id: str, type: str, seconds: float) -> None:  # noqa: A002 - as `Instruments`
        pass  # of use to traces alone

    def token_skew(self, seconds: float) -> None:
        self._token_skew_seconds.observe(max(seconds, 0.0))  # a histogram's sum never goes back

    def membership_request(self, method: str, code: str, seconds: float) -> None:
        self.membership_requests.add(method, code)
        self.membership_seconds[method].observe(seconds)

    def membership_cache(self, result: str) -> None:
        self.membership_cached.add(result)

    def jwks_refresh(self, result: str) -> None:
        self._jwks_refreshes.add(result)
        self._jwks_failing = result in KEY_FAILURES

    def certificates(self, lives: Mapping[str, Life]) -> None:
        """The certificates that are now in use, by what they are for."""
        self._certificates |= lives

    def draining(self) -> None:
        self.is_draining = True

    # The scrape

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The whole page and its content type: OpenMetrics where `accept` asks for it, else the text format.

        The loop has its turn in between; see `room_series`.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        page = encode(self._registry)
        if self._hub is None or not self._room_label:
            return page, content_type
        openmetrics = page.endswith(_EOF)
        series = await room_series(self.rooms, self._hub.rooms, namespace=NAMESPACE, openmetrics=openmetrics)
        rooms = series.encode()
        if openmetrics:
            return page.removesuffix(_EOF) + rooms + _EOF, content_type
        return page + rooms, content_type

    def describe(self) -> Iterable[Metric]:
        return ()  # spares a collection at registration

    def collect(self) -> Iterator[Metric]:
        """Everything but the rooms."""
        yield from self._collect_state()
        yield from self._collect_counters()
        yield from self._collect_timings()
        yield from self._collect_bus()

    def _collect_state(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            f"{NAMESPACE}_build_info", "Version of the sidecar and of Python.", labels=["version", "python"]
        )
        build.add_metric([sidecar.__version__, platform.python_version()], 1)
        yield build
        yield _gauge("connections", "Upgraded connections, closing ones included.", self.open_connections())
        yield _gauge(
            "connections_limit", "Most connections this replica takes; 0: no limit.", self.connections_limit
        )
        yield _gauge("rooms", "Rooms with a connection on this replica.", len(self.open_rooms()))
        yield _gauge("unsent_bytes", "Bytes that slow peers have not read yet.", self._unsent_bytes())
        yield _gauge("draining", "1 while this replica drains.", self.is_draining)
        yield _gauge("membership_stale", "1 while live connections rest on old answers.", self.is_stale())
        yield _gauge(
            "membership_breaker_open",
            "1 while the chat service fails so often that it is asked once a second only.",
            self.is_breaker_open(),
        )
        yield _gauge(
            "jwks_failing", "1 while the last look at the source of token keys failed.", self._jwks_failing
        )
        yield _gauge(
            "refusals_top_address_ratio",
            "Share of the client address refused most often in the handshakes refused of late.",
            self._refusals.top_address_ratio(),
        )
        start = GaugeMetricFamily(
            f"{NAMESPACE}_certificate_start_timestamp_seconds",
            "When the certificate in use began to be valid; no series where none is configured.",
            labels=["certificate"],
        )
        expiry = GaugeMetricFamily(
            f"{NAMESPACE}_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends; no series where none is configured.",
            labels=["certificate"],
        )
        for name, life in self._certificates.items():
            start.add_metric([name], life.start)
            expiry.add_metric([name], life.end)
        yield from (start, expiry)

    def _collect_counters(self) -> Iterator[Metric]:
        for tally, name, text, *labels in (
            (self.handshakes, "handshakes", "Handshakes by outcome.", "outcome"),
            (self.disconnects, "disconnects", "Ended connections by close code.", "code"),
            (
                self.messages_dropped, "messages_dropped",
                "Messages not relayed, by reason; slow_consumer: connections ended.", "reason",
            ),
            (
                self.membership_requests, "membership_requests",
                "Calls to the chat service by method and gRPC status.", "method", "code",
            ),
            (
                self.membership_cached, "membership_cache",
                "Where the answer about a membership came from.", "result",
            ),
            (
                self._jwks_refreshes, "jwks_refreshes",
                "Looks at the source of token keys, by how they ended.", "result",
            ),
        ):  # fmt: skip
            yield tally.family(f"{NAMESPACE}_{name}", text, *labels)

    def _collect_timings(self) -> Iterator[Metric]:
        for timing, name, text in (
            (
                self.handshake_seconds, "handshake_duration_seconds",
                "From a handshake's head to its answer.",
            ),
            (
                self._connection_seconds, "connection_duration_seconds",
                "From upgrade to the last byte.",
            ),
            (
                self.relay_seconds, "relay_duration_seconds",
                "From a signal's frame read to it being written to every local receiver.",
            ),
            (
                self.offer_answer_seconds, "offer_answer_seconds",
                "From an offer to the first answer to its sender.",
            ),
            (
                self._heartbeat_seconds, "heartbeat_rtt_seconds",
                "From a WebSocket ping to its pong.",
            ),
            (
                self._token_skew_seconds, "token_clock_skew_seconds",
                "Now minus iat of tokens seen for the first time; le=0: from the future.",
            ),
        ):  # fmt: skip
            yield timing.family(f"{NAMESPACE}_{name}", text)
        calls = HistogramMetricFamily(
            f"{NAMESPACE}_membership_request_duration_seconds",
            "Calls to the chat service; WatchMemberships are streams that stay open.",
            labels=["method"],
        )
        for method, timing in self.membership_seconds.items():
            timing.add_to(calls, method)
        yield calls

    def _collect_bus(self) -> Iterator[Metric]:
        bus = self.bus
        yield _gauge("bus_configured", "1 where rooms span replicas over a bus.", self._bus_configured)
        yield _gauge("bus_connected", "1 while other replicas can be reached.", self._bus_connected())
        yield _total(
            "bus_published", "Joins, leaves and signals sent to other replicas.", bus.published_entries
        )
        yield _total("bus_received", "Joins, leaves and signals of other replicas.", bus.received_entries)
        yield _total("bus_gaps", "Times that something of another replica was lost for good.", bus.gaps)
        dropped = CounterMetricFamily(
            f"{NAMESPACE}_bus_dropped", "Bus messages not sent or not used, by reason.", labels=["reason"]
        )
        for reason, count in bus.dropped_by_reason.items():
            dropped.add_metric([reason], count)
        yield dropped


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{NAMESPACE}_{name}", text, value=value)


def _total(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"{NAMESPACE}_{name}", text, value=value)
