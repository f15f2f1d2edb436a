"""The simulation of docs/scaling.md: what can be said of it without a clock."""

from __future__ import annotations

import dataclasses

import pytest

from bench.cluster_simulation import Costs, hot_room, node_lost, rolling_restart
from bench.cores import Machine, World

NOTHING = Costs(**dict.fromkeys([cost.name for cost in dataclasses.fields(Costs)], 0.0))


def finished(cores: float, work: list[list[float]]) -> list[float]:
    """When each process has done all of its work."""
    world, ends = World(), []
    machine = Machine(world, cores)
    processes = [machine.process() for _ in work]
    for process, pieces in zip(processes, work, strict=True):
        for number, seconds in enumerate(pieces):
            last = number == len(pieces) - 1
            process.do(seconds, lambda last=last: ends.append(world.now) if last else None)
    world.run()
    return ends


def test_processes_share_the_cores_evenly_and_none_has_more_than_one():
    assert finished(2, [[1.0]]) == [1.0]
    assert finished(1, [[1.0], [1.0]]) == pytest.approx([2.0, 2.0])
    assert finished(2, [[1.0], [1.0], [1.0, 1.0]]) == pytest.approx([1.5, 1.5, 2.5])


def test_what_was_begun_comes_next_and_what_waits_comes_after():
    world, order = World(), []
    process = Machine(world, 1).process()
    process.do(1.0, lambda: process.do(1.0, lambda: order.append("begun"), begun=True))
    process.do(1.0, lambda: order.append("second"))
    process.do(1.0, lambda: order.append("third"))
    world.run()
    assert order == ["second", "begun", "third"]


def test_without_costs_the_clients_waits_are_all_there_is():
    away = node_lost(2000, 3, costs=NOTHING, cores=2)
    assert len(away.seconds) == 2000
    assert away.quantile(0.5) == pytest.approx(0.25, rel=0.1)
    assert away.last <= 0.5


def test_who_comes_back_to_busy_replicas_waits_for_the_work_of_all():
    away = node_lost(2000, 3, costs=dataclasses.replace(NOTHING, accept=0.01))
    assert away.last == pytest.approx(10.0, rel=0.1)  # two cores for 20 s of work


def test_a_rolling_restart_moves_everybody_and_some_of_them_again():
    away = rolling_restart(300, 3, drain_seconds=5, costs=NOTHING, cores=2)
    assert 900 < len(away.seconds) < 1800
    assert away.quantile(0.5) == pytest.approx(0.5, rel=0.1)


def test_a_hot_room_costs_each_replica_less_the_more_there_are():
    few, _ = hot_room(100, 2, 100, costs=Costs())
    many, _ = hot_room(100, 10, 100, costs=Costs())
    assert many < few
