"""Asking for those who want to join: one question about a key at a time, however many wait for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from sidecar.errors import Refusal, RefusalCode
from sidecar.membership.breaker import Breaker
from sidecar.membership.model import MemberKey
from sidecar.membership.recent import Answer
from sidecar.membership.service import MembershipService, Metadata, Reason, Unavailable

MAX_QUESTIONS = 128
"""GetMembership calls under way at once."""
_MAX_WAIT_FOR_TURN_SECONDS = 5.0
_MAX_QUESTIONS_PER_ADMISSION = 3


class _Question:
    """One GetMembership on its way, and all who wait for it."""

    __slots__ = ("answer", "asked", "asked_at", "done", "doubted", "waiters", "waiting")

    def __init__(self, *, asked: int, asked_at: float) -> None:
        self.asked = asked
        self.asked_at = asked_at
        self.answer: Answer | None = None
        """None when done: there was none that can be used."""
        self.done = False
        self.doubted = False
        """Something changed after it was asked: the answer must not be used."""
        self.waiters: list[asyncio.Future[None]] = []  # one each: who gives up takes no one along
        self.waiting = 0

    async def wait(self) -> None:
        if not self.done:
            waiter = asyncio.get_running_loop().create_future()
            self.waiters.append(waiter)
            await waiter


class Questions:
    """`on_answer` gets each answer that was not doubted, before those who wait for it.

    Numbers of questions are taken from `numbers`.
    """

    def __init__(
        self,
        *,
        service: MembershipService,
        breaker: Breaker,
        numbers: Iterator[int],
        on_answer: Callable[[MemberKey, Answer], None],
        on_problem: Callable[[Unavailable], None],
        clock: Callable[[], float],
    ) -> None:
        self._service = service
        self._breaker = breaker
        self._numbers = numbers
        self._on_answer = on_answer
        self._on_problem = on_problem
        self._clock = clock
        self._under_way: dict[MemberKey, _Question] = {}
        self._turns = asyncio.Semaphore(MAX_QUESTIONS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __contains__(self, key: MemberKey) -> bool:
        return key in self._under_way

    async def close(self) -> None:
        """End all questions; whoever waits for one is refused."""
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, key: MemberKey, metadata: Metadata) -> Answer:
        """Ask, or wait with those who already do. Returns without having been suspended since the answer was right.

        Raises:
            Refusal: MEMBERSHIP_UNAVAILABLE.
        """
        for _ in range(_MAX_QUESTIONS_PER_ADMISSION):
            question = self._under_way.get(key) or self._put(key, metadata)
            question.waiting += 1
            try:
                await question.wait()
            finally:
                question.waiting -= 1
                self._drop_if_over(key, question)
            if question.answer is None:
                break
            if not question.doubted:
                return question.answer
        raise self._unavailable()

    def doubt(self, key: MemberKey) -> None:
        """Something about `key` may have changed: whoever waits asks again."""
        if question := self._under_way.pop(key, None):
            question.doubted = True

    def correct(self, key: MemberKey, answer: Answer) -> None:
        """Let those who wait about `key` have `answer`, if it was asked for later than theirs."""
        question = self._under_way.get(key)
        if question is not None and question.asked < answer.asked:
            question.answer = answer

    def _put(self, key: MemberKey, metadata: Metadata) -> _Question:
        if self._closed or self._breaker.refuses:
            raise self._unavailable()
        question = self._under_way[key] = _Question(asked=next(self._numbers), asked_at=self._clock())
        # A task of its own: it goes on when the one who asked first gives up.
        task = asyncio.create_task(self._answer(key, question, metadata), name="membership question")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return question

    async def _answer(self, key: MemberKey, question: _Question, metadata: Metadata) -> None:
        try:
            answer = await self._get(key, question, metadata)
            # Something newer may have arrived by event or re-check in the meantime.
            if question.answer is None or question.answer.asked < answer.asked:
                question.answer = answer
            if not question.doubted:
                self._on_answer(key, question.answer)
        except Unavailable as problem:
            self._on_problem(problem)
        finally:
            question.done = True
            for waiter in question.waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._drop_if_over(key, question)

    async def _get(self, key: MemberKey, question: _Question, metadata: Metadata) -> Answer:
        if self._turns.locked():
            await self._wait_for_turn()
        else:
            await self._turns.acquire()  # without waiting
        try:
            question.asked, question.asked_at = next(self._numbers), self._clock()
            with self._breaker:
                membership = await self._service.get(key, metadata=metadata)
            return Answer(membership, question.asked, question.asked_at)
        finally:
            self._turns.release()

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(_MAX_WAIT_FOR_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(Reason.OVERLOADED) from None

    def _drop_if_over(self, key: MemberKey, question: _Question) -> None:
        """A question is kept until the last who waits has gone on, so that a change in between still reaches them."""
        if question.done and not question.waiting and self._under_way.get(key) is question:
            del self._under_way[key]

    def _unavailable(self) -> Refusal:
        return Refusal(
            RefusalCode.MEMBERSHIP_UNAVAILABLE,
            "The chat service cannot be asked right now.",
            retry_after_seconds=self._breaker.retry_after_seconds,
        )
