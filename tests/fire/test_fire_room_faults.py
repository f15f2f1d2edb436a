"""A bug in what a room does for many at once costs no one a packet but those it ends; `faults.py` throws them."""

from __future__ import annotations

import contextlib
import os
import socket
from unittest import mock

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bench.path import client_frame
from sidecar import errors
from sidecar.signaling.outlet import NO_FD, Outlet, write_to
from tests.fire.faults import Fault, Injected, World, one_world
from tests.harness import Client, guid, until

BUG = ["connection failed"]
"""The log after one: one line with a trace."""


@pytest.fixture
async def world(issuer):
    async with one_world(issuer) as inside:
        yield inside


@pytest.fixture
async def trio(world):
    """Three in a room, who have heard of each other."""
    room = guid()
    a, b, c = people = [await world.join(room) for _ in range(3)]
    for client, others in ((a, (b, c)), (b, (c,))):
        for other in others:
            assert (await client.receive_signal("user-joined"))["senderConnectionId"] == other.connection_id
    yield people
    for client in people:
        client.ws.transport.abort()
    await world.nothing_left()


async def signals(client: Client, number: int) -> list[tuple[str, str]]:
    """Type and sender of the next packets, all of them signals."""
    packets = [(await client.receive())["data"] for _ in range(number)]
    return [(packet["type"], packet["senderConnectionId"]) for packet in packets]


def say(world: World, a: Client, offers: int) -> None:
    """`a` says `offers` in one read: several are put together, one into silence is written at once."""
    world.running.connections.by_id[a.connection_id].data_received(client_frame() * offers)


def say_to(world: World, a: Client, b: Client) -> None:
    """`a` says one offer to `b` alone."""
    frame = client_frame(to=b.account)
    world.running.connections.by_id[a.connection_id].data_received(frame)


async def fail_to_write(world: World, a: Client, b: Client, *, offers: int = 1) -> None:
    """`a` says `offers` in one read, a bug keeps them from `b`, and that ends `b`."""
    broken = world.running.connections.by_id[b.connection_id].fd

    def write(fd: int, data: bytes) -> int:
        if fd == broken:
            raise Injected
        return os.write(fd, data)

    with mock.patch("sidecar.signaling.outlet.write", write):
        say(world, a, offers)
        assert (await b.closed())[0] == 1011


async def assert_talk(a: Client, b: Client) -> None:
    mark = guid()
    await a.send({"type": "offer", "data": mark})
    while (await b.receive_signal("offer"))["data"] != mark:
        pass
    await b.send({"type": "answer", "data": mark, "to": a.account})
    assert (await a.receive_signal("answer"))["data"] == mark


async def assert_sees_only(a: Client, newcomer: Client) -> None:
    """What `a` was told up to the newcomer's coming leaves the newcomer alone with it."""
    present = set()
    while newcomer.connection_id not in present:
        data = (await a.receive())["data"]
        if data["type"] == "user-joined":
            present.add(data["senderConnectionId"])
        elif data["type"] == "user-left":
            present.remove(data["senderConnectionId"])
    assert present == {newcomer.connection_id}


@pytest.mark.parametrize("offers", [1, 2])
async def test_a_receiver_whose_write_fails_ends_alone_and_the_others_get_everything(world, trio, offers):
    a, b, c = trio
    await fail_to_write(world, a, b, offers=offers)
    said = [("offer", a.connection_id)] * offers
    assert await signals(c, offers + 1) == [*said, ("user-left", b.connection_id)]
    assert await signals(a, 1) == [("user-left", b.connection_id)]
    await assert_talk(a, c)
    assert world.traces() == BUG


async def test_of_two_a_receiver_whose_write_fails_ends_alone(world):
    room = guid()
    a, b = await world.join(room), await world.join(room)
    assert await signals(a, 1) == [("user-joined", b.connection_id)]
    await fail_to_write(world, a, b)
    assert await signals(a, 1) == [("user-left", b.connection_id)]
    assert world.traces() == BUG


