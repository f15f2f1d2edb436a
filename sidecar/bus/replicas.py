"""Which other replicas are alive, told by one heartbeat per replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

log = structlog.stdlib.get_logger(__name__)

GRACE_SECONDS = 4.0
"""After the bus was away: how long the others have to find it again before they count as dead."""


class Listener(Protocol):
    """Who acts on what becomes of a replica."""

    def lost(self, origin: str) -> None:
        """Not heard for the timeout, or it said goodbye: its people are gone."""

    def missed(self, origin: str) -> None:
        """It is there, but some of what it said may not have come: a beat did not, or it had been lost."""

    def forgotten(self, origin: str) -> None:
        """Lost for so long that nothing about it is worth keeping."""


class _Replica:
    __slots__ = ("beat", "heard_at", "lost")

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.beat = 0
        self.lost = False


class Replicas:
    """Judges silence by its own clock, and only while it could have heard: not while cut off, not after a stall."""

    def __init__(
        self,
        *,
        timeout_seconds: float,
        kept_seconds: float,
        listener: Listener,
        clock: Callable[[], float],
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._kept_seconds = kept_seconds
        self._listener = listener
        self._clock = clock
        self._known: dict[str, _Replica] = {}
        self._judged_at = clock()

    def is_lost(self, origin: str) -> bool:
        replica = self._known.get(origin)
        return replica is not None and replica.lost

    def heard(self, origin: str) -> None:
        """Something came from `origin`."""
        replica = self._known.get(origin)
        if replica is None:
            self._known[origin] = _Replica(self._clock())
            return
        replica.heard_at = self._clock()
        if replica.lost:
            replica.lost = False
            self._listener.missed(origin)

    def beat(self, origin: str, number: int, *, leaving: bool) -> None:
        """A heartbeat came from `origin`."""
        known = origin in self._known
        self.heard(origin)
        replica = self._known[origin]
        # One that is met in the middle of its life may have been cut off from us for long; one at its first beat has
        # nothing to tell yet.
        missed = number != replica.beat + 1 and (known or number > 1)
        replica.beat = number
        if leaving:
            log.info("replica left", replica=origin)
            self._lose(origin, replica)
        elif missed:
            self._listener.missed(origin)

    def judge(self) -> None:
        """Look who has been silent for too long. To be called several times within the timeout."""
        now = self._clock()
        if now - self._judged_at > self._timeout_seconds / 2:
            self.excuse(self._timeout_seconds)  # we were stalled: what they said may still wait to be read
        self._judged_at = now
        for origin, replica in list(self._known.items()):
            silent = now - replica.heard_at
            if not replica.lost:
                if silent > self._timeout_seconds:
                    log.warning("replica lost", replica=origin, silent_seconds=round(silent, 1))
                    self._lose(origin, replica)
            elif silent > self._kept_seconds:
                del self._known[origin]
                self._listener.forgotten(origin)

    def excuse(self, seconds: float = GRACE_SECONDS) -> None:
        """Nothing could be heard until now: everyone gets this long to be heard again, if that is longer."""
        now = self._clock()
        self._judged_at = now
        heard_at = now - self._timeout_seconds + min(seconds, self._timeout_seconds)
        for replica in self._known.values():
            if not replica.lost:
                replica.heard_at = max(replica.heard_at, heard_at)

    def _lose(self, origin: str, replica: _Replica) -> None:
        if not replica.lost:
            replica.lost = True
            self._listener.lost(origin)
