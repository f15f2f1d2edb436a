"""Rooms against a simple model: who receives what, whatever is said, by whom, to whom, in which ticks."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.bus.local import LocalBus
from sidecar.observe.metrics import Metrics
from sidecar.observe.refusals import Refusals
from sidecar.signaling.delivery import Talk, for_one
from sidecar.signaling.envelope import Dialect, Envelope, Identity, payload_size
from sidecar.signaling.hub import Hub
from sidecar.signaling.outlet import Outlet
from sidecar.signaling.packets import PacketError, Signal
from sidecar.signaling.presence import Member, Presence
from sidecar.signaling.room import SPARSE_SECONDS
from tests.harness import guid

ROOMS = [guid() for _ in range(2)]
ACCOUNTS = [guid() for _ in range(3)]


class Reader(Outlet):
    """Reads back the frames written to one member."""

    def __init__(self) -> None:
        super().__init__()
        self.packets: list[dict] = []

    def fail(self, error: Exception) -> None:
        raise error

    def write(self, data: bytes) -> None:
        while data:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4]), 4
            self.packets.append(json.loads(data[start : start + size]))
            data = data[start + size :]


class Rooms(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.now = 1.0
        self.metrics = Metrics(max_rooms=1, room_label=True, connections_limit=0, refusals=Refusals())
        self.hub = Hub(
            bus=LocalBus(),
            schedule=self.due.append,
            instruments=self.metrics,
            counters=self.metrics.rooms,
            max_room_connections=0,
            max_connections_per_account=0,
        )
        self.members: dict[str, tuple] = {}  # connection id -> member, room, account, outlet
        self.expected: dict[str, list] = {}
        self.delivered = 0
        self.spoke: set[str] = set()

    def others(self, room: str, but: str):
        return [c for c, (_, where, _, _) in self.members.items() if where == room and c != but]

    @rule(
        room=st.sampled_from(ROOMS),
        account=st.sampled_from(ACCOUNTS),
        dialect=st.sampled_from([*[Dialect.GUIDE] * 5, *Dialect]),  # many rooms of one
    )
    def join(self, room, account, dialect):
        outlet, connection = Reader(), guid()
        identity = Identity(account_id=account, name="n", nick="", profile=b"{}", updated_at=None)
        devices = [c for c, (_, where, who, _) in self.members.items() if (where, who) == (room, account)]
        member, before = self.hub.join(
            room, connection_id=connection, identity=identity, joined_at=0.0, dialect=dialect, outlet=outlet
        )
        assert sorted(c for p in before for c in p.connection_ids) == sorted(self.others(room, connection))
        for other in self.others(room, connection):
            self.expected[other].append(("connection-joined" if devices else "user-joined", connection, {}))
        self.members[connection] = (member, room, account, outlet)
        self.expected[connection] = []

    @rule(pick=st.randoms(use_true_random=False))
    def leave(self, pick):
        if self.members:
            connection = pick.choice(list(self.members))
            member, room, account, outlet = self.members.pop(connection)
            self.hub.leave(member)
            missed = self.expected[connection][len(outlet.packets) :]
            self.delivered -= sum(kind == "x" for kind, *_ in missed)
            rest = [c for c, (_, where, who, _) in self.members.items() if (where, who) == (room, account)]
            for other in self.others(room, connection):
                self.expected[other].append(("connection-left" if rest else "user-left", connection, {}))
            del self.expected[connection]

    @rule(
        pick=st.randoms(use_true_random=False),
        to=st.sampled_from([None, *ACCOUNTS]),
        narrow=st.booleans(),
        last=st.booleans(),
        later=st.sampled_from([0.0, SPARSE_SECONDS / 2, SPARSE_SECONDS]),
    )
    def say(self, pick, to, narrow, last, later):
        if not self.members:
            return
        connection = pick.choice(list(self.members))
        member, room, _, _ = self.members[connection]
        one = pick.choice(list(self.members)) if narrow else None
        data = {"mark": guid()}
        receivers = [
            c
            for c in self.others(room, connection)
            if (to is None or self.members[c][2] == to) and (one is None or c == one)
        ]
        self.now += later
        try:
            signal = Signal("x", json.dumps(data).encode(), to, one)
            member.room.post(member, signal, size=1, received_at=self.now, last=last)
        except PacketError:
            assert to or one
            assert not receivers
        else:
            assert receivers or (to is None and one is None)
            for receiver in receivers:
                self.expected[receiver].append(("x", connection, data))
            self.delivered += len(receivers)
            self.spoke.add(connection)

    @rule()
    def tick(self):
        while self.due:
            self.due.pop()()

    @invariant()
    def everybody_got_what_was_for_them_and_nothing_else(self):
        if self.due:
            return
        for connection, (_, _, _, outlet) in self.members.items():
            got = []
            for packet in outlet.packets:
                data = packet["data"]
                sender = (
                    data.get("senderConnectionId") or data.get("SenderConnectionId") or data["connection_id"]
                )
                account = data.get("senderAccountId") or data.get("SenderAccountId") or data["account_id"]
                info = data.get("senderInfo") or data.get("SenderInfo") or data["account"]
                assert info["id"] == account
                got.append((data["type"], sender, data["data"]))
            assert got == self.expected[connection]
            assert outlet.packets_out == len(got)
        assert self.metrics.rooms.totals().delivered == self.delivered

    @invariant()
    def who_said_nothing_keeps_no_stamp(self):
        for connection, (member, *_) in self.members.items():
            assert not any(member.stamps) or connection in self.spoke

    @invariant()
    def empty_rooms_are_forgotten(self):
        assert set(self.hub.rooms) == {room for _, room, _, _ in self.members.values()}


TestRooms = Rooms.TestCase
TestRooms.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(size=st.integers(1, 5), speakers=st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_what_members_say_to_all_in_one_tick_reaches_each_as_if_it_were_put_together_for_it_alone(
    size, speakers
):
    def identity(number: int) -> Identity:
        return Identity(account_id=str(number), name="n", nick="", profile=b"{}", updated_at=None)

    members = [
        Member(
            connection_id=str(number), identity=identity(number), joined_at=0.0, dialect=Dialect.GUIDE,
            room=None, outlet=Reader(),
        )
        for number in range(size)
    ]  # fmt: skip
    elsewhere = Presence(connection_id="elsewhere", identity=identity(size), joined_at=0.0)

    def outlet(sender: Presence) -> Outlet | None:
        return None if sender is elsewhere else sender.outlet

    senders = [members[number] if number < size else elsewhere for number in speakers]
    talk, said = Talk(outlet(senders[0])), []
    for number, sender in enumerate(senders):
        envelope = Envelope(type="x", data=b"%d" % 10**number, sender=sender, received_at=1.0)
        talk.add(outlet(sender), envelope, *envelope.encode(Dialect.GUIDE))
        said.append((envelope, None))
    shares, deliveries, total = talk.put_together([member.outlet for member in members])
    got = [(outlet, list(frames)) for outlets, frames in shares for outlet in outlets]
    expected = {member.outlet: for_one(member, said) for member in members}
    assert sorted(map(id, dict(got))) == sorted(id(outlet) for outlet, _ in got)
    assert dict(got) == {outlet: frames for outlet, frames in expected.items() if frames}
    assert deliveries == sum(map(len, expected.values()))
    assert total == sum(payload_size(frame) for frames in expected.values() for frame in frames)
    assert talk.envelopes == [envelope for envelope, _ in said]
    assert [for_one(member, talk.said(Dialect.GUIDE)) for member in members] == list(expected.values())
