"""Answers that are young enough to be given again."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.membership.model import MemberKey, Membership


@dataclass(frozen=True, slots=True)
class Answer:
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
        self._answers: dict[MemberKey, Answer] = {}  # in the order of putting

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: MemberKey, now: float) -> Answer | None:
        answer = self._answers.get(key)
        return answer if answer is not None and self._is_fresh(answer, now) else None

    def put(self, key: MemberKey, answer: Answer, now: float) -> None:
        self._answers.pop(key, None)
        if self._is_fresh(answer, now):
            self._answers[key] = answer
        while self._answers:
            oldest = next(iter(self._answers))
            if len(self._answers) <= self._max_entries and self._is_fresh(self._answers[oldest], now):
                break
            del self._answers[oldest]

    def forget(self, key: MemberKey) -> None:
        self._answers.pop(key, None)

    def _is_fresh(self, answer: Answer, now: float) -> bool:
        return now - answer.asked_at < self._seconds
