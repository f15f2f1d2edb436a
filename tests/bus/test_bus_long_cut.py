"""Cuts of half a minute and of more, on a clock of the test's own."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from tests.bus.test_bus_model import ACCOUNTS, ROOM, Network

STEP_SECONDS = 1.0


@pytest.fixture
def network():
    network = Network()
    for number in range(2):
        network.replicas[number].join(ACCOUNTS[number])
    network.settle(2)
    return network


def people(network):
    return [next(iter(network.replicas[number].people.values())) for number in range(2)]


def say_through_a_cut(network, seconds: float) -> int:
    """Both replicas say a number every second while the second is cut off; how many each said."""
    alice, bob = people(network)
    network.replicas[1].disconnect()
    count = int(seconds / STEP_SECONDS)
    for number in range(count):
        alice.say("offer", number)
        bob.say("answer", number)
        network.settle(STEP_SECONDS)
    network.replicas[1].connect()
    network.settle(10)
    return count


def test_what_is_said_during_a_cut_of_30_seconds_arrives_in_order_and_once(network):
    count = say_through_a_cut(network, 30)
    alice, bob = people(network)
    assert alice.data() == bob.data() == list(range(count))
    assert [replica.noted.gaps for replica in network.replicas] == [0, 0, 0]
    network.check()


def test_of_a_cut_longer_than_is_kept_the_gap_is_counted_and_logged_once_on_each_side(network):
    with capture_logs() as log:
        count = say_through_a_cut(network, 60)
    alice, bob = people(network)
    for person in (alice, bob):
        assert person.data() == sorted(set(person.data()))
        assert len(person.data()) < count
    gaps = [line for line in log if line["event"] == "bus gap"]
    assert {line["replica"] for line in gaps} == {replica.bus.me for replica in network.replicas[:2]}
    assert all(line["room"] == ROOM for line in gaps)
    assert all(line["entries"] >= count - 45 / STEP_SECONDS for line in gaps)
    assert [replica.noted.gaps for replica in network.replicas] == [1, 1, 0]
    network.check()
    alice.say("offer", "on we go")
    network.settle(1)
    assert bob.data()[-1] == "on we go"