@pytest.mark.parametrize("taken", [0, 1, 100, None])
async def test_what_a_socket_does_not_take_is_sent_all_the_same(world, trio, taken):
    """None: it says so by an error."""
    a, b, c = trio

    def write(fd: int, data: bytes) -> int:
        if taken is None:
            raise BlockingIOError
        return os.write(fd, data[:taken])

    with mock.patch("sidecar.signaling.outlet.write", write):
        for offers in (1, 2, 1):
            say(world, a, offers)
        say_to(world, a, b)
        assert await signals(b, 5) == [("offer", a.connection_id)] * 5
        assert await signals(c, 4) == [("offer", a.connection_id)] * 4
    await assert_talk(b, c)
    assert world.traces() == []


class Slow(Outlet):
    """Keeps what its socket does not take."""

    def __init__(self, taken_by: socket.socket) -> None:
        super().__init__()
        self.fd = taken_by.fileno()
        self.kept: list[memoryview] = []

    def write(self, data: memoryview) -> None:
        self.kept.append(data)

    def fail(self, error: Exception) -> None:
        raise error


def test_what_sockets_do_not_take_is_kept_once_for_all():
    data = bytes(4_000_000)
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(one) for _ in range(2) for one in socket.socketpair()]
        for one in sockets:
            one.setblocking(False)
        slow = [Slow(one) for one in sockets[::2]]
        write_to(slow, data, 1)
    for outlet in slow:
        (rest,) = outlet.kept
        assert 0 < len(rest) < len(data)
        assert rest.obj is data


@pytest.mark.parametrize("end", ["it resets", "it closes", "it is cut"])
async def test_a_socket_is_closed_only_after_rooms_have_let_go_of_it(world, trio, monkeypatch, end):
    """Its number may be another connection's at once."""
    a, b, _ = trio
    connection = world.running.connections.by_id[b.connection_id]
    fd, told = connection.fd, []
    inode = os.fstat(fd).st_ino
    lost = type(connection).connection_lost

    def connection_lost(self, error):
        lost(self, error)
        if self is connection:
            told.append((self.fd, os.fstat(fd).st_ino))

    monkeypatch.setattr(type(connection), "connection_lost", connection_lost)
    if end == "it resets":
        b.ws.transport.abort()
    elif end == "it closes":
        await b.ws.close()
    else:
        connection.cut(errors.SLOW_CONSUMER)
    await a.receive_signal("user-left")
    await until(lambda: told, "the connection is lost")
    assert told == [(NO_FD, inode)]


async def test_to_write_to_who_was_cut_a_moment_ago_is_no_bug(world):
    room = guid()
    a, b = await world.join(room), await world.join(room)
    assert await signals(a, 1) == [("user-joined", b.connection_id)]
    here = world.running.connections.by_id
    here[b.connection_id]._transport.abort()
    here[a.connection_id].on_message(b'{"type":"offer","data":{}}', text=True, last=True)
    assert await signals(a, 1) == [("user-left", b.connection_id)]
    assert world.traces() == []


async def test_a_signal_that_cannot_be_encoded_ends_its_sender_and_the_rest_of_the_tick_is_delivered(
    world, trio
):
    a, b, c = trio
    with Fault(function="Envelope.encode", when=lambda given: given["self"].type == "offer") as bug:
        await a.send({"type": "before", "data": {}})
        await a.send({"type": "offer", "data": {}})
        await b.send({"type": "beside", "data": {}})
        assert (await a.closed())[0] == 1011
    assert bug.thrown
    assert await signals(b, 2) == [("before", a.connection_id), ("user-left", a.connection_id)]
    assert sorted(await signals(c, 3)) == sorted(
        [("before", a.connection_id), ("beside", b.connection_id), ("user-left", a.connection_id)]
    )
    await assert_talk(b, c)
    assert world.traces() == BUG


