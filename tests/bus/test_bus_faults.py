"""The bus cut, silenced, slowed and restarted under rooms; foreign and malformed messages on it."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import nats
import pytest

from sidecar.bus import wire
from sidecar.bus.journal import Journal
from sidecar.bus.nats_client import Access
from sidecar.signaling.packets import PacketError
from tests.bus.bus_cluster import Cluster, Replica
from tests.bus.nats_server import CUT_SECONDS, run_nats
from tests.bus.proxy import run_proxy
from tests.harness import guid, until

TIMEOUT = 2.0


@pytest.fixture
async def server(tmp_path):
    async with run_nats(tmp_path) as running:
        yield running


@pytest.fixture
async def pair(server):
    """Two replicas; the second reaches the bus through a proxy."""
    async with run_proxy(server.port) as proxy, contextlib.AsyncExitStack() as stack:
        replicas = Cluster(
            [Replica(Access(servers=[url]), timeout=TIMEOUT) for url in (server.url, proxy.url)]
        )
        for replica in replicas.replicas:
            await replica.start()
        stack.push_async_callback(replicas.close)
        yield replicas, proxy


async def both(pair, room):
    replicas, proxy = pair
    alice, bob = await replicas[0].join(room), await replicas[1].join(room)
    await replicas.flush()
    return replicas, proxy, alice, bob


async def reached(client: nats.NATS) -> None:
    """Whatever was sent before is with the server: the library's ping may overtake it, but not a second one."""
    await client.flush()
    await client.flush()


async def cut_off(replica: Replica) -> None:
    await until(lambda: not replica.nats.connected, "bus_connected 0")


@pytest.mark.parametrize("how", ["cut", "fall_silent"])
async def test_what_is_said_on_both_sides_of_a_cut_arrives_in_order_and_once(pair, how):
    replicas, proxy, alice, bob = await both(pair, guid())
    alice.say("offer", 0)
    bob.say("answer", 0)
    getattr(proxy, how)()
    for number in range(1, 50):
        alice.say("offer", number)
        bob.say("answer", number)
    await cut_off(replicas[1])
    for number in range(50, 100):
        alice.say("offer", number)
        bob.say("answer", number)
        await asyncio.sleep(CUT_SECONDS / 50)
    proxy.mend()
    await until(lambda: len(alice.data()) >= 100 and len(bob.data()) >= 100, "all of it")
    await replicas.flush()
    assert alice.data() == bob.data() == list(range(100))
    assert replicas[0].noted.gaps == replicas[1].noted.gaps == 0


async def test_a_cut_longer_than_the_timeout_looks_like_a_death_there_and_stands_still_here(pair):
    replicas, proxy, alice, bob = await both(pair, guid())
    proxy.cut()
    await until(lambda: alice.sees() == {}, "bob left, as alice sees it")
    alice.say("offer", "into the silence")
    with pytest.raises(PacketError):
        alice.say("offer", to=bob.account)
    assert bob.sees() == {alice.account: {alice.connection}}
    bob.say("answer", "me too")
    carol = await replicas[1].join(bob.member.room.id)
    assert {p.identity.account_id for p in carol.welcome} == {alice.account, bob.account}
    proxy.mend()
    await until(lambda: len(alice.sees()) == 2 and alice.data() and bob.data(), "one room again")
    await replicas.flush()
    assert alice.data() == ["me too"]
    assert bob.data() == ["into the silence"]
    assert alice.presence()[:2] == [("user-joined", bob.account), ("user-left", bob.account)]
    assert bob.presence() == [("user-joined", carol.account)]


async def test_joins_and_leaves_during_a_cut_are_told_after_it(pair):
    room = guid()
    replicas, proxy, alice, bob = await both(pair, room)
    proxy.cut()
    await cut_off(replicas[1])
    alice.leave()
    carol = await replicas[0].join(room)
    dave = await replicas[1].join(room)
    proxy.mend()
    await until(lambda: bob.sees() == {carol.account: {carol.connection}, dave.account: {dave.connection}})
    await until(lambda: len(carol.sees()) == 2)
    assert bob.presence() == [
        ("user-joined", dave.account), ("user-left", alice.account), ("user-joined", carol.account),
    ]  # fmt: skip


