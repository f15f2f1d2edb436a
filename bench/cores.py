"""Processes that share a machine's cores, in simulated time.

A process is a queue: it does one piece of work after the other, on at most one core. Processes on one machine share its
cores evenly among those that have something to do.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Process:
    """Work in CPU seconds, in order, each with what follows it.

    What was begun is finished before what has not been: the others wait in the kernel until they are accepted.
    """

    machine: Machine
    work: deque[tuple[float, Callable[[], None]]] = field(default_factory=deque)

    def do(self, seconds: float, then: Callable[[], None], *, begun: bool = False) -> None:
        self.machine.advance()
        self.work.insert(1 if begun else len(self.work), (seconds, then))
        self.machine.plan()


class Machine:
    """`cores` shared by the processes that have work."""

    def __init__(self, world: World, cores: float) -> None:
        self._world = world
        self._cores = cores
        self._at = 0.0
        self._plans = 0
        self.processes: list[Process] = []

    def process(self) -> Process:
        self.processes.append(Process(self))
        return self.processes[-1]

    def _busy(self) -> tuple[list[Process], float]:
        busy = [process for process in self.processes if process.work]
        return busy, min(1.0, self._cores / len(busy)) if busy else 0.0

    def advance(self) -> None:
        """Give out the time that has passed since."""
        busy, speed = self._busy()
        passed = (self._world.now - self._at) * speed
        self._at = self._world.now
        for process in busy:
            left, then = process.work[0]
            process.work[0] = (left - passed, then)

    def plan(self) -> None:
        """Look again when the next piece of work is done."""
        self._plans += 1
        busy, speed = self._busy()
        if busy:
            first = min(process.work[0][0] for process in busy)
            self._world.after(max(first, 0.0) / speed, lambda plan=self._plans: self._done(plan))

    def _done(self, plan: int) -> None:
        if plan != self._plans:
            return  # something came in between, and another plan was made
        self.advance()
        done = [process for process in self._busy()[0] if process.work[0][0] <= 1e-12]
        following = [process.work.popleft()[1] for process in done]
        self.plan()
        for then in following:
            then()


class World:
    """The clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), what))

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()
