"""Sessions that ended before a replica started: those of a token without `exp` count for as long as they are known."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import nats
import pytest
from structlog.testing import capture_logs

from sidecar.bus.digests import Digests, digest_of
from sidecar.bus.nats_client import Access
from sidecar.bus.sessions import LATELY_SECONDS, RevokedSessions, SessionEvents
from sidecar.bus.stream import StreamReader
from tests.bus.bus_cluster import Replica
from tests.bus.nats_server import run_nats
from tests.harness import guid, until

SUBJECT, STREAM = "auth.session.revoked", "auth_session_events"


@pytest.fixture
async def server(tmp_path):
    async with run_nats(tmp_path) as running:
        yield running


@pytest.fixture
async def publisher(server):
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(name=STREAM, subjects=["auth.session.>"])
    yield client
    await client.close()


@contextlib.asynccontextmanager
async def listening(server, *, days_later: float = 0):
    revoked, told = RevokedSessions(), []
    events = SessionEvents(
        subject=SUBJECT,
        stream=STREAM,
        revoked=revoked,
        on_revoked=lambda sessions: told.append(sorted(sessions)),
        on_bad_event=lambda: None,
        wall_clock=lambda: time.time() + days_later * 24 * 3600,
    )
    replica = Replica(Access(servers=[server.url]), followers=[events])
    await replica.start()
    try:
        yield events, revoked, told
    finally:
        await replica.close()


async def test_a_listener_that_fails_takes_its_subscription_along(server, monkeypatch):
    bad, client = [], await nats.connect(server.url)
    events = SessionEvents(
        subject=SUBJECT,
        stream=STREAM,
        revoked=RevokedSessions(),
        on_revoked=lambda _sessions: None,
        on_bad_event=lambda: bad.append(1),
    )
    with monkeypatch.context() as broken:
        broken.setattr(StreamReader, "read", None)  # to call it fails
        for _ in range(3):
            with pytest.raises(ExceptionGroup):
                await events.follow(client)
    following = asyncio.create_task(events.follow(client))
    await asyncio.wait_for(events.caught_up.wait(), 10)
    await client.publish(SUBJECT, b"no event")
    await until(lambda: bad)
    await client.flush()
    assert bad == [1]  # heard once, not four times
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await client.close()


def ended(session: str) -> bytes:
    return json.dumps({"session_id": session}).encode()


async def test_a_session_that_ended_days_before_the_start_is_known_and_told_as_one_that_ends_now_is(
    server, publisher
):
    old, new = guid(), guid()
    await publisher.jetstream().publish(SUBJECT, ended(old))
    async with listening(server, days_later=2 + LATELY_SECONDS / 86400) as (events, revoked, told):
        await asyncio.wait_for(events.caught_up.wait(), 10)
        await until(lambda: old in revoked, "the stream read from its beginning")
        await until(lambda: told == [[old]])
        await publisher.publish(SUBJECT, ended(new.upper()))
        await until(lambda: new in revoked)
        await until(lambda: told == [[old], [new]])


async def test_what_ended_lately_is_known_once_it_has_caught_up(server, publisher):
    await publisher.jetstream().publish(SUBJECT, ended(guid()))
    async with listening(server) as (events, revoked, _):
        await asyncio.wait_for(events.caught_up.wait(), 10)
        assert len(revoked) == 1


async def test_of_a_stream_with_more_than_can_be_held_the_latest_are_read(server, publisher):
    for number in range(30):
        await publisher.jetstream().publish(SUBJECT, str(number).encode())
    read, skipped = [], []
    reader = StreamReader(
        stream=STREAM,
        subject=SUBJECT,
        from_time=None,
        at_most=10,
        ends=True,
        on_event=read.append,
        on_skipped=skipped.append,
    )
    reading = asyncio.create_task(reader.read(publisher))
    await asyncio.wait_for(reader.caught_up.wait(), 10)
    assert [int(event) for event in read] == list(range(20, 30))
    assert skipped == [20]
    reading.cancel()
    await asyncio.wait({reading})


async def test_the_longest_ended_are_forgotten_when_there_are_twice_as_many_as_are_held():
    revoked = RevokedSessions(held=10)
    names = [guid() for _ in range(29)]
    with capture_logs() as log:
        for name in names:
            assert revoked.add(name)
    assert [name in revoked for name in names] == [False] * 10 + [True] * 19
    assert not revoked.add(names[-1])
    assert [(line["event"], line["sessions"]) for line in log] == [("ended sessions forgotten", 10)]


def test_digests_are_found_and_others_are_not():
    digests, names = Digests(), [guid() for _ in range(20_000)]
    for name in names + names[:5]:
        digests.add(digest_of(name))
    assert len(digests) == len(names)
    assert all(digest_of(name) in digests for name in names)
    assert not any(digest_of(guid()) in digests for _ in range(20_000))


def test_a_digest_is_not_found_across_two_others():
    digests = Digests()
    for digest in (b"hhabcdef", b"hhghijkl"):
        digests.add(digest)
    assert b"hhghijkl" in digests
    assert b"hhdefghi" not in digests
