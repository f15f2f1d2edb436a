"""What replicas make of messages that could not be sent, and of rooms that come and go meanwhile."""

from __future__ import annotations

from sidecar.bus.checks import CHECKED_SECONDS
from sidecar.bus.journal import KEPT_SECONDS
from sidecar.bus.nats_client import Access
from sidecar.bus.spanning import ROOMS_PER_SLICE
from tests.bus.bus_cluster import Cluster, Replica
from tests.bus.nats_server import run_nats
from tests.bus.proxy import run_proxy
from tests.bus.test_bus_model import ACCOUNTS, ROOM, Network
from tests.harness import guid, until


def person(network, number):
    (one,) = network.replicas[number].people.values()
    return one


def test_who_joins_while_nothing_can_be_sent_is_known_soon_after_it_can(network):
    network = Network()
    full, other = network.replicas[:2]
    other.join(ACCOUNTS[1])
    network.settle(2)
    full.places = 0
    full.join(ACCOUNTS[0])
    network.settle(10)
    full.places = None
    network.settle(5)
    assert person(network, 1).sees() == {ACCOUNTS[0]: {person(network, 0).connection}}
    network.check()


def test_an_answer_of_which_only_a_part_could_be_sent_is_completed_soon_after(network):
    alice, bob = person(network, 0), person(network, 1)
    speaks, cut_off = network.replicas[:2]
    for _ in range(60):  # so that the one in question has its turn to be checked later
        cut_off.join(ACCOUNTS[2], room=guid())
    cut_off.disconnect()
    for number in range(100):
        alice.say("offer", number)
    network.settle(4)
    speaks.places = 10
    cut_off.connect()
    network.settle(4)
    speaks.places = 10
    network.settle(4)
    assert 0 < len(bob.data()) < 100
    speaks.places = None
    network.settle(5)
    assert bob.data() == list(range(100))


def test_what_was_taken_in_of_a_replica_on_its_way_back_is_said_though_the_rest_is_no_longer_kept(network):
    alice, bob = person(network, 0), person(network, 1)
    here, there = network.replicas[:2]
    there.disconnect()
    network.settle(10)
    assert alice.sees() == {}
    for number in range(20):
        bob.say("offer", number)
    there.places = 6
    there.connect()
    network.settle(4)
    network.now += KEPT_SECONDS + 1
    network.look(there)
    there.places = None
    network.settle(5)
    assert alice.sees() == {ACCOUNTS[1]: {bob.connection}}
    assert alice.data() == list(range(len(alice.data())))
    assert 0 < len(alice.data()) < 20
    assert here.noted.gaps == 1


def test_what_is_said_before_replicas_know_each_others_people_reaches_them():
    network = Network()
    here, there = network.replicas[:2]
    here.join(ACCOUNTS[0])
    network.settle(1)
    there.join(ACCOUNTS[1])
    alice, bob = person(network, 0), person(network, 1)
    hello, _joined = here.inbox
    here.inbox.remove(hello)  # lost, as where the servers of a cluster find each other only now
    here.take(0)
    assert alice.presence() == [("user-joined", bob.account)]
    assert bob.presence() == []
    for number in range(3):
        alice.say("offer", number, to=bob.account)
        here.run()
    there.take(0)  # that somebody is there, who is asked for
    bob.say("offer", "to whoever it is")
    network.settle(5)
    assert bob.presence() == [("user-joined", alice.account)]
    assert bob.data() == [0, 1, 2]
    assert alice.data() == ["to whoever it is"]


def test_rooms_that_are_gone_take_no_turn_from_those_that_are_to_be_checked(network):
    here, there = network.replicas[:2]
    for _ in range(300):
        here.join(ACCOUNTS[2], room=guid())
    network.settle(1)
    for visitor in [one for one in here.people.values() if one.account == ACCOUNTS[2]]:
        del here.people[visitor.connection]
        visitor.leave()
    network.settle(50)
    bob = person(network, 1)
    there.people.clear()
    bob.leave()
    there.run()
    network.look(there)
    network.look(there)
    here.inbox = [message for message in here.inbox if not message[0].endswith(ROOM)]
    network.settle(CHECKED_SECONDS + 1)
    assert person(network, 0).sees() == {}


def test_a_replica_that_starts_is_not_asked_what_it_said_before(network):
    network.settle(10)
    network.replicas[2] = type(network.replicas[2])(network, 2)
    new = network.replicas[2]
    new.connect()
    for replica in network.replicas[:2]:
        while replica.inbox:
            replica.take(0)
    assert [subject for subject, _ in new.inbox if subject.endswith(".all")] == []


async def test_rooms_that_close_and_open_while_those_before_them_are_entered_again_cost_nothing(tmp_path):
    async with run_nats(tmp_path) as server, run_proxy(server.port) as proxy:
        here, there = Replica(Access(servers=[proxy.url])), Replica(Access(servers=[server.url]))
        async with Cluster([here, there]) as replicas:
            rooms = [guid() for _ in range(ROOMS_PER_SLICE + 10)]
            people = [await here.join(room) for room in rooms]
            people[-2].leave()
            bob = await there.join(rooms[-2])
            await replicas.flush()
            begin, connections = here.spanning.on_connected, []

            def on_connected():
                connections.append(1)
                catching_up = begin()
                next(catching_up)
                people[-1].leave()
                people[-2].hub.join(
                    rooms[-2],
                    connection_id=people[-2].connection,
                    identity=people[-2].member.identity,
                    joined_at=0.0,
                    dialect=people[-2].member.dialect,
                    outlet=people[-2],
                )
                return catching_up

            here.spanning.on_connected = on_connected
            proxy.cut()
            await until(lambda: not here.nats.connected)
            proxy.mend()
            await until(lambda: bob.sees())
            bob.say("offer", 1)
            await until(lambda: people[-2].data())
            await replicas.flush()
            assert connections == [1]
            assert here.noted.drops["duplicate"] == 0
