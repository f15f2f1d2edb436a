"""Answers that are young enough to be given again."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from sidecar.membership.model import MemberKey, Membership


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What was answered about one key, and how new that is: of two, the one asked for later counts."""

    membership: Membership | None
    asked: int
    """The number of the question, in the order of asking. An event counts as asked when it arrived."""
    asked_at: float
    """Seconds of the directory's clock. An answer is as old as its question."""


class RecentAnswers:
    """At most `max_entries` answers, each for `seconds` after its question (0: none at all). The oldest goes first."""

    def __init__(self, *, seconds: float, max_entries: int) -> None:
        self._seconds = seconds
        self._max_entries = max_entries
        # In the order of putting. Not a dict: finding the first key of one takes as long as it lost first keys.
        self._answers: OrderedDict[MemberKey, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def counts(self, asked_at: float, now: float) -> bool:
        """Whether an answer to a question of `asked_at` is young enough."""
        return now - asked_at < self._seconds

    def get(self, key: MemberKey, now: float) -> Answer | None:
        answer = self._answers.get(key)
        return answer if answer is not None and self.counts(answer.asked_at, now) else None

    def take(self, key: MemberKey, now: float) -> Answer | None:
        """As `get`, and forget it."""
        answer = self._answers.pop(key, None)
        return answer if answer is not None and self.counts(answer.asked_at, now) else None

    def put(self, key: MemberKey, answer: Answer, now: float) -> None:
        self._answers.pop(key, None)
        if self.counts(answer.asked_at, now):
            self._answers[key] = answer
        while self._answers:
            oldest = self._answers[next(iter(self._answers))]
            if len(self._answers) <= self._max_entries and self.counts(oldest.asked_at, now):
                break
            self._answers.popitem(last=False)

    def forget(self, key: MemberKey) -> None:
        self._answers.pop(key, None)
