"""Asking again about those who are here: each in turn, and at once where something may have changed."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress

import msgspec

from sidecar.membership.breaker import Breaker
from sidecar.membership.model import MemberKey, Membership
from sidecar.membership.recent import Answer
from sidecar.membership.service import (
    KEYS_AT_A_TIME,
    MAX_BATCH_KEYS,
    MembershipService,
    Reason,
    Unavailable,
)

# Live keys are dealt by their hash to this many slots, re-checked one after the other: so all calls are spread over
# the interval, each key has its turn once in it, and an outage changes neither.
_SLOTS = 8
_HASH_BITS_WITHIN_SLOT = 16  # the lowest: a dict places its keys by them
# A little under the interval, so that a question and its answer fit into it.
_REVOLUTION = 0.9
_HURRIED_REVOLUTION_SECONDS = 4.0
_MAX_BATCHES = 4
_MAX_QUESTIONS_ABOUT_A_BATCH = 32  # two faults in a full one are found with as many
_MAX_STALENESS_CHECK_SECONDS = 1.0


class Live(msgspec.Struct, gc=False):
    """A key with live connections and the answer they rest on: the fields of `Answer`, to be renewed in place."""

    membership: Membership | None
    asked: int
    asked_at: float
    connections: int = 1
    doubted: int = 0
    """Answers to questions up to this number are too old: something changed since."""
    untold: bool = False
    """The connections were told of another membership than this one."""

    @property
    def sure(self) -> bool:
        """Whether nothing is known to have changed since it was asked for."""
        return self.asked > self.doubted

    def renew(self, answer: Answer) -> None:
        self.asked, self.asked_at = answer.asked, answer.asked_at
        if answer.membership != self.membership:  # an equal one stays: others hold it too
            self.membership = answer.membership
            self.untold = True


class LiveMemberships:
    """Those who are here. `loops` are to be kept running.

    `on_answer` gets what was answered about keys that are live then, `on_problem` why nothing was. `on_stale` gets each
    key that could not be renewed for `stale_seconds` (0: no limit), again until it is removed.
    """

    def __init__(
        self,
        *,
        service: MembershipService,
        breaker: Breaker,
        numbers: Iterator[int],
        recheck_seconds: float,
        stale_seconds: float,
        on_answer: Callable[[MemberKey, Answer], None],
        on_problem: Callable[[Unavailable], None],
        on_stale: Callable[[MemberKey], None],
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._breaker = breaker
        self._numbers = numbers
        self._recheck_seconds = recheck_seconds
        self._stale_seconds = stale_seconds
        self._on_answer = on_answer
        self._on_problem = on_problem
        self._on_stale = on_stale
        self._clock = clock
        self._slots: tuple[dict[MemberKey, Live], ...] = tuple({} for _ in range(_SLOTS))
        self._batch_turns = asyncio.Semaphore(_MAX_BATCHES)
        # Keys whose last re-check failed, and when the first of those that did was asked.
        self._unverified: dict[MemberKey, float] = {}
        self._urgent: dict[MemberKey, None] = {}
        self._urgency = asyncio.Event()
        self._hurried_slots = 0
        self._hurry = asyncio.Event()
        self.loops: tuple[Callable[[], Awaitable[None]], ...] = (
            self._recheck_in_turn,
            self._recheck_urgent,
            self._find_stale,
        )

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    @property
    def stale(self) -> bool:
        """Whether any rests on an answer that could not be renewed."""
        return bool(self._unverified)

    def get(self, key: MemberKey) -> Live | None:
        return self._slots[_slot(key)].get(key)

    def add(self, key: MemberKey, answer: Answer) -> None:
        """The first connection of `key` is here."""
        self._slots[_slot(key)][key] = Live(answer.membership, answer.asked, answer.asked_at)

    def remove(self, key: MemberKey) -> None:
        """The last one is gone."""
        del self._slots[_slot(key)][key]
        self._unverified.pop(key, None)
        self._urgent.pop(key, None)

    def renew(self, key: MemberKey, live: Live, answer: Answer) -> None:
        """`answer` is newer than the one `live`, which is that of `key`, rests on."""
        live.renew(answer)
        self._unverified.pop(key, None)

    def doubt(self, key: MemberKey) -> None:
        """Something about `key` may have changed: ask anew at once, if it is here."""
        if live := self.get(key):
            live.doubted = next(self._numbers)
            self._urgent[key] = None
            self._urgency.set()

    def doubt_all(self) -> None:
        """Changes may have been missed: give every slot its turn soon."""
        if any(self._slots):
            self._hurried_slots = _SLOTS + 1
            self._hurry.set()

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
                    batch = batches.create_task(self._recheck(keys[first : first + MAX_BATCH_KEYS]))
                    batch.add_done_callback(self._end_turn)  # also of one that is cancelled before it begins

    def _slot_seconds(self) -> float:
        revolution = self._recheck_seconds * _REVOLUTION
        if self._hurried_slots:
            revolution = min(revolution, _HURRIED_REVOLUTION_SECONDS)
        return revolution / _SLOTS

    async def _recheck_urgent(self) -> None:
        while True:
            await self._urgency.wait()
            self._urgency.clear()
            while self._urgent:
                keys = tuple(itertools.islice(self._urgent, MAX_BATCH_KEYS))
                for key in keys:
                    del self._urgent[key]
                async with self._batch_turns:
                    await self._recheck(keys)

    def _end_turn(self, _batch: asyncio.Task[None]) -> None:
        self._batch_turns.release()

    async def _recheck(self, keys: Sequence[MemberKey]) -> None:
        """Ask about at most `MAX_BATCH_KEYS`, at once.

        Of an answer with a fault nothing counts: each half is asked about anew, until the fault is by itself.
        """
        parts = [keys]
        for questions in itertools.count(1):
            if not parts:
                return
            part = parts.pop()
            asked, asked_at = next(self._numbers), self._clock()
            try:
                with self._breaker:
                    found = await self._service.batch(part)
            except Unavailable as problem:
                self._on_problem(problem)
                faulty = problem.reason is Reason.WRONG_ANSWER and len(part) > 1
                if faulty and questions < _MAX_QUESTIONS_ABOUT_A_BATCH:
                    half = len(part) // 2
                    parts += (part[half:], part[:half])
                else:
                    self._not_verified(part, asked, asked_at)
                continue
            for number, key in enumerate(part):
                if number and not number % KEYS_AT_A_TIME:
                    await asyncio.sleep(0)
                if self.get(key) is not None:
                    self._on_answer(key, Answer(found.get(key), asked, asked_at))

    def _not_verified(self, keys: Iterable[MemberKey], asked: int, asked_at: float) -> None:
        for key in keys:
            live = self.get(key)
            if live is not None and live.asked < asked:
                self._unverified.setdefault(key, asked_at)

    async def _find_stale(self) -> None:
        if not self._stale_seconds:
            return
        pause = min(self._stale_seconds / 4, _MAX_STALENESS_CHECK_SECONDS)
        while True:
            await asyncio.sleep(pause)
            oldest = self._clock() - self._stale_seconds
            for key, failed_at in tuple(self._unverified.items()):
                live = self.get(key)  # telling one may have closed others
                # Who came in on an older answer was not worse off than the others before the questions failed.
                if live is not None and max(live.asked_at, failed_at - self._recheck_seconds) < oldest:
                    self._on_stale(key)


def _slot(key: MemberKey) -> int:
    return (hash(key) >> _HASH_BITS_WITHIN_SLOT) % _SLOTS
