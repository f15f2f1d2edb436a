"""Series of rooms: which rooms have their own, what the rest share, and when they go."""

from __future__ import annotations

import asyncio
import tracemalloc

from tests.harness import guid
from tests.observe.rooms import Clock, hub_of, join, metrics_of, samples, say

KINDS = ("offer", "answer", "ice-candidate", "other")


def of(found: dict[str, float], name: str, room: str) -> float | None:
    return found.get(f'{name}{{room="{room}"}}')


def received(found: dict[str, float], room: str, kind: str = "offer") -> float | None:
    return found.get(f'room_messages_received_total{{room="{room}",type="{kind}"}}')


def total(found: dict[str, float], name: str) -> float:
    return sum(value for key, value in found.items() if key.startswith(name + "{"))


async def test_a_room_counts_what_was_received_and_what_was_delivered():
    metrics = metrics_of()
    hub, room = hub_of(metrics), guid()
    account = guid()
    first, second, _third = join(hub, room), join(hub, room, account), join(hub, room, account)
    for kind in ("offer", "answer", "ice-candidate", "hang-up"):
        say(first, kind, size=10)
    say(second, "ice-candidate", size=5)
    found = await samples(metrics)
    assert of(found, "room_connections", room) == 3
    assert of(found, "room_participants", room) == 2
    assert [received(found, room, kind) for kind in KINDS] == [1, 1, 2, 1]
    assert of(found, "room_messages_delivered_total", room) == 5 * 2
    assert of(found, "room_bytes_received_total", room) == 4 * 10 + 5
    assert of(found, "room_bytes_delivered_total", room) > 0
    assert found["rooms"] == 1


async def test_presence_is_not_counted_as_traffic():
    metrics = metrics_of()
    hub, room = hub_of(metrics), guid()
    join(hub, room)
    hub.leave(join(hub, room))
    found = await samples(metrics)
    assert total(found, "room_messages_received_total") == 0
    assert of(found, "room_messages_delivered_total", room) == 0


async def test_a_rooms_series_go_five_minutes_after_it_is_empty_and_not_before():
    clock = Clock()
    metrics = metrics_of(clock=clock)
    hub, room = hub_of(metrics), guid()
    member = join(hub, room)
    clock.now += 10_000
    hub.leave(member)
    clock.now += 299
    found = await samples(metrics)
    assert of(found, "room_connections", room) == 0
    assert received(found, room) == 0
    clock.now += 2
    assert not [name for name in await samples(metrics) if room in name]


async def test_a_room_that_fills_again_in_time_counts_on_where_it_was():
    clock = Clock()
    metrics = metrics_of(clock=clock)
    hub, room = hub_of(metrics), guid()
    first, second = join(hub, room), join(hub, room)
    say(first)
    hub.leave(first)
    hub.leave(second)
    clock.now += 299
    first = join(hub, room)
    clock.now += 1000
    say(first)
    assert received(await samples(metrics), room) == 2


async def test_rooms_beyond_the_cap_share_one_label_and_the_totals_are_right():
    metrics = metrics_of(max_rooms=2)
    hub, rooms = hub_of(metrics), [guid() for _ in range(5)]
    members = [(join(hub, room), join(hub, room)) for room in rooms]
    for number, (member, _) in enumerate(members, start=1):
        for _ in range(number):
            say(member, size=7)
    found = await samples(metrics)
    assert [received(found, room) for room in rooms] == [1, 2, None, None, None]
    assert received(found, "other") == 3 + 4 + 5
    assert of(found, "room_connections", "other") == 6
    assert of(found, "room_participants", "other") == 6
    assert total(found, "room_connections") == 10
    assert total(found, "room_messages_delivered_total") == 15
    assert total(found, "room_bytes_received_total") == 15 * 7


async def test_a_room_that_gets_a_place_counts_there_from_then_on_and_no_counter_goes_back():
    clock = Clock()
    metrics = metrics_of(max_rooms=1, clock=clock)
    hub, early, late = hub_of(metrics), guid(), guid()
    leaving = join(hub, early)
    staying, _ = join(hub, late), join(hub, late)
    say(staying)
    say(staying)
    before = await samples(metrics)
    assert received(before, "other") == 2
    hub.leave(leaving)
    clock.now += 301
    moved = await samples(metrics)
    assert received(moved, "other") == 2
    assert received(moved, late) == 0
    assert of(moved, "room_connections", "other") == 0
    assert of(moved, "room_connections", late) == 2
    say(staying)
    after = await samples(metrics)
    assert received(after, "other") == 2
    assert received(after, late) == 1
    assert total(after, "room_messages_received_total") == 3


async def test_a_room_that_comes_back_without_a_place_counts_with_the_others():
    clock = Clock()
    metrics = metrics_of(max_rooms=1, clock=clock)
    hub, first, second = hub_of(metrics), guid(), guid()
    hub.leave(join(hub, first))
    clock.now += 301
    join(hub, second)
    member, _ = join(hub, first), join(hub, first)
    say(member)
    found = await samples(metrics)
    assert of(found, "room_connections", second) == 1
    assert received(found, first) is None
    assert received(found, "other") == 1


async def test_the_label_can_be_off():
    metrics = metrics_of(room_label=False)
    hub = hub_of(metrics)
    join(hub, guid())
    found = await samples(metrics)
    assert found["rooms"] == 1
    assert not [name for name in found if name.startswith("room_")]


async def test_totals_over_all_rooms_never_go_back():
    clock = Clock()
    metrics = metrics_of(max_rooms=2, clock=clock)
    hub, seen = hub_of(metrics), 0
    for _ in range(20):
        members = [join(hub, guid()) for _ in range(3)]
        for member in members:
            join(hub, member.room.id)
            say(member)
            seen += 1
        for member in members:
            for there in list(member.room.members.values()):
                hub.leave(there)
        clock.now += 150
        await samples(metrics)
        assert sum(metrics.rooms.totals().received.values()) == seen


async def test_100_000_rooms_coming_and_going_leave_memory_and_page_as_they_were():
    clock = Clock()
    metrics = metrics_of(max_rooms=200, clock=clock)
    hub = hub_of(metrics)

    def churn(rooms: int) -> None:
        for _ in range(rooms):
            member = join(hub, guid())
            say(member)
            hub.leave(member)
            member.room.flush()  # the end of the tick
            clock.now += 0.05

    churn(10_000)
    page_before, _ = await metrics.page("")
    tracemalloc.start()
    try:
        churn(1_000)
        before, _ = tracemalloc.get_traced_memory()
        churn(1_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    churn(88_000)
    page_after, _ = await metrics.page("")
    assert abs(after - before) < 100_000, "bytes kept of 1,000 rooms that are gone"
    assert page_after.count(b"\n") == page_before.count(b"\n")
    assert page_after.count(b"room_connections{") <= 201
    clock.now += 301
    page, _ = await metrics.page("")
    assert page.count(b"room_connections{") == 1, "`other` alone stays"


async def test_the_loop_has_its_turn_while_a_page_of_many_rooms_is_made():
    metrics = metrics_of()
    hub = hub_of(metrics)
    for _ in range(1_000):
        join(hub, guid())
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count_turns())
    page, _ = await metrics.page("")
    counting.cancel()
    assert page.count(b"room_connections{") == 1_000
    assert turns >= 9
