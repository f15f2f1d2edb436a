"""Whatever the network does, replicas come to one mind once it lets them: a model with delay, loss, reordering and
duplicates, cuts and deaths, on a clock of its own. `MODEL_EXAMPLES=4000` searches for minutes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sidecar.bus.spanning import SpanningBus
from sidecar.signaling.envelope import Dialect, Identity
from sidecar.signaling.hub import Hub
from tests.bus.bus_cluster import Counters, Instruments, Noted, Person
from tests.harness import guid

REPLICAS = 3
TIMEOUT_SECONDS = 6.0
ROOM = "0" * 8 + "-0000-0000-0000-" + "0" * 12
ACCOUNTS = [f"{n:08d}-0000-0000-0000-{n:012d}" for n in range(3)]


class Simulated:
    """One replica and what is on its way to it."""

    def __init__(self, network: Network, number: int) -> None:
        self.network = network
        self.connected = False
        self.subjects: set[str] = set()
        self.inbox: list[tuple[str, bytes]] = []
        self.noted = Noted()
        self.due: list[Callable[[], None]] = []
        self.people: dict[str, Person] = {}
        self.places: int | None = None  # messages that may still wait to be sent; None: any number
        network.epoch += 1
        self.bus = SpanningBus(
            prefix="sphere",
            node_timeout_seconds=TIMEOUT_SECONDS,
            observer=self.noted,
            clock=lambda: network.now,
            schedule=self.due.append,
            me=f"r{number}x{network.epoch}",
            epochs=lambda: 0,
        )
        self.bus.carrier = self
        self.hub = Hub(
            bus=self.bus,
            schedule=self.due.append,
            instruments=Instruments(),
            counters=Counters(),
            max_room_connections=0,
            max_connections_per_account=0,
        )

    # The carrier

    def fits(self, payload: bytes) -> bool:
        return True

    def publish(self, subject: str, payload: bytes, *, reply: str = "") -> bool:
        if self.places is not None and not subject.endswith(".beat"):  # which is small enough to find a place
            if not self.places:
                return False
            self.places -= 1
        self.network.carry(self, subject, payload, reply)
        return True

    def subscribe(self, subject: str) -> None:
        assert subject not in self.subjects
        self.subjects.add(subject)

    def unsubscribe(self, subject: str) -> None:
        self.subjects.remove(subject)

    # What happens to it

    def connect(self) -> None:
        self.connected = True
        for _ in self.bus.on_connected():
            pass

    def disconnect(self) -> None:
        self.connected = False
        self.subjects.clear()
        self.inbox.clear()
        self.bus.on_disconnected()

    def hears(self, subject: str) -> bool:
        return subject in self.subjects or subject.rpartition(".")[0] + ".*" in self.subjects

    def take(self, index: int, *, again: bool = False) -> None:
        subject, payload = self.inbox[index] if again else self.inbox.pop(index)
        if subject.startswith("nobody "):
            self.bus.on_nobody(subject.removeprefix("nobody "))
        else:
            self.bus.on_message(subject, payload)
        self.run()

    def run(self) -> None:
        while self.due:
            self.due.pop(0)()

    def join(self, account: str, room: str = ROOM) -> None:
        person = Person(account, "")
        person.hub = self.hub
        person.member, person.welcome = self.hub.join(
            room,
            connection_id=guid(),
            identity=Identity(account_id=account, name="", nick="", profile=b"{}", updated_at=None),
            joined_at=self.network.now,
            dialect=Dialect.GUIDE,
            outlet=person,
        )
        self.people[person.connection] = person
        self.run()


class Network:
    def __init__(self) -> None:
        self.now = 1000.0
        self.epoch = 0
        self.replicas = [Simulated(self, number) for number in range(REPLICAS)]
        self.cut: set[frozenset[int]] = set()
        for replica in self.replicas:
            replica.connect()

    def carry(self, sender: Simulated, subject: str, payload: bytes, reply: str) -> None:
        heard = False
        for other in self.replicas:
            if other is not sender and other.connected and other.hears(subject):
                heard = True
                pair = frozenset({self.replicas.index(sender), self.replicas.index(other)})
                if pair not in self.cut:
                    other.inbox.append((subject, payload))
        if reply and not heard:
            sender.inbox.append((f"nobody {reply}", b""))

    def look(self, replica: Simulated) -> None:
        replica.bus.look()
        replica.run()

    def settle(self, seconds: float) -> None:
        """Let time pass with everything delivered in order."""
        step = self.replicas[0].bus.look_seconds
        until = self.now + seconds
        while self.now < until:
            for replica in self.replicas:
                self.look(replica)
            while any(replica.inbox for replica in self.replicas):
                for replica in self.replicas:
                    if replica.inbox:
                        replica.take(0)
            self.now += step

    def check(self) -> None:
        truth: dict[str, set[str]] = {}
        for replica in self.replicas:
            for person in replica.people.values():
                truth.setdefault(person.account, set()).add(person.connection)
        for replica in self.replicas:
            for person in replica.people.values():
                expected = {account: set(connections) for account, connections in truth.items()}
                expected[person.account].discard(person.connection)
                assert person.sees() == {account: there for account, there in expected.items() if there}


class Convergence(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.network = Network()
        self.said = Counter()

    def replica(self, number: int) -> Simulated:
        return self.network.replicas[number]

    def some_person(self, number: int, choice: int) -> Person | None:
        people = list(self.replica(number).people.values())
        return people[choice % len(people)] if people else None

    which = st.integers(0, REPLICAS - 1)
    any_index = st.integers(0, 1000)

    @rule(number=which, account=st.sampled_from(ACCOUNTS))
    def join(self, number, account):
        self.replica(number).join(account)

    @rule(number=which, choice=any_index)
    def leave(self, number, choice):
        person = self.some_person(number, choice)
        if person is not None:
            replica = self.replica(number)
            del replica.people[person.connection]
            person.leave()
            replica.run()

    @rule(number=which, choice=any_index)
    def say(self, number, choice):
        person = self.some_person(number, choice)
        if person is not None:
            self.said[person.connection] += 1
            person.say("offer", self.said[person.connection])
            self.replica(number).run()

    @rule(number=which, order=any_index, again=st.booleans())
    def deliver_any(self, number, order, again):
        replica = self.replica(number)
        if replica.inbox:
            replica.take(order % len(replica.inbox), again=again)

    @rule(number=which, count=st.integers(1, 20))
    def deliver_in_order(self, number, count):
        replica = self.replica(number)
        for _ in range(min(count, len(replica.inbox))):
            replica.take(0)

    @rule(number=which, order=any_index)
    def lose(self, number, order):
        replica = self.replica(number)
        if replica.inbox:
            del replica.inbox[order % len(replica.inbox)]

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 20.0, 60.0]))
    def pass_time(self, seconds):
        self.network.now += seconds

    @rule(number=which)
    def look(self, number):
        self.network.look(self.replica(number))

    @rule(seconds=st.sampled_from([2.0, 8.0]))
    def let_be(self, seconds):
        self.network.settle(seconds)

    @rule(number=which)
    def lose_or_find_the_bus(self, number):
        replica = self.replica(number)
        if replica.connected:
            replica.disconnect()
        else:
            replica.connect()
        replica.run()

    @rule(one=which, other=which)
    def cut_or_mend_a_route(self, one, other):
        if one != other:
            self.network.cut ^= {frozenset({one, other})}

    @precondition(lambda self: any(replica.people for replica in self.network.replicas))
    @rule(number=which)
    def die_and_start_anew(self, number):
        self.network.replicas[number] = Simulated(self.network, number)
        self.network.replicas[number].connect()

    def teardown(self) -> None:
        if not hasattr(self, "network"):
            return
        self.network.cut.clear()
        for replica in self.network.replicas:
            if not replica.connected:
                replica.connect()
                replica.run()
        self.network.settle(30)
        self.network.check()
        for replica in self.network.replicas:
            for person in replica.people.values():
                heard: dict[str, list[int]] = {}
                for packet in person.heard("offer"):
                    heard.setdefault(packet["senderConnectionId"], []).append(packet["data"])
                for numbers in heard.values():
                    assert numbers == sorted(set(numbers)), "in order, once"


Convergence.TestCase.settings = settings(
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "100")),  # another hundred in each run; more by hand
    stateful_step_count=40,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestConvergence = Convergence.TestCase