async def test_what_is_no_longer_kept_is_counted_as_a_gap_and_presence_is_right(server):
    async with run_proxy(server.port) as proxy:
        replicas = Cluster([
            Replica(Access(servers=[server.url]), timeout=TIMEOUT, journal=Journal(kept_bytes=2000)),
            Replica(Access(servers=[proxy.url]), timeout=TIMEOUT),
        ])  # fmt: skip
        for replica in replicas.replicas:
            await replica.start()
        _, _, alice, bob = await both((replicas, proxy), guid())
        proxy.cut()
        await cut_off(replicas[1])
        for number in range(100):
            alice.say("offer", number)
        carol = await replicas[0].join(alice.member.room.id)
        proxy.mend()
        await until(lambda: carol.account in bob.sees())
        assert bob.data() == []
        assert replicas[1].noted.gaps == 1
        alice.say("offer", "on we go")
        await until(bob.data)
        assert bob.data() == ["on we go"]
        await replicas.close()


async def test_a_room_opened_while_the_bus_was_away_is_whole_when_it_is_back(pair):
    replicas, proxy = pair
    proxy.cut()
    await cut_off(replicas[1])
    room = guid()
    alice, bob = await replicas[0].join(room), await replicas[1].join(room)
    assert bob.welcome == []
    proxy.mend()
    await until(lambda: bob.sees() == {alice.account: {alice.connection}})
    await until(lambda: alice.sees() == {bob.account: {bob.connection}})
    bob.say("offer", 1, to=alice.account)
    await until(alice.data)


async def test_a_server_that_stalls_is_waited_for_and_nothing_is_lost(pair, server):
    replicas, _, alice, bob = await both(pair, guid())
    server.stall()
    try:
        for number in range(100):
            alice.say("offer", number)
        await cut_off(replicas[0])
        await cut_off(replicas[1])
        for number in range(100, 200):
            alice.say("offer", number)
    finally:
        server.go_on()
    await until(lambda: len(bob.data()) >= 200)
    await replicas.flush()
    assert bob.data() == list(range(200))


async def test_a_slow_bus_changes_nothing_but_the_time(pair):
    replicas, proxy, alice, bob = await both(pair, guid())
    proxy.delay_seconds = 0.2
    for number in range(300):
        alice.say("offer", {"sdp": "x" * 1000, "n": number})
    await until(lambda: len(bob.data()) >= 300)
    assert [data["n"] for data in bob.data()] == list(range(300))
    assert replicas[1].noted.gaps == 0


async def test_more_than_may_wait_to_be_sent_is_dropped_and_made_up_for(pair):
    replicas, _, alice, bob = await both(pair, guid())
    for number in range(200):  # in one tick, so that none of it can be sent in between
        alice.say("offer", {"sdp": "x" * 65000, "n": number})
    assert replicas[0].noted.drops["backlog"] > 0
    await until(lambda: len(bob.data()) >= 200)
    assert [data["n"] for data in bob.data()] == list(range(200))


async def test_a_signal_too_big_for_the_server_is_dropped_and_those_after_it_arrive(pair):
    replicas, _, alice, bob = await both(pair, guid())
    alice.say("offer", "x" * 2_000_000)
    alice.say("offer", "after it")
    await until(bob.data)
    assert bob.data() == ["after it"]
    assert replicas[0].noted.drops["too_big"] == 1


async def test_a_crowded_room_is_told_to_who_opens_it_where_the_server_takes_small_messages_only(tmp_path):
    async with run_nats(tmp_path, "max_payload: 65536") as server:
        async with Cluster([Replica(Access(servers=[server.url])) for _ in range(2)]) as replicas:
            room = guid()
            people = [await replicas[0].join(room, name="x" * 2000) for _ in range(100)]
            newcomer = await replicas[1].join(room)
            await until(lambda: len(newcomer.sees()) == len(people))
            await until(lambda: all(person.sees().get(newcomer.account) for person in people))


