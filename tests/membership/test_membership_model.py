"""The directory against a simple model, in virtual time: whatever happens in whatever order, nobody stays in a room
longer than the bounds allow, nobody is shut out for longer, and nobody is closed without a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.errors import Refusal, RefusalCode
from sidecar.membership.breaker import OPEN_SECONDS
from sidecar.membership.directory import Directory
from sidecar.membership.model import Ended, MemberKey, Membership, MembershipChange, TimedOut, Unverifiable
from sidecar.membership.service import (
    Changed,
    CursorTooOld,
    Metadata,
    Reason,
    Unavailable,
    WatchEvent,
    WatchStarted,
    WatchUnimplemented,
)
from tests.membership.membership_virtual_time import VirtualTimeLoop

CACHE = 10.0
DENY = 2.0
RECHECK = 5.0
STALE = 20.0
TIMEOUT = 1.5
EVENT_DELAY = 0.2
SLACK = 0.1
WALL_CLOCK_AHEAD = 1_700_000_000.0
KEYS = tuple(MemberKey(room, account) for room in ("r1", "r2") for account in ("a", "b"))

PAUSES = st.sampled_from([0.0, 0.01, 0.3, 2.0, 7.0, 30.0])
STATES = ("member", "removed", "suspended", "timed out", "renamed")
EVENTS = (
    "down",
    "silent",
    "up",
    "stream broken",
    "streams blocked",
    "streams free",
    "history lost",
    "slow",
    "quick",
)


@dataclass
class ModelService:
    """The chat service as the truth about memberships, and a network that delays, loses and breaks."""

    clock: Callable[[], float]
    truth: dict[MemberKey, Membership] = field(default_factory=dict)
    up: bool = True
    silent: bool = False  # while down: no answer until the deadline, instead of a quick refusal
    watchable: bool = True
    streams_blocked: bool = False
    delay: float = 0.01
    reads_late: bool = True  # the answer is as of the end of the delay, not of its beginning
    log: list[tuple[float, MemberKey, Membership | None]] = field(default_factory=list)
    forgotten: int = 0
    streams: int = 0
    stream_since: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def get(self, key: MemberKey, *, metadata: Metadata = ()) -> Membership | None:
        return (await self._answer((key,))).get(key)

    async def batch(self, keys: Sequence[MemberKey]) -> dict[MemberKey, Membership]:
        return await self._answer(keys)

    async def _answer(self, keys: Sequence[MemberKey]) -> dict[MemberKey, Membership]:
        early = self._look_up(keys)
        await asyncio.sleep(self.delay if self.up or not self.silent else TIMEOUT)
        if not self.up:
            raise Unavailable(Reason.DEADLINE if self.silent else Reason.UNREACHABLE)
        return self._look_up(keys) if self.reads_late else early

    def _look_up(self, keys: Sequence[MemberKey]) -> dict[MemberKey, Membership]:
        return {key: self.truth[key] for key in keys if key in self.truth}

    async def watch(self, resume_after: str) -> AsyncGenerator[WatchEvent, None]:
        await asyncio.sleep(0.01)
        self._check_stream()
        position = int(resume_after) if resume_after else len(self.log)
        if position < self.forgotten:
            raise CursorTooOld
        self.stream_since = self.clock()
        stream = self.streams
        try:
            yield WatchStarted()
            while True:
                self._check_stream()
                if stream != self.streams:
                    raise Unavailable(Reason.UNREACHABLE)
                if position == len(self.log):
                    self.changed.clear()
                    await self.changed.wait()
                    continue
                at, key, membership = self.log[position]
                if at + EVENT_DELAY > self.clock():
                    await asyncio.sleep(at + EVENT_DELAY - self.clock())
                    continue
                position += 1
                yield Changed(str(position), key, membership)
        finally:
            self.stream_since = None

    def _check_stream(self) -> None:
        if not self.up or self.streams_blocked:
            raise Unavailable(Reason.UNREACHABLE)
        if not self.watchable:
            raise WatchUnimplemented

    def set(self, key: MemberKey, membership: Membership | None) -> None:
        if membership is None:
            self.truth.pop(key, None)
        else:
            self.truth[key] = membership
        self.log.append((self.clock(), key, membership))
        self.changed.set()

    def break_streams(self) -> None:
        self.streams += 1
        self.changed.set()


def member(
    key: MemberKey, *, nick: str = "", role: int = 0, timeout_until: float | None = None
) -> Membership:
    return Membership(
        key=key,
        role=role,
        joined_at=1.0,
        leave_at=None,
        timeout_until=timeout_until,
        nick=nick,
        account_name="",
        account_nick="",
        profile=b"{}",
        updated_at=None,
    )


class MembershipMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.joins: set[asyncio.Task[None]] = set()
        self.connected: dict[MemberKey, list[float]] = {}  # when each live connection was admitted
        self.nicks: dict[MemberKey, str] = {}
        self.forbidden_since: dict[MemberKey, float] = {}
        self.allowed_since: dict[MemberKey, float] = dict.fromkeys(KEYS, 0.0)
        self.last_forbidden: dict[MemberKey, float] = dict.fromkeys(KEYS, 0.0)
        self.renamed_at: dict[MemberKey, float] = {}
        self.up_since: float | None = 0.0
        self.down_since: float | None = None
        self.problems: list[str] = []

    @initialize(watchable=st.booleans())
    def begin(self, watchable: bool) -> None:
        self.service = ModelService(clock=self.loop.time, watchable=watchable)
        self.service.truth = {key: member(key) for key in KEYS}
        self.directory = Directory(
            service=self.service,
            cache_seconds=CACHE,
            deny_seconds=DENY,
            recheck_seconds=RECHECK,
            stale_seconds=STALE,
            on_change=self._on_change,
            clock=self.loop.time,
            wall_clock=self._wall_clock,
        )
        self.loop.run_until_complete(self.directory.start())
        self._pass_time(0.1)
        self.join(KEYS, 0.1)

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _end(self) -> None:
        await self.directory.close()
        await asyncio.gather(*self.joins)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def _wall_clock(self) -> float:
        return self.loop.time() + WALL_CLOCK_AHEAD

    # What happens: a few rules, each with time to pass afterwards, so that most runs tell a story.

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6), then=PAUSES)
    def join(self, keys: list[MemberKey], then: float) -> None:
        for key in keys:
            task = self.loop.create_task(self._join(key))
            self.joins.add(task)
            task.add_done_callback(self.joins.discard)
        self._pass_time(then)

    @rule(key=st.sampled_from(KEYS), to=st.sampled_from(STATES), then=PAUSES)
    def change(self, key: MemberKey, to: str, then: float) -> None:
        match to:
            case "removed":
                self.service.set(key, None)
            case "suspended":
                self.service.set(key, member(key, role=-1))
            case "timed out":
                self.service.set(key, member(key, timeout_until=self._wall_clock() + 10))
            case nick:
                self.service.set(key, member(key, nick=nick))
                self.renamed_at[key] = self.loop.time()
        self._judge(key)
        self._pass_time(then)

    @rule(what=st.sampled_from(EVENTS), then=PAUSES)
    def happen(self, what: str, then: float) -> None:
        match what:
            case "down" | "silent":
                self.service.up, self.service.silent = False, what == "silent"
                self.up_since, self.down_since = None, self.down_since or self.loop.time()
            case "up" if not self.service.up:
                self.service.up = True
                self.up_since, self.down_since = self.loop.time(), None
            case "streams blocked" | "streams free":
                self.service.streams_blocked = what == "streams blocked"
            case "history lost":
                self.service.forgotten = len(self.service.log)
            case "slow" | "quick":
                self.service.delay = 1.0 if what == "slow" else 0.01
                self.service.reads_late = not self.service.reads_late
        self.service.break_streams()
        self._pass_time(then)

    @rule(key=st.sampled_from(KEYS), hint=st.booleans(), then=PAUSES)
    def leave_or_hint(self, key: MemberKey, hint: bool, then: float) -> None:
        if hint:
            self.directory.recheck_now(key)
        elif self.connected.get(key):
            self._disconnect_one(key)
        self._pass_time(then)

    # What must hold

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert not self.problems, self.problems

    def _check(self) -> None:
        """At every moment, not only between rules."""
        now = self.loop.time()
        for key, admitted in self.connected.items():
            if not admitted:
                continue
            if (forbidden := self.forbidden_since.get(key)) is not None:
                if self.up_since is not None:
                    settled = self.up_since + (OPEN_SECONDS + TIMEOUT if self.up_since else 0)
                    bound = max(forbidden, admitted[-1], settled) + RECHECK + 2 * TIMEOUT
                    self._demand(now <= bound + SLACK, f"{key} stayed {now - forbidden:.2f} s")
                stream = self.service.stream_since
                if stream is not None and stream <= forbidden and admitted[-1] <= forbidden:
                    # Just after a resumption an event may be an old one: the service is asked, and may be slow.
                    bound = forbidden + 1 + self.service.delay
                    self._demand(now <= bound, f"{key} stayed {now - forbidden:.2f} s after the event")
            if self.down_since is not None:
                bound = self.down_since + STALE + RECHECK + TIMEOUT + 1
                self._demand(
                    now <= max(bound, admitted[-1] + RECHECK + TIMEOUT + 1) + SLACK, f"{key} unverified"
                )
            elif key in self.renamed_at and key in self.allowed_since and self.up_since is not None:
                since = max(self.renamed_at[key], admitted[-1], self.up_since + OPEN_SECONDS + TIMEOUT)
                if now > since + RECHECK + 2 * TIMEOUT + SLACK:
                    self._demand(self.nicks[key] == self.service.truth[key].nick, f"{key} has an old nick")

    async def _join(self, key: MemberKey) -> None:
        asked = self.loop.time()
        try:
            membership = await self.directory.admit(key)
        except Refusal as refusal:
            self._check_refusal(key, refusal.code, asked)
            return
        now = self.loop.time()
        forbidden = self.forbidden_since.get(key)
        if forbidden is not None:
            self._demand(
                now - forbidden <= CACHE + TIMEOUT, f"{key} let in {now - forbidden:.2f} s after the kick"
            )
            stream = self.service.stream_since
            if stream is not None and stream <= forbidden:
                self._demand(now - forbidden <= 1, f"{key} let in {now - forbidden:.2f} s after the event")
        self.directory.follow(key, membership)
        self.nicks[key] = membership.nick
        self.connected.setdefault(key, []).append(now)

    def _check_refusal(self, key: MemberKey, code: RefusalCode, asked: float) -> None:
        now = self.loop.time()
        self._demand(
            now - asked <= TIMEOUT + 2 * self.service.delay + SLACK,
            f"{key} waited {now - asked:.2f} s for a no",
        )
        if code is RefusalCode.MEMBERSHIP_UNAVAILABLE:
            recovered = self.up_since is not None and now - self.up_since > OPEN_SECONDS + 2 * TIMEOUT
            probing = self.directory.breaker_open  # nobody asked since: the next one does
            self._demand(not recovered or probing, f"{key} not let in though the service answers")
        elif (allowed := self.allowed_since.get(key)) is not None:
            self._demand(
                now - allowed <= DENY + TIMEOUT + SLACK,
                f"{key} refused {now - allowed:.2f} s after the invitation",
            )

    def _on_change(self, key: MemberKey, change: MembershipChange) -> None:
        now = self.loop.time()
        match change:
            case Ended() | TimedOut():
                # Late news may be late only by what was on its way.
                recently = now - self.last_forbidden[key] if key in self.allowed_since else 0.0
                self._demand(
                    recently <= TIMEOUT + EVENT_DELAY + SLACK,
                    f"{key} closed {recently:.2f} s after it was put right",
                )
            case Unverifiable():
                oldest = min(self.connected[key])
                self._demand(
                    now - oldest > STALE - CACHE - TIMEOUT, f"{key} closed after {now - oldest:.2f} s"
                )
            case _:
                self.nicks[key] = change.membership.nick
                return
        while self.connected[key]:
            self._disconnect_one(key)

    # The model's hands

    def _disconnect_one(self, key: MemberKey) -> None:
        self.connected[key].pop()
        self.directory.unfollow(key)

    def _judge(self, key: MemberKey) -> None:
        """What the truth says about `key` at this moment."""
        now = self.loop.time()
        truth = self.service.truth.get(key)
        if truth is not None and truth.is_active() and not truth.is_timed_out(self._wall_clock()):
            self.allowed_since.setdefault(key, now)
            self.forbidden_since.pop(key, None)
        else:
            self.forbidden_since.setdefault(key, now)
            self.allowed_since.pop(key, None)
            self.last_forbidden[key] = now

    def _pass_time(self, seconds: float) -> None:
        self.loop.run_until_complete(self._checked_sleep(seconds))

    async def _checked_sleep(self, seconds: float) -> None:
        begun = self.loop.time()
        end = begun + seconds
        while True:
            for key in KEYS:
                self._judge(key)
            self._check()
            if self.loop.time() >= end:
                return
            step = 0.1 if self.loop.time() - begun < 3 else 0.5
            await asyncio.sleep(min(step, end - self.loop.time()))

    def _demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.problems.append(f"at {self.loop.time():.2f}: {otherwise}")


TestMembership = MembershipMachine.TestCase
TestMembership.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,  # a change is judged by its own tests, the same every time; search with more examples by hand
    suppress_health_check=[HealthCheck.too_slow],
)
