"""Cuts of half a minute and of more, on a clock of the test's own."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from sidecar.bus.spanning import REMEMBERED_SECONDS
from tests.bus.test_bus_model import ACCOUNTS, ROOM, Network

STEP_SECONDS = 1.0


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


@pytest.mark.parametrize("said", [0, 5])
def test_what_a_replica_said_before_it_died_while_others_were_cut_off_is_a_gap_if_anyone_heard_it(
    network, said
):
    alice, bob = people(network)
    cut_off, dies, hears = network.replicas
    hears.join(ACCOUNTS[2])
    network.settle(2)
    cut_off.disconnect()
    network.settle(2)
    for number in range(said):
        bob.say("offer", number)
    network.settle(1)
    dies.disconnect()
    cut_off.connect()
    network.settle(20)
    (carol,) = hears.people.values()
    assert alice.sees() == {carol.account: {carol.connection}}
    with capture_logs() as log:
        network.settle(REMEMBERED_SECONDS)
    gaps = [(line["replica"], line["entries"]) for line in log if line["event"] == "bus gap"]
    assert gaps == ([(dies.bus.me, said)] if said else [])
    assert cut_off.noted.gaps == len(gaps)
    assert carol.data() == list(range(said))


def test_the_last_to_leave_a_room_while_cut_off_is_gone_though_its_replica_has_forgotten_the_room(network):
    alice, _ = people(network)
    cut_off, stalled = network.replicas[1], network.replicas[0]
    cut_off.disconnect()
    for bob in list(cut_off.people.values()):
        bob.leave()
    cut_off.people.clear()
    network.now += 60  # longer than it keeps what it said; the other had no time to miss it
    network.look(cut_off)
    cut_off.connect()
    network.look(stalled)
    network.settle(5)
    assert alice.sees() == {}


def test_the_last_word_of_a_replica_is_asked_for_though_nothing_came_after_it(network):
    alice, bob = people(network)
    bob.leave()
    network.replicas[1].people.clear()
    network.replicas[1].run()
    network.look(network.replicas[1])
    network.look(network.replicas[1])
    lost = [message for message in network.replicas[0].inbox if message[0].endswith(ROOM)]
    assert lost
    network.replicas[0].inbox = [message for message in network.replicas[0].inbox if message not in lost]
    network.settle(5)
    assert alice.sees() == {}


def test_what_was_on_its_way_for_a_minute_is_not_believed_for_long():
    """NATS would have to keep it for longer than bob's replica keeps his room."""
    network = Network()
    here, there = network.replicas[:2]
    here.join(ACCOUNTS[0])
    (alice,) = here.people.values()
    there.join(ACCOUNTS[1])
    (bob,) = there.people.values()
    late = [message for message in here.inbox if message[0].endswith(ROOM)]
    network.settle(2)
    alice.leave()
    here.people.clear()
    bob.leave()
    there.people.clear()
    network.settle(60)
    here.join(ACCOUNTS[2])
    (carol,) = here.people.values()
    network.settle(2)
    here.inbox += late
    network.settle(0.5)
    assert carol.sees() == {bob.account: {bob.connection}}
    network.settle(5)
    assert carol.sees() == {}
