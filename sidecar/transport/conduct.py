"""How a sender behaves: how fast it sends, whether it goes on regardless, how much of it is malformed."""

from __future__ import annotations

from collections import deque

MALFORMED_ALLOWED = 20
MALFORMED_WINDOW_SECONDS = 60.0
FLOOD_MESSAGES = 200
FLOOD_PAUSE_SECONDS = 1.0


class Conduct:
    """One sender's, from its first message on. Times are on the monotonic clock."""

    __slots__ = ("_burst_seconds", "_due_at", "_interval_seconds", "_limited", "_limited_at", "_malformed")

    def __init__(self, *, interval_seconds: float, burst_seconds: float) -> None:
        """One message per interval, the sender running ahead of that pace by a burst at most. Interval 0: no limit."""
        self._interval_seconds = interval_seconds
        self._burst_seconds = burst_seconds
        self._due_at = 0.0  # of the next message at an even pace: GCRA's theoretical arrival time
        self._limited = 0  # messages since the first that was too fast, without a pause; 0: not limited
        self._limited_at = 0.0
        self._malformed: deque[float] | None = None

    @property
    def flooding(self) -> bool:
        """Whether it went on and on after it was told that it is too fast."""
        return self._limited > FLOOD_MESSAGES

    def allows(self, now: float) -> bool:
        """Whether a message at `now` is within the rate; else it is to be dropped."""
        if self._limited:
            self._limited = self._limited + 1 if now - self._limited_at < FLOOD_PAUSE_SECONDS else 0
            self._limited_at = now
            if self.flooding:
                return False
        due = self._due_at
        if due < now:
            due = now
        elif due - now > self._burst_seconds:
            self._limited = self._limited or 1
            self._limited_at = now
            return False
        self._due_at = due + self._interval_seconds
        return True

    def endures_malformed(self, now: float) -> bool:
        """Whether one more malformed message, at `now`, is still borne with."""
        if self._malformed is None:
            self._malformed = deque(maxlen=MALFORMED_ALLOWED)
        self._malformed.append(now)
        return len(self._malformed) < MALFORMED_ALLOWED or now - self._malformed[0] > MALFORMED_WINDOW_SECONDS
