"""How a sender behaves that sends too fast, or what is malformed: whether it goes on regardless."""

from __future__ import annotations

from collections import deque

MALFORMED_ALLOWED = 20
MALFORMED_WINDOW_SECONDS = 60.0
FLOOD_MESSAGES = 200
FLOOD_PAUSE_SECONDS = 1.0


class Conduct:
    """One sender's, from its first misbehaviour on. Times are on the monotonic clock."""

    __slots__ = ("_limited", "_limited_at", "_malformed")

    def __init__(self) -> None:
        self._limited = 0  # messages since the first that was too fast, without a pause; 0: not limited
        self._limited_at = 0.0
        self._malformed: deque[float] | None = None

    @property
    def flooding(self) -> bool:
        """Whether it went on and on after it was told that it is too fast."""
        return self._limited > FLOOD_MESSAGES

    def go_on(self, now: float) -> None:
        """One more message came."""
        if self._limited:
            self._limited = self._limited + 1 if now - self._limited_at < FLOOD_PAUSE_SECONDS else 0
            self._limited_at = now

    def limit(self, now: float) -> None:
        """It came too fast."""
        self._limited = self._limited or 1
        self._limited_at = now

    def endures_malformed(self, now: float) -> bool:
        """Whether one more malformed message, at `now`, is still borne with."""
        if self._malformed is None:
            self._malformed = deque(maxlen=MALFORMED_ALLOWED)
        self._malformed.append(now)
        return len(self._malformed) < MALFORMED_ALLOWED or now - self._malformed[0] > MALFORMED_WINDOW_SECONDS