@pytest.mark.parametrize("function", ["Talk.put_together", "put_together"])
async def test_what_cannot_be_put_together_for_all_is_put_together_for_each_and_ends_nobody(
    world, trio, function
):
    a, b, c = trio
    with Fault(function=function) as bug:
        say(world, a, 2)
        if function == "put_together":  # there is more than what is said to all
            say_to(world, a, c)
        await until(lambda: bug.thrown, "the bug")
    for client in (b, c):
        assert await signals(client, 2) == [("offer", a.connection_id)] * 2
    if function == "put_together":
        assert await signals(c, 1) == [("offer", a.connection_id)]
    assert world.traces() == ["work at the end of a tick failed"]
    await assert_talk(b, c)
    await assert_talk(c, a)
    assert len(world.traces()) == 1


async def test_of_two_what_cannot_be_put_together_is_put_together_for_each_and_ends_nobody(world):
    room = guid()
    a, b = await world.join(room), await world.join(room)
    assert await signals(a, 1) == [("user-joined", b.connection_id)]
    with Fault(function="Talk.put_together") as bug:
        say(world, a, 2)
        await until(lambda: bug.thrown, "the bug")
    assert await signals(b, 2) == [("offer", a.connection_id)] * 2
    assert world.traces() == ["work at the end of a tick failed"]
    await assert_talk(a, b)


async def test_who_cannot_be_told_even_by_itself_is_ended_and_the_others_are_told(world):
    room = guid()
    a, b = await world.join(room), await world.join(room)
    c = await world.join(room, dialect="dyson")
    await a.receive_signal("user-joined")
    await a.receive_signal("user-joined")
    world.running.connections.by_id[b.connection_id].member.dialect = "nobody speaks this"
    await a.send({"type": "offer", "data": {}})
    assert (await b.closed())[0] == 1011
    assert (await c.receive())["data"]["type"] == "offer"
    assert (await c.receive())["data"]["type"] == "user-left"
    assert await signals(a, 1) == [("user-left", b.connection_id)]
    await a.send({"type": "offer", "data": {}})
    assert (await c.receive())["data"]["type"] == "offer"
    assert sorted(world.traces()) == ["connection failed", "work at the end of a tick failed"]


@pytest.mark.parametrize(
    "function",
    ["Hub.join", "Member.__init__", "Room.join", "Room._appear", "Envelope.encode", "LocalBus.joined"],
)
async def test_a_join_that_fails_leaves_nobody_half_in_the_room(world, function):
    room = guid()
    a = await world.join(room)
    with Fault(function=function) as bug, pytest.raises((InvalidHandshake, ConnectionClosed)):
        await world.join(room)
    assert bug.thrown
    b = await world.join(room)
    assert [one["accountId"] for one in b.welcome["participants"]] == [a.account]
    await assert_sees_only(a, b)
    await assert_talk(a, b)
    await leave(world, a, b)
    assert world.traces() == ["handshake failed"]


@pytest.mark.parametrize("function", ["Room.__init__", "LocalBus.open", "Member.__init__", "LocalBus.joined"])
async def test_a_first_join_that_fails_leaves_no_room(world, function):
    room = guid()
    with Fault(function=function) as bug, pytest.raises((InvalidHandshake, ConnectionClosed)):
        await world.join(room)
    assert bug.thrown
    await world.nothing_left()
    assert not world.running.connections._hub._counters._sharing
    a, b = await world.join(room), await world.join(room)
    await assert_talk(a, b)
    await leave(world, a, b)


async def test_who_leaves_is_out_of_the_room_even_if_the_bus_fails_to_tell_of_it(world):
    room = guid()
    a, b = await world.join(room), await world.join(room)
    with Fault(function="LocalBus.left") as bug:
        await b.close()
        await a.receive_signal("user-left")
    assert bug.thrown
    assert world.traces() == BUG
    c = await world.join(room)
    assert [one["accountId"] for one in c.welcome["participants"]] == [a.account]
    await assert_talk(a, c)


async def leave(world: World, *clients: Client) -> None:
    for client in clients:
        await client.close()
    await world.nothing_left()
