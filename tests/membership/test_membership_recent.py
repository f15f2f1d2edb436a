from __future__ import annotations

from sidecar.membership.model import MemberKey
from sidecar.membership.recent import Answer, RecentAnswers

MANY = 1000


def key(number: int) -> MemberKey:
    return MemberKey("room", str(number))


def test_the_oldest_goes_first_and_never_are_there_more():
    recent = RecentAnswers(seconds=30, max_entries=MANY)
    for number in range(3 * MANY):
        recent.put(key(number), Answer(None, number, 0.0), 0.0)
        assert len(recent) == min(number + 1, MANY)
    assert [number for number in range(3 * MANY) if recent.get(key(number), 0.0)] == [
        *range(2 * MANY, 3 * MANY)
    ]


def test_what_is_too_old_is_not_given_and_does_not_stay():
    recent = RecentAnswers(seconds=30, max_entries=MANY)
    for number in range(MANY):
        recent.put(key(number), Answer(None, number, number / MANY), number / MANY)
    assert recent.get(key(0), 30.0) is None
    assert recent.take(key(1), 31.0) is None
    recent.put(key(MANY), Answer(None, MANY, 31.0), 31.0)
    assert len(recent) == 1
    assert recent.take(key(MANY), 31.0) == Answer(None, MANY, 31.0)
    assert len(recent) == 0


def test_an_answer_put_again_is_the_latest():
    recent = RecentAnswers(seconds=30, max_entries=2)
    for number in (1, 2, 1, 3):
        recent.put(key(number), Answer(None, number, 0.0), 0.0)
    assert recent.get(key(2), 0.0) is None
    assert recent.get(key(1), 0.0)
