"""Traces: ids that are honoured and passed on always, spans where `OTEL_*` asks for them."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Kind
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from websockets.exceptions import InvalidStatus

from sidecar.observe import tracing
from sidecar.observe.tracing import Untraced
from sidecar.signaling.outlet import NO_FD
from tests.fire.faults import one_world
from tests.harness import ROOT, guid, until
from tests.observe.collector import Collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
CALL = "dyson.chat.v1.ChatMembershipService/GetMembership"


@pytest.fixture
async def collector(monkeypatch):
    """A collector to which sidecars started from here on send their spans."""
    async with Collector() as running:
        for name, value in running.settings.items():
            monkeypatch.setenv(name, value)
        yield running


async def test_a_handshake_is_a_span_with_its_steps_below_and_the_chat_service_goes_on_from_there(
    start, chat, issuer, collector
):
    room, account = guid(), guid()
    chat.allow(room, account)
    async with start() as sidecar:
        await sidecar.connect(room, issuer.token(account), headers={"traceparent": TRACEPARENT})
        await until(lambda: collector.named("handshake"), "the handshake's span")
    (handshake,) = collector.named("handshake")
    (verify,) = collector.named("verify token")
    (membership,) = collector.named("membership")
    (call,) = collector.named(CALL)
    assert {span.trace_id for span in (handshake, verify, membership, call)} == {TRACE}
    assert (handshake.parent_id, handshake.kind) == (CALLER, Kind.SPAN_KIND_SERVER)
    assert verify.parent_id == membership.parent_id == handshake.span_id
    assert (call.parent_id, call.kind) == (membership.span_id, Kind.SPAN_KIND_CLIENT)
    assert chat.traceparents["GetMembership"] == [f"00-{TRACE}-{call.span_id}-01"]
    assert handshake.attributes == {
        "http.response.status_code": 101,
        "sphere.outcome": "accepted",
        "sphere.room": room,
        "sphere.account": account,
    }
    assert call.attributes["rpc.grpc.status_code"] == 0
    assert handshake.resource["service.name"] == "sphere-sidecar"
    assert 0 < call.seconds <= membership.seconds <= handshake.seconds < 60


async def test_a_refused_handshakes_span_says_why_and_bears_the_id_that_the_client_was_told(
    start, chat, issuer, collector
):
    async with start() as sidecar:
        denied = await sidecar.probe(guid(), issuer.token(guid()))
        anonymous = await sidecar.probe(guid())
        chat.fail(grpc.StatusCode.INTERNAL)
        failed = await sidecar.probe(guid(), issuer.token(guid()))
        await until(lambda: len(collector.named("handshake")) == 3, "three handshakes")
    spans = {span.trace_id: span for span in collector.named("handshake")}
    outcomes = [
        (spans[answer.json["traceId"]].attributes["sphere.outcome"], spans[answer.json["traceId"]].status)
        for answer in (denied, anonymous, failed)
    ]
    assert outcomes == [
        ("not_a_member", Status.STATUS_CODE_UNSET),
        ("unauthorized", Status.STATUS_CODE_UNSET),
        ("membership_unavailable", Status.STATUS_CODE_ERROR),
    ]
    calls = {span.trace_id: span for span in collector.named(CALL)}
    assert calls[denied.json["traceId"]].status == Status.STATUS_CODE_UNSET
    assert calls[failed.json["traceId"]].attributes["rpc.grpc.status_code"] == 13
    assert calls[failed.json["traceId"]].status == Status.STATUS_CODE_ERROR
    assert anonymous.json["traceId"] not in calls


async def test_relays_are_sampled_however_many_there_are(start, chat, issuer, collector):
    room, first, second = guid(), guid(), guid()
    chat.allow(room, first)
    chat.allow(room, second)
    async with start(message_rate=0) as sidecar:
        a = await sidecar.connect(room, issuer.token(first))
        b = await sidecar.connect(room, issuer.token(second))
        for number in range(200):
            await a.send({"type": "offer", "data": {"n": number}})
        for _ in range(200):
            await b.receive_signal("offer")
        await until(lambda: collector.named("relay"), "a relay's span")
        assert (await sidecar.metrics())["sphere_sidecar_relay_duration_seconds_count"] == 200
    relays = collector.named("relay")
    assert 1 <= len(relays) < 20
    assert all(0 <= span.seconds < 10 and span.parent_id == "" for span in relays)
    about = {"sphere.room": room, "sphere.packet.type": "offer"}
    assert all(span.attributes == about for span in relays)


async def test_a_type_that_clients_made_up_is_no_attribute_value(start, chat, issuer, collector):
    room, first, second = guid(), guid(), guid()
    chat.allow(room, first)
    chat.allow(room, second)
    async with start() as sidecar:
        a = await sidecar.connect(room, issuer.token(first))
        b = await sidecar.connect(room, issuer.token(second))
        await a.send({"type": "wave", "data": {}})
        await b.receive_signal("wave")
        (relay,) = await until(lambda: collector.named("relay"), "the relay's span")
    assert relay.attributes["sphere.packet.type"] == "other"


async def test_no_token_is_in_a_span(start, chat, issuer, collector):
    room, account = guid(), guid()
    chat.allow(room, account)
    tokens = [issuer.token(account), issuer.token(guid()), issuer.token(account, ttl_seconds=-600)]
    async with start() as sidecar:
        for token in tokens:
            for options in ({"token": token}, {"query": f"tk={token}"}):
                with contextlib.suppress(InvalidStatus):
                    await sidecar.connect(room, **options)
        await until(lambda: len(collector.named("handshake")) == 6, "six handshakes")
    sent = b"".join(collector.raw)
    for token in tokens:
        for part in token.split("."):
            assert part.encode() not in sent


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SERVICE_NAME", "my-sidecar"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,service.name=my-sidecar"),
    ],
)
async def test_spans_still_queued_are_sent_before_the_end_under_the_name_it_was_given(
    start, collector, monkeypatch, name, value
):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    monkeypatch.setenv(name, value)
    async with start(drain_seconds=0) as sidecar:
        await sidecar.probe(guid())
        assert collector.spans == []
        sidecar.terminate()
        assert await sidecar.exit_status() == 0
    (handshake,) = collector.named("handshake")
    assert handshake.resource["service.name"] == "my-sidecar"


async def test_a_sampler_that_takes_nothing_leaves_ids_and_no_spans(
    start, chat, issuer, collector, monkeypatch
):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    room, account = guid(), guid()
    chat.allow(room, account)
    async with start(drain_seconds=0) as sidecar:
        await sidecar.connect(room, issuer.token(account), headers={"traceparent": TRACEPARENT})
        sidecar.terminate()
        await sidecar.exit_status()
    assert collector.spans == []
    (passed,) = chat.traceparents["GetMembership"]
    assert passed.split("-")[1] == TRACE
    assert passed.endswith("-00")


async def test_a_collector_that_is_away_neither_holds_handshakes_nor_the_end(
    start, chat, issuer, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    room, account = guid(), guid()
    chat.allow(room, account)
    async with start(drain_seconds=0) as sidecar:
        client = await sidecar.connect(room, issuer.token(account))
        sidecar.terminate()
        assert (await client.closed())[0] == 1012
        assert await sidecar.exit_status() == 0


async def test_rooms_write_through_transports_while_a_thread_sends_spans(issuer, collector):
    """`os.write` would let go of the interpreter's lock at each receiver, and wait for that thread to give it back."""
    room = guid()
    async with one_world(issuer) as world:
        a, b = await world.join(room), await world.join(room)
        assert {one.fd for one in world.running.connections.by_id.values()} == {NO_FD}
        await a.send({"type": "offer", "data": {}})
        await b.receive_signal("offer")
        assert {one.fd for one in world.running.connections.by_id.values()} == {NO_FD}
        for client in (a, b):
            await client.close()
    assert collector.named("handshake")


