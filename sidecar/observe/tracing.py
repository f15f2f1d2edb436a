"""The trace a handshake belongs to: its id is in every log line and error, and goes along to the chat service.

Spans are made only where the standard `OTEL_*` variables ask for them (docs/observability.md); nothing of
OpenTelemetry is imported otherwise.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from sidecar.membership.service import Metadata
from sidecar.signaling.room import Instruments

# W3C Trace Context, section 3.2.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace_id>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<more>-[ -~]{0,128})?"
)
_FIRST_VERSION = "00"  # the one that has no more
# Section 3.3.1.5: so much is passed on whole. Sent as it is, anything else would fail our own call in gRPC.
_TRACESTATE = re.compile(r"[ -~]{1,512}")


class Outcome(NamedTuple):
    """How a handshake ended, for its span. `status` 0: the client was gone before its answer."""

    status: int = 0
    code: str = "gone"
    """`accepted`, or the error's code in lower case."""
    room_id: str | None = None
    account_id: str | None = None


class Trace(Protocol):
    """One handshake's trace."""

    @property
    def trace_id(self) -> str:
        """32 hex digits: those of an incoming `traceparent`, else new ones."""

    def step(self, name: str) -> AbstractContextManager[Metadata]:
        """A part of the handshake. What it asks of others it sends with this metadata."""

    def end(self, outcome: Outcome) -> None:
        """The handshake is answered."""


class Tracer(Protocol):
    """Where handshakes, calls and relays are told of."""

    @property
    def threaded(self) -> bool:
        """Whether a thread of its own runs Python."""

    def handshake(self, traceparent: str | None, tracestate: str | None) -> Trace:
        """A request came, with these headers."""

    def call(self, method: str, metadata: Metadata) -> AbstractContextManager[Metadata]:
        """A call to the chat service begins, asked for with `metadata`; it is sent with what this gives."""

    def beside(self, instruments: Instruments) -> Instruments:
        """What rooms measure goes to `instruments`, and a sample of it becomes spans."""

    async def close(self) -> None:
        """Send what is left, within a few seconds."""


class Untraced:
    """No spans: ids are made up or passed on as they came (W3C Trace Context, section 3.4: no participation)."""

    threaded = False

    def handshake(self, traceparent: str | None, tracestate: str | None) -> Trace:
        trace_id = trace_id_of(traceparent)
        if traceparent is None or trace_id is None:
            new = f"{random.getrandbits(192):048x}"
            trace_id = new[:32]
            return _Passing(trace_id, (("traceparent", f"00-{trace_id}-{new[32:]}-00"),))
        parent = ("traceparent", traceparent.strip())
        if tracestate is None or not _TRACESTATE.fullmatch(tracestate):
            return _Passing(trace_id, (parent,))
        return _Passing(trace_id, (parent, ("tracestate", tracestate)))

    def call(self, method: str, metadata: Metadata) -> AbstractContextManager[Metadata]:  # noqa: ARG002
        return nullcontext(metadata)

    def beside(self, instruments: Instruments) -> Instruments:
        return instruments

    async def close(self) -> None:
        pass


class _Passing:
    """Each of its steps is itself."""

    __slots__ = ("_metadata", "trace_id")

    def __init__(self, trace_id: str, metadata: Metadata) -> None:
        self.trace_id = trace_id
        self._metadata = metadata

    def step(self, name: str) -> AbstractContextManager[Metadata]:  # noqa: ARG002
        return self

    def __enter__(self) -> Metadata:
        return self._metadata

    def __exit__(self, *_error: object) -> None:
        pass

    def end(self, outcome: Outcome) -> None:
        pass


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id of a `traceparent` that is right, else None."""
    match = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if match is None or (match["more"] and match[0].startswith(_FIRST_VERSION)):
        return None
    return match["trace_id"]


def from_environment(environ: Mapping[str, str]) -> tuple[Tracer, str | None]:
    """The tracer that the `OTEL_*` variables ask for, and what about them cannot be done, if anything."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Untraced(), None
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip() or ("otlp" if endpoint else "none")
    if exporter == "none":
        return Untraced(), None
    if exporter != "otlp":
        return Untraced(), f"OTEL_TRACES_EXPORTER: {exporter!r}: no tracing; expected otlp or none"
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "grpc"
    )
    if protocol != "grpc":
        return Untraced(), f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r}: no tracing; expected grpc"
    try:
        from sidecar.observe.otel import OpenTelemetry  # noqa: PLC0415 - an extra, and not free to import

        return OpenTelemetry(environ), None
    except ImportError:
        return Untraced(), "OTEL_* asks for tracing: install the extra `tracing`"
    except Exception as error:  # noqa: BLE001 - whatever its SDK raises over a value: nothing depends on tracing
        return Untraced(), f"OTEL_*: no tracing: {error}"
