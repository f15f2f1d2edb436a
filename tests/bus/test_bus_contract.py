"""What a room promises holds wherever its people are connected: one suite for every bus."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.bus.nats_client import Access
from sidecar.signaling.packets import PacketError, PacketErrorCode
from tests.bus.bus_cluster import Cluster, Replica
from tests.bus.nats_server import run_nats
from tests.harness import guid, until


@pytest.fixture
def room():
    return guid()


class TestOnOneReplica:
    @pytest.fixture
    async def cluster(self):
        return Cluster([Replica(None)])

    async def test_who_joins_is_told_of_everyone_there_and_everyone_there_of_them(self, cluster, room):
        a = await cluster[0].join(room, name="alice")
        b = await cluster[1].join(room, name="bob")
        c = await cluster[2].join(room, name="carol")
        assert [p.identity.name for p in b.welcome] == ["alice"]
        assert [p.identity.name for p in c.welcome] == ["alice", "bob"]
        assert c.welcome[0].connection_ids == [a.connection]
        await cluster.flush()
        assert a.presence() == [("user-joined", b.account), ("user-joined", c.account)]
        assert b.presence() == [("user-joined", c.account)]
        assert c.presence() == []

    async def test_an_account_joins_and_leaves_once_however_many_devices_it_has_and_wherever(
        self, cluster, room
    ):
        watcher = await cluster[0].join(room)
        account = guid()
        first = await cluster[0].join(room, account)
        await cluster.flush()
        second = await cluster[1].join(room, account)
        await cluster.flush()
        third = await cluster[2].join(room, account)
        await cluster.flush()
        assert {p.identity.account_id for p in third.welcome} == {watcher.account, account}
        for device in (first, third, second):
            device.leave()
            await cluster.flush()
        assert watcher.presence() == [
            ("user-joined", account),
            ("connection-joined", account),
            ("connection-joined", account),
            ("connection-left", account),
            ("connection-left", account),
            ("user-left", account),
        ]
        assert watcher.sees() == {}

    async def test_what_is_said_to_all_reaches_everyone_else_once_in_the_order_said(self, cluster, room):
        people = [await cluster[number].join(room) for number in range(6)]
        await cluster.flush()
        for number in range(50):
            people[0].say("offer", number)
        await cluster.flush()
        assert people[0].data() == []
        for person in people[1:]:
            assert person.data() == list(range(50))
            assert {p["senderConnectionId"] for p in person.heard("offer")} == {people[0].connection}

    async def test_a_packet_carries_who_sent_it(self, cluster, room):
        alice = await cluster[0].join(room, name='Ålice "quoted"')
        bob = await cluster[1].join(room)
        await cluster.flush()
        alice.say("offer", {"sdp": "ünï\u2028"})
        await cluster.flush()
        (packet,) = bob.heard("offer")
        assert packet["data"] == {"sdp": "ünï\u2028"}
        assert packet["senderAccountId"] == alice.account
        assert packet["senderInfo"] == {
            "id": alice.account, "name": 'Ålice "quoted"', "nick": "", "profile": {}, "updatedAt": None,
        }  # fmt: skip

    async def test_a_message_to_an_account_reaches_its_devices_wherever_they_are_and_nobody_else(
        self, cluster, room
    ):
        alice = await cluster[0].join(room)
        bob = [
            await cluster[number].join(room, alice.account if number == 5 else "b" * 8 + guid()[8:])
            for number in (1,)
        ]
        account = bob[0].account
        bob.append(await cluster[2].join(room, account))
        carol = await cluster[1].join(room)
        await cluster.flush()
        alice.say("offer", "for bob", to=account)
        await cluster.flush()
        assert [device.data() for device in bob] == [["for bob"], ["for bob"]]
        assert bob[0].heard("offer")[0]["to"] == account
        assert carol.data() == []

    async def test_a_message_to_one_connection_reaches_it_alone(self, cluster, room):
        alice = await cluster[0].join(room)
        account = guid()
        phone, desk = await cluster[1].join(room, account), await cluster[2].join(room, account)
        await cluster.flush()
        alice.say("offer", 1, to_connection=desk.connection)
        alice.say("offer", 2, to=account, to_connection=phone.connection)
        await cluster.flush()
        assert phone.data() == [2]
        assert desk.data() == [1]

    async def test_ones_own_devices_elsewhere_get_what_one_says(self, cluster, room):
        account = guid()
        phone, desk = await cluster[0].join(room, account), await cluster[1].join(room, account)
        await cluster.flush()
        phone.say("offer", "to all")
        phone.say("offer", "to myself", to=account)
        await cluster.flush()
        assert desk.data() == ["to all", "to myself"]
        assert phone.data() == []

    async def test_nobody_there_is_told_to_the_sender(self, cluster, room):
        alice = await cluster[0].join(room)
        bob = await cluster[1].join(room)
        await cluster.flush()
        for to, to_connection in (
            (guid(), None),
            (None, guid()),
            (alice.account, None),
            (guid(), bob.connection),
        ):
            with pytest.raises(PacketError) as refused:
                alice.say("offer", to=to, to_connection=to_connection)
            assert refused.value.code is PacketErrorCode.TARGET_NOT_IN_ROOM
        bob.leave()
        await cluster.flush()
        with pytest.raises(PacketError):
            alice.say("offer", to=bob.account)

    async def test_rooms_do_not_hear_each_other(self, cluster):
        one, other = guid(), guid()
        alice, bob = await cluster[0].join(one), await cluster[1].join(one)
        eve, mallory = await cluster[0].join(other), await cluster[1].join(other)
        await cluster.flush()
        alice.say("offer", "private")
        await cluster.flush()
        assert bob.data() == ["private"]
        assert eve.data() == mallory.data() == []
        assert eve.presence() == [("user-joined", mallory.account)]
        with pytest.raises(PacketError):
            eve.say("offer", to=alice.account)

    async def test_a_changed_name_is_on_later_packets_everywhere(self, cluster, room):
        alice, bob = await cluster[0].join(room, name="old"), await cluster[1].join(room)
        await cluster.flush()
        alice.say("offer")  # from here on her stamps are kept
        await cluster.flush()
        identity = alice.member.identity
        renamed = type(identity)(
            account_id=identity.account_id, name="new", nick="n", profile=b'{"a":1}', updated_at=5.0
        )
        alice.member.room.identify(alice.member, renamed)
        alice.say("offer")
        await cluster.flush()
        before, info = (offer["senderInfo"] for offer in bob.heard("offer"))
        assert (before["name"], before["nick"]) == ("old", "")
        assert (info["name"], info["nick"], info["profile"]) == ("new", "n", {"a": 1})
        assert bob.presence() == []

    async def test_people_who_join_at_the_same_time_see_each_other_exactly_once(self, cluster, room):
        people = await asyncio.gather(*(cluster[number].join(room) for number in range(12)))
        everyone = {person.account: {person.connection} for person in people}
        await until(lambda: all(len(p.sees()) == 11 for p in people), "everyone sees everyone")
        await cluster.flush()
        for person in people:
            assert person.sees() == {a: c for a, c in everyone.items() if a != person.account}

    async def test_a_storm_of_joins_leaves_and_signals_ends_with_everyone_of_one_mind(self, cluster, room):
        account = guid()
        stays = [await cluster[number].join(room) for number in range(3)]

        async def come_and_go(number: int) -> None:
            for turn in range(10):
                person = await cluster[number + turn].join(room, account if number % 2 else None)
                for count in range(3):
                    person.say("offer", [number, turn, count])
                    await asyncio.sleep(0)
                person.leave()

        await asyncio.gather(*(come_and_go(number) for number in range(10)))
        ids = {person.account: {person.connection} for person in stays}
        for person in stays:
            expected = {a: c for a, c in ids.items() if a != person.account}
            await until(lambda p=person, e=expected: p.sees() == e, "presence converged")
        await cluster.flush()
        for person in stays:
            heard: dict[str, list[int]] = {}
            for packet in person.heard("offer"):
                heard.setdefault(packet["senderConnectionId"], []).append(packet["data"][2])
            assert all(counts == sorted(set(counts)) for counts in heard.values())

    async def test_a_room_that_was_empty_begins_anew(self, cluster, room):
        for _ in range(3):
            a, b = await cluster[0].join(room), await cluster[1].join(room)
            assert [p.identity.account_id for p in b.welcome] == [a.account]
            await cluster.flush()
            a.say("offer", "x")
            await cluster.flush()
            assert b.data() == ["x"]
            a.leave()
            b.leave()
            await cluster.flush()
        assert all(not replica.hub.rooms for replica in cluster.replicas)


class TestOnThreeReplicas(TestOnOneReplica):
    @pytest.fixture
    async def cluster(self, tmp_path):
        async with run_nats(tmp_path) as nats:
            async with Cluster([Replica(Access(servers=[nats.url])) for _ in range(3)]) as cluster:
                yield cluster