async def test_without_tracing_the_callers_trace_is_passed_on_as_it_came(start, chat, issuer):
    room, account, other = guid(), guid(), guid()
    chat.allow(room, account)
    async with start() as sidecar:
        await sidecar.connect(room, issuer.token(account), headers={"traceparent": TRACEPARENT})
        refused = await sidecar.probe(room, issuer.token(other))
    with_trace, made_up = chat.traceparents["GetMembership"]
    assert with_trace == TRACEPARENT
    assert made_up.split("-")[1] == refused.json["traceId"]


def test_without_tracing_nothing_of_it_is_imported():
    program = "import sys, sidecar.cli, sidecar.app; print(*(m for m in sys.modules if 'opentelemetry' in m))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode().strip() == ""


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"},
    ],
)
def test_tracing_is_off_unless_asked_for(environ):
    tracer, problem = tracing.from_environment(environ)
    assert isinstance(tracer, Untraced)
    assert problem is None


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
    ],
)
def test_what_tracing_cannot_do_is_a_warning_and_no_reason_not_to_start(environ, named):
    tracer, problem = tracing.from_environment(environ)
    assert isinstance(tracer, Untraced)
    assert problem.startswith(named)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "abc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
    ],
)
def test_a_value_that_the_sdk_does_not_bear_is_a_warning(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    tracer, problem = tracing.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert isinstance(tracer, Untraced)
    assert problem.startswith("OTEL_*: no tracing")


def test_a_missing_extra_is_a_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "sidecar.observe.otel", None)
    tracer, problem = tracing.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"})
    assert isinstance(tracer, Untraced)
    assert "extra `tracing`" in problem


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}",
        f"{TRACEPARENT}\r\nx: y",
        f"{TRACEPARENT}-more",
    ],
)
def test_a_traceparent_that_is_wrong_is_not_believed(wrong):
    trace = Untraced().handshake(wrong, None)
    assert trace.trace_id != TRACE
    with trace.step("membership") as metadata:
        assert dict(metadata)["traceparent"].split("-")[1] == trace.trace_id


def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known():
    assert Untraced().handshake(f"01-{TRACE}-{CALLER}-01-more", None).trace_id == TRACE


def test_tracestate_goes_along():
    with Untraced().handshake(TRACEPARENT, "vendor=1").step("membership") as metadata:
        assert metadata == (("traceparent", TRACEPARENT), ("tracestate", "vendor=1"))


@pytest.mark.parametrize(
    "wrong", ["", "vendor=" + "x" * 512, "vendor=é", "vendor=\x01", "vendor=\udcff", "a=1\n"]
)
def test_a_tracestate_that_grpc_may_not_send_ends_here(wrong):
    with Untraced().handshake(TRACEPARENT, wrong).step("membership") as metadata:
        assert metadata == (("traceparent", TRACEPARENT),)


@pytest.mark.parametrize("more", ["é", "\x01", "\udcff", "x" * 12_000])
def test_what_a_later_traceparent_adds_is_as_harmless(more):
    with Untraced().handshake(f"01-{TRACE}-{CALLER}-01-{more}", None).step("membership") as metadata:
        assert metadata[0][1].isascii()
        assert metadata[0][1].isprintable()
        assert len(metadata[0][1]) < 256
