"""What a JetStream stream has on one subject, read in order whatever becomes of the connection and the consumer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

MARGIN_SECONDS = 60.0
"""On a new connection the stream is read again from this long before the last event read."""
HEARTBEAT_SECONDS = 5.0
SILENT_HEARTBEATS = 3
REQUEST_SECONDS = 5.0


class StreamReader:
    """Hands over each event at least once: those that the stream got at `from_time` or later, None: all it has."""

    def __init__(
        self,
        *,
        stream: str,
        subject: str,
        from_time: float | None,
        bits_per_second: int | None = None,
        at_most: int | None = None,
        ends: bool = False,
        on_event: Callable[[bytes], None],
        on_skipped: Callable[[int], None] = lambda _count: None,
    ) -> None:
        """`from_time` is in seconds since the epoch; the server sends at most `bits_per_second`.

        Of more than `at_most` events the earliest are passed over: `on_skipped` is told how many each time reading
        begins. `ends`: what comes after it has caught up is not waited for.
        """
        self.caught_up = asyncio.Event()
        """Set once everything the stream had has been handed over."""
        self._stream = stream
        self._subject = subject
        self._from_time = from_time
        self._bits_per_second = bits_per_second
        self._at_most = at_most
        self._ends = ends
        self._on_event = on_event
        self._on_skipped = on_skipped
        self._to_skip = 0
        self._heard_at = 0.0
        self._last_in_consumer = 0

    async def read(self, client: Client) -> None:
        """Read from shortly before the last event read, until something is amiss with the consumer, or to the end.

        Raises:
            NotFoundError: there is no such stream.
            nats.errors.Error, OSError: it cannot be read now.
        """
        inbox = client.new_inbox()
        self._last_in_consumer = 0
        self._heard_at = asyncio.get_running_loop().time()
        pushed = await client.subscribe(inbox, cb=partial(self._on_pushed, client))
        try:
            consumer = await client.jetstream(timeout=REQUEST_SECONDS).add_consumer(
                self._stream, self._consumer(inbox)
            )
            if not consumer.num_pending and not self._last_in_consumer:
                self.caught_up.set()
            while self._in_order() and not client.is_closed and not (self._ends and self.caught_up.is_set()):
                await asyncio.sleep(HEARTBEAT_SECONDS)
        finally:
            if not client.is_closed:
                await pushed.unsubscribe()

    def _consumer(self, inbox: str) -> ConsumerConfig:
        start = None if self._from_time is None else datetime.fromtimestamp(self._from_time, UTC)
        return ConsumerConfig(
            name=uuid.uuid4().hex,
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.ALL if start is None else DeliverPolicy.BY_START_TIME,
            opt_start_time=start,
            filter_subject=self._subject,
            ack_policy=AckPolicy.NONE,
            flow_control=True,
            idle_heartbeat=HEARTBEAT_SECONDS,
            rate_limit_bps=self._bits_per_second,
            mem_storage=True,
            num_replicas=1,
        )

    def _in_order(self) -> bool:
        silent = asyncio.get_running_loop().time() - self._heard_at
        return self._last_in_consumer >= 0 and silent < SILENT_HEARTBEATS * HEARTBEAT_SECONDS

    async def _on_pushed(self, client: Client, msg: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if msg.headers and "Status" in msg.headers:  # a heartbeat, or the server asks whether we keep up
            answer = msg.reply or msg.headers.get("Nats-Consumer-Stalled")
            if answer:
                await client.publish(answer)
            return
        metadata = msg.metadata
        if metadata.sequence.consumer != self._last_in_consumer + 1:
            self._last_in_consumer = -1  # one was lost: begin again
            return
        self._last_in_consumer = metadata.sequence.consumer
        self._from_time = max(self._from_time or 0.0, metadata.timestamp.timestamp() - MARGIN_SECONDS)
        if self._last_in_consumer == 1:
            self._to_skip = self._too_many(1 + metadata.num_pending)
        if self._last_in_consumer > self._to_skip:
            self._on_event(msg.data)
        if not metadata.num_pending:
            self.caught_up.set()

    def _too_many(self, events: int) -> int:
        """How many of them are to be passed over."""
        skipped = 0 if self._at_most is None else max(0, events - self._at_most)
        if skipped:
            self._on_skipped(skipped)
        return skipped