async def test_foreign_and_malformed_messages_are_dropped_and_counted_and_forge_nobody(pair, server):
    room, other = guid(), guid()
    replicas, _, alice, bob = await both(pair, room)
    eve = await replicas[0].join(other)
    mallory = await replicas[1].join(other)
    await replicas.flush()
    seen = []

    async def note(message):
        seen.append(message)

    outside = await nats.connect(server.url)
    await outside.subscribe("sphere.>", cb=note)
    await reached(outside)
    alice.say("offer", "real")
    await until(lambda: any(b"real" in message.data for message in seen))
    (real,) = [message for message in seen if b"real" in message.data]
    said = wire.decode(real.data)
    origin, epoch, nobody = said.origin, said.epoch, guid()
    info = msgspec.json.encode(
        {"id": alice.account, "name": "", "nick": "", "profile": {}, "updatedAt": None}
    )

    def forged(**changes) -> bytes:
        return wire.encode(msgspec.structs.replace(said, **({"seq": said.seq + 1} | changes)))

    unreadable = [
        b"", b"hello", b'{"type":"offer","senderAccountId":"x"}', b"\x01", b"\x01\x93\x01", b"\x02" + real.data[1:],
        b"\x01" + b"\x91" * 5000, real.data[:-3], real.data + b"x",
        forged(data=b"{not json"), forged(data=b'"\xff"'), forged(type='x","senderAccountId":"y'), forged(to="*"),
        forged(origin="a.b >"), forged(origin=""),
        wire.encode(wire.Joined(guid()[:8], room, 1, 1, guid(), guid(), "n", info, 1.0)),
        wire.encode(wire.Joined("beef", room, 1, 1, "x", alice.account, "n", info, 1.0)),
        wire.encode(wire.Joined("beef", room, 1, 2, guid(), alice.account, "n", b'{"id":1}', 1.0)),
    ]  # fmt: skip
    unusable = [
        real.data,  # said already
        forged(connection=nobody),  # a sender its replica never told of
        forged(origin="cafe", epoch=1, seq=1),  # a replica nobody knows, in alice's name
        wire.encode(wire.Joined("cafe", room, 1, 2, alice.connection, alice.account, "n", info, 1.0)),
    ]
    before = sum(replicas[1].noted.drops.values())
    for payload in unreadable + unusable:
        await outside.publish(real.subject, payload)
    await outside.publish(f"sphere.room.{other}", real.data)  # into a room it was not said in
    await reached(outside)
    await replicas.flush()
    assert sum(replicas[1].noted.drops.values()) - before == len(unreadable) + len(unusable) + 1
    assert bob.data() == ["real"]
    assert alice.data() == eve.data() == mallory.data() == []
    assert bob.sees() == {alice.account: {alice.connection}}
    assert mallory.sees() == {eve.account: {eve.connection}}
    assert (origin, epoch) == (replicas[0].spanning.me, said.epoch)
    await outside.close()


async def test_a_signal_crosses_the_bus_once_and_one_for_this_replica_alone_does_not(pair, server):
    replicas, _, alice, bob = await both(pair, guid())
    room = alice.member.room.id
    here = await replicas[0].join(room)
    await replicas[1].join(room)
    await replicas[1].join(room)
    await replicas.flush()
    crossed = []

    async def note(message):
        crossed.append(message)

    outside = await nats.connect(server.url)
    await outside.subscribe(f"sphere.room.{room}", cb=note)
    await reached(outside)
    sent = replicas[0].noted.sent
    alice.say("offer", "to all")
    alice.say("offer", "to bob", to=bob.account)
    alice.say("offer", "stays here", to=here.account)
    await replicas.flush()
    await until(lambda: len(bob.data()) == 2)
    assert replicas[0].noted.sent - sent == 2
    said = [message for message in crossed if isinstance(wire.decode(message.data), wire.Said)]
    assert len(said) == 2
    assert here.data() == ["to all", "stays here"]
    await outside.close()
