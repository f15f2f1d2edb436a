"""A circuit breaker: asks a service that keeps failing once a second, instead of at every question."""

from __future__ import annotations

FAILURES_TO_OPEN = 5
OPEN_SECONDS = 1.0


class Breaker:
    """Closed until `FAILURES_TO_OPEN` failures in a row; then open for `OPEN_SECONDS`, then one probe at a time.

    Whoever is told that it may ask reports `succeeded` or `failed` afterwards, exactly once. All times are of one
    clock, in seconds.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._retry_at = 0.0
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether the service failed too often of late and has not answered since."""
        return self._failures >= FAILURES_TO_OPEN

    def refuses(self, now: float) -> bool:
        """Whether `may_ask` would say no."""
        return self.open and (self._probing or now < self._retry_at)

    def may_ask(self, now: float) -> bool:
        """Whether to ask now. While open, a yes makes the caller the probe."""
        if self.refuses(now):
            return False
        self._probing = self.open
        return True

    def succeeded(self) -> None:
        """The service answered, whatever it said."""
        self._failures = 0
        self._probing = False

    def failed(self, now: float) -> None:
        self._failures += 1
        self._probing = False
        self._retry_at = now + OPEN_SECONDS

    def retry_after(self, now: float) -> float:
        """Seconds until asking is worth while, at least 1."""
        return max(1.0, self._retry_at - now if self.open else 0.0)
