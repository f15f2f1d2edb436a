"""Who may be in a room: asked at the handshake, and again for as long as the connection lives."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from sidecar.errors import Refusal, RefusalCode
from sidecar.membership.breaker import Breaker
from sidecar.membership.live import Live, LiveMemberships
from sidecar.membership.model import (
    Ended,
    MemberKey,
    Membership,
    MembershipChange,
    TimedOut,
    Unverifiable,
    Updated,
)
from sidecar.membership.questions import Questions
from sidecar.membership.recent import Answer, RecentAnswers
from sidecar.membership.service import (
    Changed,
    MaybeChanged,
    MembershipService,
    Metadata,
    Reason,
    Unavailable,
)
from sidecar.membership.watch import ChangeWatch
from sidecar.rfc3339 import rfc3339

log = structlog.stdlib.get_logger(__name__)

CACHE_RESULTS = ("allowed", "denied", "shared", "missed")
"""Where the answer to `admit` came from: a cached yes or no, a question already on its way, a question of its own."""

OnCache = Callable[[str], None]
OnChange = Callable[[MemberKey, MembershipChange], None]

MAX_CACHED = 10_000
SILENCE_SECONDS = 10.0
"""A failing chat service is said again after this long."""


class Directory:
    """Answers who may join, from memory where that is fresh enough, and watches over those who did.

    An account may join where its membership is active and not timed out. `admit` and `follow` belong together: what
    `admit` returned is true until the caller next awaits, so room and `follow` are entered in the same tick.

    While the chat service cannot be asked, live keys rest on their last answers; each one that could not be renewed
    for `stale_seconds` (0: no limit) is told as `Unverifiable`. `on_change` is called synchronously, for followed
    keys only; `Ended`, `TimedOut` and `Unverifiable` are told again until the key is unfollowed, `Updated` until a call
    returns.
    """

    def __init__(
        self,
        *,
        service: MembershipService,
        cache_seconds: float,
        deny_seconds: float,
        recheck_seconds: float,
        stale_seconds: float,
        on_cache: OnCache = lambda _result: None,
        on_change: OnChange = lambda _key, _change: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.on_change = on_change
        self._on_cache = on_cache
        self._clock = clock
        self._wall_clock = wall_clock
        self._numbers = itertools.count(1)
        self._breaker = Breaker(clock=clock)
        # Of keys without live connections: a live one's last answer is with `_live`.
        self._allowed = RecentAnswers(seconds=cache_seconds, max_entries=MAX_CACHED)
        self._denied = RecentAnswers(seconds=deny_seconds, max_entries=MAX_CACHED)
        self._questions = Questions(
            service=service,
            breaker=self._breaker,
            numbers=self._numbers,
            on_answer=self._learn,
            on_problem=partial(self._say, "join"),
            clock=clock,
        )
        self._live = LiveMemberships(
            service=service,
            breaker=self._breaker,
            numbers=self._numbers,
            recheck_seconds=recheck_seconds,
            stale_seconds=stale_seconds,
            on_answer=self._learn,
            on_problem=partial(self._say, "re-check"),
            on_stale=self._tell_stale,
            clock=clock,
        )
        self._watch = ChangeWatch(
            service=service, on_change=self._changed, on_gap=self._live.doubt_all, clock=clock
        )
        self._said_at: dict[tuple[str, Reason], float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def stale(self) -> bool:
        """Whether any live connection rests on an answer that could not be renewed."""
        return self._live.stale

    @property
    def breaker_open(self) -> bool:
        """Whether the chat service failed so often that it is asked only once a second."""
        return self._breaker.open

    async def start(self) -> None:
        """Begin re-checking and watching."""
        for loop in (*self._live.loops, self._watch.run):
            self._tasks.append(asyncio.create_task(_keep_going(loop), name="membership"))

    async def close(self) -> None:
        """End all questions; whoever waits for one is refused."""
        await self._questions.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def admit(self, key: MemberKey, *, metadata: Metadata = ()) -> Membership:
        """The membership with which the account may be in the room now: at the moment of returning, not of asking.

        Raises:
            Refusal: NOT_A_MEMBER, MEMBER_TIMED_OUT (`detail`: until when) or MEMBERSHIP_UNAVAILABLE.
        """
        now = self._clock()
        answer: Answer | Live
        if allowed := self._known_as_allowed(key, now):
            self._on_cache("allowed")
            answer = allowed
        elif denied := self._denied.get(key, now):
            self._on_cache("denied")
            answer = denied
        else:
            self._on_cache("shared" if key in self._questions else "missed")
            answer = await self._questions.ask(key, metadata)
        return self._judge(answer.membership)

    def follow(self, key: MemberKey, membership: Membership) -> None:
        """One more live connection of `key`, which `admit` answered with `membership` in this tick."""
        if live := self._live.get(key):
            live.connections += 1
            return
        now = self._clock()
        self._live.add(key, self._allowed.take(key, now) or Answer(membership, next(self._numbers), now))

    def unfollow(self, key: MemberKey) -> None:
        """One connection of `key` fewer."""
        live = self._live.get(key)
        if live is None:
            raise KeyError(key)
        live.connections -= 1
        if not live.connections:
            self._live.remove(key)
            if live.sure and self._may_join(live.membership):
                self._allowed.put(key, Answer(live.membership, live.asked, live.asked_at), self._clock())

    def tell_again(self, key: MemberKey) -> None:
        """Tell what is known of a live `key` as if it had just changed: who is told makes something else of it now."""
        if live := self._live.get(key):
            live.untold = True
            self._tell_news(key, live)

    def recheck_now(self, key: MemberKey) -> None:
        """Something about `key` may have changed: forget what was answered so far, and ask anew if it is live."""
        self._allowed.forget(key)
        self._denied.forget(key)
        self._questions.doubt(key)
        self._live.doubt(key)

    def _known_as_allowed(self, key: MemberKey, now: float) -> Answer | Live | None:
        live = self._live.get(key)
        if live is None:
            return self._allowed.get(key, now)
        fresh = live.sure and self._allowed.counts(live.asked_at, now)
        return live if fresh and self._may_join(live.membership) else None

    def _may_join(self, membership: Membership | None) -> bool:
        return (
            membership is not None
            and membership.is_active()
            and not membership.is_timed_out(self._wall_clock())
        )

    def _judge(self, membership: Membership | None) -> Membership:
        if membership is None or not membership.is_active():
            raise Refusal(RefusalCode.NOT_A_MEMBER, "You are not an active member of this room.")
        if membership.timeout_until is not None and membership.is_timed_out(self._wall_clock()):
            raise Refusal(
                RefusalCode.MEMBER_TIMED_OUT,
                "You are timed out in this room.",
                detail=rfc3339(membership.timeout_until),
            )
        return membership

    # What was learned, wherever it came from.

    def _changed(self, event: Changed | MaybeChanged, lost_at: float | None) -> None:
        """An event of the stream: most are about people who are not here."""
        key, now = event.key, self._clock()
        known = self._live.get(key) or self._allowed.get(key, now) or self._denied.get(key, now)
        if known is None and key not in self._questions:
            return
        may_be_old = lost_at is not None and (known is None or known.asked_at >= lost_at)
        if isinstance(event, MaybeChanged) or may_be_old:
            self.recheck_now(key)
        else:
            self._learn(key, Answer(event.membership, next(self._numbers), now))

    def _learn(self, key: MemberKey, answer: Answer) -> None:
        """Let `answer` count for everyone who rests on an older one about `key`."""
        self._questions.correct(key, answer)
        live = self._live.get(key)
        if live is not None and answer.asked <= max(live.asked, live.doubted):
            return
        self._allowed.forget(key)
        self._denied.forget(key)
        if not self._may_join(answer.membership):
            self._denied.put(key, answer, self._clock())
        elif live is None:
            self._allowed.put(key, answer, self._clock())
        if live is not None:
            self._live.renew(key, live, answer)
            self._tell_news(key, live)

    def _tell_news(self, key: MemberKey, live: Live) -> None:
        now = live.membership
        if now is None or not now.is_active():
            self._tell(key, Ended())
        elif now.timeout_until is not None and now.is_timed_out(self._wall_clock()):
            self._tell(key, TimedOut(now.timeout_until))
        elif live.untold and self._tell(key, Updated(now)):
            live.untold = False

    def _say(self, question: str, problem: Unavailable) -> None:
        """Why nothing usable was answered; each kind once in a while."""
        kind, now = (question, problem.reason), self._clock()
        if (
            problem.reason is not Reason.CLOSED
            and now >= self._said_at.get(kind, -math.inf) + SILENCE_SECONDS
        ):
            self._said_at[kind] = now
            log.warning("the chat service gave no usable answer", question=question, problem=str(problem))

    def _tell_stale(self, key: MemberKey) -> None:
        self._tell(key, Unverifiable())

    def _tell(self, key: MemberKey, change: MembershipChange) -> bool:
        """Whether it was heard; if not, it is told again with the next answer."""
        try:
            self.on_change(key, change)
        except Exception:  # one connection's trouble must not stop the watch over the others
            log.exception("a membership change could not be applied", change=change)
            return False
        return True


async def _keep_going(loop: Callable[[], Awaitable[None]]) -> None:
    """A bug in one round must not end the watch over live connections: it is logged, and the loop begins again."""
    while True:
        try:
            return await loop()
        except Exception:
            log.exception("membership watch failed, it begins again")
            await asyncio.sleep(1)
