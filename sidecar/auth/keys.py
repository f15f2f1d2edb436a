"""The issuer's keys, kept right while the program runs: they rotate, and their endpoint may be down."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import structlog

from sidecar.auth import keyset
from sidecar.auth.keyset import BadKeys, PreparedKey
from sidecar.auth.sources import FileSource, Source, Unreachable, UrlSource

_READ_DEADLINE_SECONDS = 5.0
_START_DEADLINE_SECONDS = 3.0
_FILE_POLL_SECONDS = 2.0
_ON_DEMAND_COOLDOWN_SECONDS = 10.0
_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 15.0

log = structlog.stdlib.get_logger(__name__)


class RefreshResult(StrEnum):
    """How a look at the source ended. A file that did not change is not reported."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    UNREACHABLE = "unreachable"
    UNUSABLE = "unusable"


REFRESH_RESULTS = tuple(RefreshResult)


class KeyRing:
    """The keys that may sign tokens now, from exactly one source.

    The last good set stays while the source is down, empty or garbage. A key that left the source stops
    working within `refresh_seconds` (a URL) or about two seconds (a file). `generation` grows at each change,
    `removals` where a key is no longer there.
    """

    def __init__(
        self,
        *,
        algorithms: Sequence[str],
        public_key_file: Path | None = None,
        jwks_file: Path | None = None,
        jwks_url: str | None = None,
        refresh_seconds: float = 300.0,
        on_refresh: Callable[[RefreshResult], None],
        on_problem: Callable[[str], None] = lambda _text: None,
        read_deadline_seconds: float = _READ_DEADLINE_SECONDS,
        start_deadline_seconds: float = _START_DEADLINE_SECONDS,
        file_poll_seconds: float = _FILE_POLL_SECONDS,
        cooldown_seconds: float = _ON_DEMAND_COOLDOWN_SECONDS,
    ) -> None:
        """`on_problem` gets one line for the log when the source fails in a new way."""
        given = [source for source in (public_key_file, jwks_file, jwks_url) if source is not None]
        if len(given) != 1:
            raise ValueError("expected exactly one source of keys")
        self._parse = keyset.parse_pem if public_key_file else keyset.parse_jwks
        self._algorithms = tuple(algorithms)
        self._source: Source
        file = public_key_file or jwks_file
        if file is not None:
            self._source = FileSource(file)
        else:
            self._source = UrlSource(str(jwks_url))
        self._is_file = file is not None
        self._interval_seconds = min(file_poll_seconds, refresh_seconds) if file else refresh_seconds
        self._read_deadline_seconds = read_deadline_seconds
        self._start_deadline_seconds = start_deadline_seconds
        self._cooldown_seconds = cooldown_seconds
        self._on_refresh = on_refresh
        self._on_problem = on_problem

        self.generation = 0
        self.removals = 0
        self._keys: frozenset[PreparedKey] = frozenset()
        self._fitting: dict[str, tuple[PreparedKey, ...]] = {}  # the same, by algorithm
        self._document: bytes | None = None  # the last one read, good or bad
        self._problem: str | None = None
        self._failures = 0  # in a row
        self._no_demand_before = 0.0  # time.monotonic
        self._flight: asyncio.Task[None] | None = None
        self._follower: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        """Keys were loaded at least once."""
        return self.generation > 0

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[PreparedKey]:
        """The keys a token may be signed with: those its `kid` names, else every key that fits."""
        fitting = self._fitting.get(algorithm, ())
        named = [key for key in fitting if key.kid == kid] if kid is not None else ()
        return named or fitting

    async def start(self) -> None:
        """Load once and go on following the source. A URL that is down is only waited for shortly.

        Raises:
            BadKeys: the file cannot be read or holds no usable key.
        """
        first = self._begin_flight()
        await asyncio.wait({first}, timeout=self._start_deadline_seconds)
        if self._is_file and not self.loaded:
            await self.close()
            raise BadKeys(self._problem or f"{self._source.name}: could not be read in time")
        self._follower = asyncio.create_task(self._keep_following(first), name="follow keys")

    async def close(self) -> None:
        """Stop following; the keys stay as they are."""
        self._no_demand_before = math.inf
        tasks = [task for task in (self._follower, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh_on_demand(self) -> bool:
        """Look at the source because no key fits a token; however many ask, at most once per cool-down.

        Returns whether the keys changed while waiting.
        """
        before = self.generation
        if self._flight is not None:  # it may have begun before the key we miss was published
            await asyncio.wait({self._flight})
        if self.generation == before:
            flight = self._flight or self._begin_flight_on_demand()
            if flight is not None:
                await asyncio.wait({flight})
        return self.generation != before

    def _begin_flight_on_demand(self) -> asyncio.Task[None] | None:
        now = time.monotonic()
        if now < self._no_demand_before:
            return None
        self._no_demand_before = now + self._cooldown_seconds
        return self._begin_flight()

    def _begin_flight(self) -> asyncio.Task[None]:
        """One look at the source, as its own task: a handshake that goes away must not end it for others."""
        if self._flight is None:
            self._flight = asyncio.create_task(self._refresh(), name="refresh keys")
        return self._flight

    async def _keep_following(self, flight: asyncio.Task[None]) -> None:
        """A bug in one look must not let removed keys live on: it is logged, and the next look comes all the same."""
        while True:
            try:
                await self._follow(flight)
            except Exception:
                log.exception("following the keys failed, it begins again")
                await asyncio.sleep(min(_LAST_RETRY_SECONDS, self._interval_seconds))
            flight = self._begin_flight()

    async def _follow(self, flight: asyncio.Task[None]) -> None:
        while True:
            began = time.monotonic()
            await asyncio.wait({flight})
            flight.result()  # raises what only a bug lets out
            # From beginning to beginning: a slow answer must not let a removed key live longer.
            due = began + self._interval_seconds - time.monotonic()
            pause = self._retry_seconds() if self._failures else due
            # Spread, so that replicas do not ask together, but only ever early.
            await asyncio.sleep(pause * random.uniform(0.75, 0.95))  # noqa: S311 - not a secret
            flight = self._begin_flight()

    def _retry_seconds(self) -> float:
        doubled = _FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10)
        return min(doubled, _LAST_RETRY_SECONDS, self._interval_seconds)

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._read_deadline_seconds):
                document = await self._source.read()
            if self._is_file and document == self._document:
                return
            self._document = document
            keys = self._parse(document, self._algorithms)
        except TimeoutError:
            self._failed(RefreshResult.UNREACHABLE, f"no answer within {self._read_deadline_seconds:g} s")
        except Unreachable as error:
            self._failed(RefreshResult.UNREACHABLE, str(error))
        except BadKeys as error:
            self._failed(RefreshResult.UNUSABLE, str(error))
        except Exception as error:
            log.exception("looking for the token keys failed")
            self._failed(RefreshResult.UNUSABLE, type(error).__name__)
        else:
            self._loaded(keys)
        finally:
            self._flight = None

    def _loaded(self, keys: tuple[PreparedKey, ...]) -> None:
        self._failures = 0
        self._problem = None
        before, self._keys = self._keys, frozenset(keys)
        changed = self._keys != before
        if changed:
            self.generation += 1
            self._fitting = {
                algorithm: tuple(key for key in keys if algorithm in key.algorithms)
                for algorithm in self._algorithms
            }
        if not before <= self._keys:
            self.removals += 1
        self._on_refresh(RefreshResult.CHANGED if changed else RefreshResult.UNCHANGED)

    def _failed(self, result: RefreshResult, problem: str) -> None:
        problem = f"{self._source.name}: {problem}"
        is_new = problem != self._problem
        self._failures += 1
        self._problem = problem
        if result is RefreshResult.UNREACHABLE:
            self._document = None  # a file that comes back unchanged is news
        if is_new or not self._is_file:
            self._on_refresh(result)
        if is_new:
            self._on_problem(problem)
