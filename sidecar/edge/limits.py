"""How often somebody may try: rates per key, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from time import monotonic

MAX_KEYS = 65_536
FORGOTTEN_PART = 8
"""One in so many keys is forgotten where there are too many."""


class RateLimit:
    """`burst` at once and `rate` a second after that, for each key (GCRA: one number per key).

    A rate of 0 is no limit. At most `max_keys` are remembered; those let in least recently are forgotten first.
    """

    def __init__(
        self, *, rate: float, burst: int, max_keys: int = MAX_KEYS, clock: Callable[[], float] = monotonic
    ) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._ahead = (burst - 0.5) * self._interval  # half a one for what floats round off
        self._max_keys = max_keys
        self._clock = clock
        self._next: dict[str, float] = {}  # theoretical arrival times, the latest taken last

    def wait_seconds(self, key: str) -> float:
        """0 if one more would be allowed now, else how long until then."""
        return max(0.0, self._next.get(key, 0.0) - self._clock() - self._ahead)

    def take(self, key: str) -> float:
        """Count one, if it is allowed; else count nothing and return the seconds until it would be."""
        if not self._interval:
            return 0.0
        now = self._clock()
        arrival = self._next.get(key, now)
        wait = arrival - now - self._ahead
        if wait > 0:
            return wait
        self._next.pop(key, None)  # to stand last
        self._next[key] = max(now, arrival) + self._interval
        if len(self._next) > self._max_keys:
            # Many at once: finding the first key of a dict that lost its first ones takes as long as it lost keys.
            self._next = dict(islice(self._next.items(), 1 + self._max_keys // FORGOTTEN_PART, None))
        return 0.0


class HandshakeLimits:
    """Limits on handshakes by client address and by account."""

    LENIENCE_PER_SECOND = 5
    """Bad tokens still told why for an address that used up its failures."""

    def __init__(
        self,
        *,
        address_rate: float,
        address_burst: int,
        account_rate: float,
        account_burst: int,
        failures_per_minute: int,
    ) -> None:
        self._addresses = RateLimit(rate=address_rate, burst=address_burst)
        self._accounts = RateLimit(rate=account_rate, burst=account_burst)
        self._failures = RateLimit(rate=failures_per_minute / 60, burst=max(failures_per_minute, 1))
        self._lenience = RateLimit(rate=self.LENIENCE_PER_SECOND, burst=self.LENIENCE_PER_SECOND)

    def address(self, address: str) -> float:
        """Count a handshake of this address: 0, or the seconds until it may try again."""
        return self._addresses.take(address)

    def failures(self, address: str) -> float:
        """0 if one more of this address may fail, else the seconds until one may."""
        return self._failures.wait_seconds(address) and self._lenience.take(address)

    def failing(self, account_id: str) -> bool:
        """Whether this account alone used up what is allowed to an address."""
        return self._failures.wait_seconds(account_id) > 0

    def failed(self, address: str, account_id: str | None) -> None:
        """Count a handshake that was refused for who it claimed to be; the account if the token was right."""
        self._failures.take(address)
        if account_id is not None:
            self._failures.take(account_id)

    def account(self, account_id: str) -> float:
        """Count a handshake of this account: 0, or the seconds until it may try again."""
        return self._accounts.take(account_id)
