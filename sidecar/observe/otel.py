"""Spans by OpenTelemetry, sent over OTLP/gRPC. Endpoint, headers, sampler, batches: the standard `OTEL_*` variables."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as OtelTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import sidecar
from sidecar import grpc_threads
from sidecar.errors import Refusal
from sidecar.membership.service import Metadata
from sidecar.observe.tracing import Outcome, Trace
from sidecar.signaling.counters import MESSAGE_TYPES
from sidecar.signaling.room import Instruments

SERVICE = "sphere-sidecar"
RPC_SERVICE = "dyson.chat.v1.ChatMembershipService"
RELAY_SPAN_SECONDS = 1.0
"""At most one relay in this time has a span, and of those the sampler takes its share."""
CLOSE_SECONDS = 3.0

_SERVER_ERROR = 500
_propagator = TraceContextTextMapPropagator()


class OpenTelemetry:
    """Implements `tracing.Tracer`. Spans are queued, bounded, and sent by a thread of the SDK's."""

    threaded = True

    def __init__(self, environ: Mapping[str, str]) -> None:
        given = environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
        named = environ.get("OTEL_SERVICE_NAME") or any(
            pair.partition("=")[0].strip() == "service.name" for pair in given
        )
        attributes = {"service.version": sidecar.__version__} | ({} if named else {"service.name": SERVICE})
        self._provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        with grpc_threads.patient():
            self._exporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer(__name__, sidecar.__version__)

    def handshake(self, traceparent: str | None, tracestate: str | None) -> Trace:
        carrier = {"traceparent": traceparent or "", "tracestate": tracestate or ""}
        parent = _propagator.extract(carrier, Context())
        return _Handshake(
            self._tracer, self._tracer.start_span("handshake", context=parent, kind=SpanKind.SERVER)
        )

    @contextmanager
    def call(self, method: str, metadata: Metadata) -> Iterator[Metadata]:
        parent = _propagator.extract(dict(metadata), Context())
        attributes = {"rpc.system": "grpc", "rpc.service": RPC_SERVICE, "rpc.method": method}
        span = self._tracer.start_span(
            f"{RPC_SERVICE}/{method}", context=parent, kind=SpanKind.CLIENT, attributes=attributes
        )
        code = grpc.StatusCode.OK
        try:
            yield _metadata(span)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise
        except BaseException:
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            if code not in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND):
                span.set_status(StatusCode.ERROR, code.name)
            span.end()

    def beside(self, instruments: Instruments) -> Instruments:
        return _SampledRelays(self._tracer, instruments)

    async def close(self) -> None:
        closing = asyncio.ensure_future(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if not closing.done():
            self._exporter.shutdown()  # the collector is away: ends the tries that `closing` waits for
        await closing


class _Handshake:
    __slots__ = ("_span", "_tracer", "trace_id")

    def __init__(self, tracer: OtelTracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def step(self, name: str) -> AbstractContextManager[Metadata]:
        return _step(self._tracer, self._span, name)

    def end(self, outcome: Outcome) -> None:
        span = self._span
        span.set_attribute("sphere.outcome", outcome.code)
        if outcome.status:
            span.set_attribute("http.response.status_code", outcome.status)
        if outcome.room_id is not None:
            span.set_attribute("sphere.room", outcome.room_id)
        if outcome.account_id is not None:
            span.set_attribute("sphere.account", outcome.account_id)
        if outcome.status >= _SERVER_ERROR:
            span.set_status(StatusCode.ERROR, outcome.code)
        span.end()


class _SampledRelays:
    """Passes on what rooms measure, and makes a span of one relay in `RELAY_SPAN_SECONDS`."""

    __slots__ = ("_tracer", "answered", "next_sample", "relayed")

    def __init__(self, tracer: OtelTracer, instruments: Instruments) -> None:
        self._tracer = tracer
        self.next_sample = 0.0
        self.relayed = instruments.relayed  # on the path of a message: no call between
        self.answered = instruments.answered

    def sampled(self, room_id: str, type: str, seconds: float) -> None:  # noqa: A002 - as `Instruments`
        self.next_sample = time.monotonic() + RELAY_SPAN_SECONDS
        end = time.time_ns()
        span = self._tracer.start_span(
            "relay",
            context=Context(),
            attributes={
                "sphere.room": room_id,
                "sphere.packet.type": type if type in MESSAGE_TYPES else "other",
            },
            start_time=end - int(seconds * 1e9),
        )
        span.end(end_time=end)


@contextmanager
def _step(tracer: OtelTracer, parent: Span, name: str) -> Iterator[Metadata]:
    span = tracer.start_span(name, context=set_span_in_context(parent, Context()))
    try:
        yield _metadata(span)
    except Refusal as refusal:
        span.set_attribute("sphere.refusal", refusal.code.lower())
        raise
    except BaseException as error:
        span.set_status(StatusCode.ERROR, type(error).__name__)  # its text could quote anything
        raise
    finally:
        span.end()


def _metadata(span: Span) -> Metadata:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, set_span_in_context(span, Context()))
    return tuple(carrier.items())
