"""Sessions that ended, as the auth service tells: live, and what was told before this replica listened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet

import msgspec
import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from sidecar.auth.claims import MAX_SESSION_ID_CHARACTERS
from sidecar.bus.digests import Digests, digest_of
from sidecar.bus.stream import StreamReader
from sidecar.guid import canonical_guid

log = structlog.stdlib.get_logger(__name__)

LATELY_SECONDS = 24 * 3600
"""What ended this long before the start is read first, at once: it covers every token that expires within it."""
EARLIER_BITS_PER_SECOND = 16_000_000
"""What ended before that matters to tokens without `exp` alone, and is read beside the work."""
HELD = 1_000_000
"""Sessions remembered at least, if so many ended: some 13 MB. Beyond twice as many the longest ended are forgotten."""
TELL_SECONDS = 0.25
"""How long news wait for more: whoever is told looks at every connection."""
STREAM_RETRY_SECONDS = 5.0


class _Revoked(msgspec.Struct):
    session_id: str


_event = msgspec.json.Decoder(_Revoked)


class RevokedSessions:
    """The sessions known to have ended: the latest `held`, and up to as many before them."""

    def __init__(self, *, held: int = HELD) -> None:
        self._held = held
        self._latest, self._before = Digests(), Digests()

    def __contains__(self, session_id: object) -> bool:
        anything = self._latest or self._before  # without a bus there never is
        return bool(anything) and isinstance(session_id, str) and self._has(_digest(session_id))

    def __len__(self) -> int:
        return len(self._latest) + len(self._before)

    def add(self, session_id: str) -> bool:
        """Whether that was news."""
        digest = _digest(session_id)
        if self._has(digest):
            return False
        self._latest.add(digest)
        if len(self._latest) >= self._held:
            if self._before:
                log.warning("ended sessions forgotten", sessions=len(self._before))
            self._latest, self._before = Digests(), self._latest
        return True

    def _has(self, digest: bytes) -> bool:
        return digest in self._latest or digest in self._before


class SessionEvents:
    """Follows the subject on core NATS, and the stream behind it: what it got lately, then all it still has.

    The subject alone says what an event is: publishers differ in what they call it. Duplicates change nothing.
    """

    def __init__(
        self,
        *,
        subject: str,
        stream: str,
        revoked: RevokedSessions,
        on_revoked: Callable[[AbstractSet[str]], None],
        on_bad_event: Callable[[], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_revoked` gets the sessions that were news, GUIDs among them canonical; `on_bad_event` is called for each
        event that cannot be read.
        """
        self._subject = subject
        self._stream = stream
        self._revoked = revoked
        self._on_revoked = on_revoked
        self._on_bad_event = on_bad_event
        self._lately = StreamReader(
            stream=stream,
            subject=subject,
            from_time=wall_clock() - LATELY_SECONDS,
            on_event=self._take_in,
        )
        self._earlier = StreamReader(
            stream=stream,
            subject=subject,
            from_time=None,
            bits_per_second=EARLIER_BITS_PER_SECOND,
            at_most=HELD,
            ends=True,
            on_event=self._take_in,
            on_skipped=_say_skipped,
        )
        self.caught_up = self._lately.caught_up
        """Set once what the stream got lately is known, or when there is no stream to ask."""
        self._news: set[str] = set()  # not told yet
        self._said = ""

    async def follow(self, client: Client) -> None:
        subscription = await client.subscribe(self._subject, cb=self._on_live)
        try:
            if not self._stream:
                self.caught_up.set()
                await asyncio.Event().wait()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read_lately(client))
                tasks.create_task(self._read_earlier(client))
        except Exception:
            await subscription.unsubscribe()  # the connection may live on, and this be called anew
            raise

    async def _read_lately(self, client: Client) -> None:
        while True:
            await self._read(self._lately, client)
            self.caught_up.set()
            await asyncio.sleep(STREAM_RETRY_SECONDS)

    async def _read_earlier(self, client: Client) -> None:
        await self.caught_up.wait()
        while not self._earlier.caught_up.is_set():
            await self._read(self._earlier, client)
            await asyncio.sleep(STREAM_RETRY_SECONDS)

    async def _read(self, reader: StreamReader, client: Client) -> None:
        try:
            await reader.read(client)
        except NotFoundError:
            self._say("there is no such stream: what was told before this replica started is not known")
        except (errors.Error, OSError, ValueError) as problem:
            self._say(f"the stream cannot be read: {problem or type(problem).__name__}")

    async def _on_live(self, msg: Msg) -> None:
        self._take_in(msg.data)

    def _take_in(self, payload: bytes) -> None:
        try:
            session_id = _event.decode(payload).session_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._on_bad_event()
            return
        if not 0 < len(session_id) <= MAX_SESSION_ID_CHARACTERS:
            self._on_bad_event()
        elif self._revoked.add(session_id):
            if not self._news:
                asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)
            self._news.add(canonical_guid(session_id) or session_id)

    def _tell(self) -> None:
        news, self._news = self._news, set()
        self._on_revoked(news)

    def _say(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            log.warning("session events", problem=problem, stream=self._stream, subject=self._subject)


def _say_skipped(sessions: int) -> None:
    log.warning("ended sessions passed over", sessions=sessions, remembered=HELD)


def _digest(session_id: str) -> bytes:
    """Most session ids are GUIDs, which publishers and tokens may spell differently."""
    return digest_of(canonical_guid(session_id) or session_id)
