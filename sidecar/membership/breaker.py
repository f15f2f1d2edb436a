"""A circuit breaker: asks a service that keeps failing once a second, instead of at every question."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from sidecar.membership.service import Reason, Unavailable

FAILURES_TO_OPEN = 5
OPEN_SECONDS = 1.0
_ANSWERS = frozenset({Reason.WRONG_ANSWER, Reason.FAILED})


class Breaker:
    """Closed until `FAILURES_TO_OPEN` failures in a row; then open for `OPEN_SECONDS`, then one probe at a time.

    `with breaker:` is around each call to the service. Entering raises `Unavailable` where there should be none. A call
    that ends in any exception has failed; but a wrong answer is an answer, and so is an error: it may be about one key.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether the service failed too often of late and has not answered since."""
        return self._failures >= FAILURES_TO_OPEN

    @property
    def refuses(self) -> bool:
        """Whether a call would be refused now."""
        return self.open and (self._probing or self._clock() < self._retry_at)

    @property
    def retry_after_seconds(self) -> float:
        """Until asking is worth while, at least 1."""
        return max(1.0, self._retry_at - self._clock() if self.open else 0.0)

    def __enter__(self) -> None:
        if self.refuses:
            raise Unavailable(Reason.BREAKER_OPEN)
        self._probing = self.open

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._probing = False
        if error is None or (isinstance(error, Unavailable) and error.reason in _ANSWERS):
            self._failures = 0
        else:
            self._failures += 1
            self._retry_at = self._clock() + OPEN_SECONDS
