"""Sessions that ended, as the auth service tells: live, and what was told before this replica listened."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import msgspec
import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from sidecar.guid import canonical_guid

log = structlog.stdlib.get_logger(__name__)

REPLAYED_SECONDS = 24 * 3600
"""How far back a replica that starts asks the stream, which may keep everything for ever."""
HELD = 200_000
"""Sessions remembered; the longest ended go first. Tokens live for minutes, so this bounds memory and not safety."""
MARGIN_SECONDS = 60.0
"""On a new connection the stream is read again from this long before the last event read."""
HEARTBEAT_SECONDS = 5.0
SILENT_HEARTBEATS = 3
STREAM_RETRY_SECONDS = 5.0
REQUEST_SECONDS = 5.0
MAX_SESSION_ID_CHARACTERS = 256


class _Revoked(msgspec.Struct):
    session_id: str


_event = msgspec.json.Decoder(_Revoked)


class RevokedSessions:
    """The sessions known to have ended, the latest `HELD` of them."""

    def __init__(self, *, held: int = HELD) -> None:
        self._held = held
        # Not a dict: finding the first key of one takes as long as it lost first keys.
        self._ended: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, session_id: object) -> bool:
        return isinstance(session_id, str) and _canonical(session_id) in self._ended

    def __len__(self) -> int:
        return len(self._ended)

    def add(self, session_id: str) -> bool:
        """Whether that was news."""
        session_id = _canonical(session_id)
        if session_id in self._ended:
            return False
        self._ended[session_id] = None
        if len(self._ended) > self._held:
            self._ended.popitem(last=False)
        return True


class SessionEvents:
    """Follows the subject on core NATS, and the stream behind it from where it was last heard.

    The subject alone says what an event is: publishers differ in what they call it. Duplicates change nothing.
    """

    def __init__(
        self,
        *,
        subject: str,
        stream: str,
        revoked: RevokedSessions,
        on_revoked: Callable[[], None],
        on_bad_event: Callable[[], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_revoked` is called after events that were news; `on_bad_event` for each that cannot be read."""
        self.caught_up = asyncio.Event()
        """Set once everything the stream has is known, or when there is no stream to ask."""
        self._subject = subject
        self._stream = stream
        self._revoked = revoked
        self._on_revoked = on_revoked
        self._on_bad_event = on_bad_event
        self._from_time = wall_clock() - REPLAYED_SECONDS
        self._heard_at = 0.0
        self._last_in_consumer = 0
        self._told = False
        self._said = ""

    async def follow(self, client: Client) -> None:
        await client.subscribe(self._subject, cb=self._on_live)
        while self._stream:
            try:
                await self._follow_stream(client)
            except NotFoundError:
                self._say("there is no such stream: what was told before this replica started is not known")
            except (errors.Error, OSError) as problem:
                self._say(f"the stream cannot be read: {problem or type(problem).__name__}")
            self.caught_up.set()
            await asyncio.sleep(STREAM_RETRY_SECONDS)
        self.caught_up.set()
        await asyncio.Event().wait()

    async def _follow_stream(self, client: Client) -> None:
        """Read on from shortly before the last event read, until something is amiss with the consumer."""
        inbox = client.new_inbox()
        self._last_in_consumer = 0
        self._heard_at = asyncio.get_running_loop().time()
        pushed = await client.subscribe(inbox, cb=partial(self._on_pushed, client))
        try:
            consumer = await client.jetstream(timeout=REQUEST_SECONDS).add_consumer(
                self._stream,
                ConsumerConfig(
                    name=uuid.uuid4().hex,
                    deliver_subject=inbox,
                    deliver_policy=DeliverPolicy.BY_START_TIME,
                    opt_start_time=datetime.fromtimestamp(self._from_time, UTC),
                    filter_subject=self._subject,
                    ack_policy=AckPolicy.NONE,
                    flow_control=True,
                    idle_heartbeat=HEARTBEAT_SECONDS,
                    mem_storage=True,
                    num_replicas=1,
                ),
            )
            if not consumer.num_pending:
                self.caught_up.set()
            while self._in_order() and not client.is_closed:
                await asyncio.sleep(HEARTBEAT_SECONDS)
        finally:
            if not client.is_closed:
                await pushed.unsubscribe()

    def _in_order(self) -> bool:
        silent = asyncio.get_running_loop().time() - self._heard_at
        return self._last_in_consumer >= 0 and silent < SILENT_HEARTBEATS * HEARTBEAT_SECONDS

    async def _on_live(self, msg: Msg) -> None:
        self._take_in(msg.data)

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
        self._from_time = max(self._from_time, metadata.timestamp.timestamp() - MARGIN_SECONDS)
        self._take_in(msg.data)
        if not metadata.num_pending:
            self.caught_up.set()

    def _take_in(self, payload: bytes) -> None:
        try:
            session_id = _event.decode(payload).session_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._on_bad_event()
            return
        if not 0 < len(session_id) <= MAX_SESSION_ID_CHARACTERS:
            self._on_bad_event()
        elif self._revoked.add(session_id) and not self._told:
            self._told = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        """Once for all that came in one tick of the loop: whoever is told looks at every connection."""
        self._told = False
        self._on_revoked()

    def _say(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            log.warning("session events", problem=problem, stream=self._stream, subject=self._subject)


def _canonical(session_id: str) -> str:
    """Most session ids are GUIDs, which publishers and tokens may spell differently."""
    return canonical_guid(session_id) or session_id
