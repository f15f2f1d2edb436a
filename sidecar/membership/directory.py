"""Who may be in a room: asked at the handshake, and again for as long as the connection lives."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from sidecar.errors import Refusal, RefusalCode
from sidecar.membership.breaker import Breaker
from sidecar.membership.model import (
    Ended,
    MemberKey,
    Membership,
    MembershipChange,
    TimedOut,
    Unverifiable,
    Updated,
)
from sidecar.membership.recent import Answer, RecentAnswers
from sidecar.membership.service import (
    MAX_BATCH_KEYS,
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
MAX_QUESTIONS = 128
"""GetMembership calls under way at once."""
_MAX_WAIT_FOR_TURN_SECONDS = 5.0
_MAX_QUESTIONS_PER_ADMISSION = 3

# Live keys are dealt at random to this many slots, re-checked one after the other: so all calls are spread over the
# interval, each key has its turn once in it, and an outage changes neither.
_SLOTS = 8
# A little under the interval, so that a question and its answer fit into it.
_REVOLUTION = 0.9
_HURRIED_REVOLUTION_SECONDS = 4.0
_MAX_BATCHES = 4
_MAX_STALENESS_CHECK_SECONDS = 1.0


@dataclass(slots=True)
class _Question:
    """One GetMembership on its way, and all who wait for it."""

    asked: int
    asked_at: float
    outcome: Answer | Unavailable = field(default_factory=lambda: Unavailable(Reason.CLOSED))
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    doubted: bool = False
    """Something changed after it was asked: the answer must not be used."""


@dataclass(slots=True)
class _Live:
    """A key with live connections."""

    answer: Answer
    slot: int
    connections: int = 1
    doubted: int = 0
    """Answers to questions up to this number are too old: something changed since."""


class Directory:
    """Answers who may join, from memory where that is fresh enough, and watches over those who did.

    An account may join where its membership is active and not timed out. `admit` and `follow` belong together: what
    `admit` returned is true until the caller next awaits, so room and `follow` are entered in the same tick.

    While the chat service cannot be asked, live keys rest on their last answers; each one whose last answer is older
    than `stale_seconds` (0: no limit) is told as `Unverifiable`. `on_change` is called synchronously, for followed
    keys only; `Ended`, `TimedOut` and `Unverifiable` are told again until the key is unfollowed.
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
        self._service = service
        self._recheck_seconds = recheck_seconds
        self._stale_seconds = stale_seconds
        self._on_cache = on_cache
        self._clock = clock
        self._wall_clock = wall_clock
        self._breaker = Breaker()
        self._numbers = itertools.count(1)
        self._allowed = RecentAnswers(seconds=cache_seconds, max_entries=MAX_CACHED)
        self._denied = RecentAnswers(seconds=deny_seconds, max_entries=MAX_CACHED)
        self._questions: dict[MemberKey, _Question] = {}
        self._turns = asyncio.Semaphore(MAX_QUESTIONS)
        self._live: dict[MemberKey, _Live] = {}
        self._slots: list[dict[MemberKey, None]] = [{} for _ in range(_SLOTS)]
        self._batch_turns = asyncio.Semaphore(_MAX_BATCHES)
        self._unverified: dict[MemberKey, None] = {}  # live keys whose last re-check failed
        self._urgent: dict[MemberKey, None] = {}
        self._urgency = asyncio.Event()
        self._hurried_slots = 0
        self._hurry = asyncio.Event()
        self._watch = ChangeWatch(
            service=service, on_change=self._changed, on_gap=self._recheck_all, clock=clock
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def stale(self) -> bool:
        """Whether any live connection rests on an answer that could not be renewed."""
        return bool(self._unverified)

    @property
    def breaker_open(self) -> bool:
        """Whether the chat service failed so often that it is asked only once a second."""
        return self._breaker.open

    async def start(self) -> None:
        """Begin re-checking and watching."""
        for loop in (self._recheck_in_turn, self._recheck_urgent, self._find_stale, self._watch.run):
            self._own(self._keep_going(loop))

    async def close(self) -> None:
        """End all questions; whoever waits for one is refused."""
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def admit(self, key: MemberKey, *, metadata: Metadata = ()) -> Membership:
        """The membership with which the account may be in the room now: at the moment of returning, not of asking.

        Raises:
            Refusal: NOT_A_MEMBER, MEMBER_TIMED_OUT (`detail`: until when) or MEMBERSHIP_UNAVAILABLE.
        """
        now = self._clock()
        if answer := self._allowed.get(key, now):
            self._on_cache("allowed")
        elif answer := self._denied.get(key, now):
            self._on_cache("denied")
        else:
            self._on_cache("shared" if key in self._questions else "missed")
            answer = await self._ask(key, metadata)
        return self._judge(answer.membership)

    def follow(self, key: MemberKey, membership: Membership) -> None:
        """One more live connection of `key`, which `admit` answered with `membership` in this tick."""
        if live := self._live.get(key):
            live.connections += 1
            return
        now = self._clock()
        answer = self._allowed.get(key, now) or Answer(membership, next(self._numbers), now)
        slot = random.randrange(_SLOTS)  # noqa: S311 - spreading, not a secret
        self._live[key] = _Live(answer, slot)
        self._slots[slot][key] = None

    def unfollow(self, key: MemberKey) -> None:
        """One connection of `key` fewer."""
        live = self._live[key]
        live.connections -= 1
        if not live.connections:
            del self._live[key]
            del self._slots[live.slot][key]
            self._unverified.pop(key, None)
            self._urgent.pop(key, None)

    def recheck_now(self, key: MemberKey) -> None:
        """Something about `key` may have changed: forget what was answered so far, and ask anew if it is live."""
        self._allowed.forget(key)
        self._denied.forget(key)
        if question := self._questions.pop(key, None):
            question.doubted = True
        if live := self._live.get(key):
            live.doubted = next(self._numbers)
            self._urgent[key] = None
            self._urgency.set()

    # Asking for one who wants to join.

    async def _ask(self, key: MemberKey, metadata: Metadata) -> Answer:
        """Ask, or wait with those who already do. Returns without having been suspended since the answer was right."""
        for _ in range(_MAX_QUESTIONS_PER_ADMISSION):
            question = self._questions.get(key) or self._put_question(key, metadata)
            question.waiting += 1
            try:
                await question.answered.wait()
            finally:
                question.waiting -= 1
                self._drop_if_done(key, question)
            if isinstance(question.outcome, Unavailable):
                raise self._unavailable()
            if not question.doubted:
                return question.outcome
        raise self._unavailable()

    def _put_question(self, key: MemberKey, metadata: Metadata) -> _Question:
        now = self._clock()
        if self._closed or self._breaker.refuses(now):
            raise self._unavailable()
        question = _Question(asked=next(self._numbers), asked_at=now)
        self._questions[key] = question
        self._own(self._answer(key, question, metadata))
        return question

    async def _answer(self, key: MemberKey, question: _Question, metadata: Metadata) -> None:
        try:
            outcome = await self._get(key, question, metadata)
        except Unavailable as error:
            question.outcome = error
        else:
            # Something newer may have arrived by event or re-check in the meantime.
            if not isinstance(question.outcome, Answer) or question.outcome.asked < outcome.asked:
                question.outcome = outcome
            if not question.doubted:
                self._learn(key, question.outcome)
        finally:
            question.answered.set()
            self._drop_if_done(key, question)

    async def _get(self, key: MemberKey, question: _Question, metadata: Metadata) -> Answer:
        try:
            async with asyncio.timeout(_MAX_WAIT_FOR_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(Reason.OVERLOADED) from None
        try:
            question.asked, question.asked_at = next(self._numbers), self._clock()
            with self._breaking():
                membership = await self._service.get(key, metadata=metadata)
            return Answer(membership, question.asked, question.asked_at)
        finally:
            self._turns.release()

    def _drop_if_done(self, key: MemberKey, question: _Question) -> None:
        """A question is kept until the last who waits has gone on, so that a change in between still reaches them."""
        if question.answered.is_set() and not question.waiting and self._questions.get(key) is question:
            del self._questions[key]

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

    def _unavailable(self) -> Refusal:
        return Refusal(
            RefusalCode.MEMBERSHIP_UNAVAILABLE,
            "The chat service cannot be asked right now.",
            retry_after_seconds=self._breaker.retry_after(self._clock()),
        )

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """One call to the chat service, as the breaker wants it."""
        if not self._breaker.may_ask(self._clock()):
            raise Unavailable(Reason.BREAKER_OPEN)
        try:
            yield
        except Unavailable as error:
            if error.reason is Reason.WRONG_ANSWER:
                self._breaker.succeeded()
            else:
                self._breaker.failed(self._clock())
            raise
        except BaseException:
            self._breaker.failed(self._clock())  # cancelled, or a bug: nothing was heard
            raise
        self._breaker.succeeded()

    # What was learned, wherever it came from.

    def _learn(self, key: MemberKey, answer: Answer) -> None:
        """Let `answer` count for everyone who rests on an older one about `key`."""
        question = self._questions.get(key)
        if question is not None and question.asked < answer.asked:
            question.outcome = answer
        live = self._live.get(key)
        if live is not None and answer.asked <= max(live.answer.asked, live.doubted):
            return
        self._remember(key, answer)
        if live is not None:
            before, live.answer = live.answer, answer
            self._unverified.pop(key, None)
            self._tell_difference(key, before.membership, answer.membership)

    def _remember(self, key: MemberKey, answer: Answer) -> None:
        self._allowed.forget(key)
        self._denied.forget(key)
        recent = self._allowed if self._may_join(answer.membership) else self._denied
        recent.put(key, answer, self._clock())

    def _may_join(self, membership: Membership | None) -> bool:
        return (
            membership is not None
            and membership.is_active()
            and not membership.is_timed_out(self._wall_clock())
        )

    def _tell_difference(self, key: MemberKey, before: Membership | None, after: Membership | None) -> None:
        if after is None or not after.is_active():
            self._tell(key, Ended())
        elif after.timeout_until is not None and after.is_timed_out(self._wall_clock()):
            self._tell(key, TimedOut(after.timeout_until))
        elif after != before:
            self._tell(key, Updated(after))

    def _tell(self, key: MemberKey, change: MembershipChange) -> None:
        try:
            self.on_change(key, change)
        except Exception:  # one connection's trouble must not stop the watch over the others
            log.exception("a membership change could not be applied", change=change)

    def _changed(self, event: Changed | MaybeChanged, lost_at: float | None) -> None:
        """An event of the stream: most are about people who are not here."""
        key, now = event.key, self._clock()
        live = self._live.get(key)
        known = live.answer if live else self._allowed.get(key, now) or self._denied.get(key, now)
        if known is None and key not in self._questions:
            return
        may_be_old = lost_at is not None and known is not None and known.asked_at >= lost_at
        if isinstance(event, MaybeChanged) or may_be_old:
            self.recheck_now(key)
        else:
            self._learn(key, Answer(event.membership, next(self._numbers), now))

    # Asking again about those who are here.

    async def _recheck_in_turn(self) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time() + self._slot_seconds() * random.random()  # noqa: S311 - jitter between replicas
        async with asyncio.TaskGroup() as batches:
            for slot in itertools.cycle(self._slots):
                next_at = max(next_at, loop.time())
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(next_at):
                        await self._hurry.wait()
                        self._hurry.clear()
                        next_at = loop.time()
                self._hurried_slots = max(self._hurried_slots - 1, 0)
                next_at += self._slot_seconds()
                keys = tuple(slot)
                for first in range(0, len(keys), MAX_BATCH_KEYS):
                    await self._batch_turns.acquire()
                    batches.create_task(self._recheck(keys[first : first + MAX_BATCH_KEYS]))

    def _slot_seconds(self) -> float:
        revolution = self._recheck_seconds * _REVOLUTION
        if self._hurried_slots:
            revolution = min(revolution, _HURRIED_REVOLUTION_SECONDS)
        return revolution / _SLOTS

    def _recheck_all(self) -> None:
        """Changes may have been missed: give every slot its turn soon."""
        if self._live:
            self._hurried_slots = _SLOTS + 1
            self._hurry.set()

    async def _recheck_urgent(self) -> None:
        while True:
            await self._urgency.wait()
            self._urgency.clear()
            while self._urgent:
                keys = tuple(itertools.islice(self._urgent, MAX_BATCH_KEYS))
                for key in keys:
                    del self._urgent[key]
                await self._batch_turns.acquire()
                await self._recheck(keys)

    async def _recheck(self, keys: Sequence[MemberKey]) -> None:
        """One BatchGetMemberships; the caller has taken a turn for it, which ends here."""
        try:
            asked, asked_at = next(self._numbers), self._clock()
            with self._breaking():
                found = await self._service.batch(keys)
        except Unavailable:
            self._not_verified(keys, asked)
            return
        finally:
            self._batch_turns.release()
        for key in keys:
            if key in self._live:
                self._learn(key, Answer(found.get(key), asked, asked_at))

    def _not_verified(self, keys: Iterable[MemberKey], asked: int) -> None:
        for key in keys:
            live = self._live.get(key)
            if live is not None and live.answer.asked < asked:
                self._unverified[key] = None

    async def _find_stale(self) -> None:
        if not self._stale_seconds:
            return
        pause = min(self._stale_seconds / 4, _MAX_STALENESS_CHECK_SECONDS)
        while True:
            await asyncio.sleep(pause)
            oldest = self._clock() - self._stale_seconds
            for key in tuple(self._unverified):
                live = self._live.get(key)  # telling one may have closed others
                if live is not None and live.answer.asked_at < oldest:
                    self._tell(key, Unverifiable())

    # Owning tasks.

    def _own(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name="membership")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_going(self, loop: Callable[[], Awaitable[None]]) -> None:
        """A bug in one round must not end the watch over live connections: it is logged, and the loop begins again."""
        while True:
            try:
                return await loop()
            except Exception:
                log.exception("membership watch failed, it begins again")
                await asyncio.sleep(1)
