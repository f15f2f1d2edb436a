from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest
from cryptography import x509

from sidecar._proto.dyson.chat.v1 import membership_pb2 as pb
from sidecar.membership.model import MemberKey
from sidecar.membership.service import (
    Changed,
    CursorMoved,
    CursorTooOld,
    MaybeChanged,
    Reason,
    Unavailable,
    WatchStarted,
    WatchUnimplemented,
)
from tests.authority import Authority
from tests.chat_service import ChatServiceDouble
from tests.membership import membership_certificates as certificates
from tests.membership.membership_program import Program, new_key, until


@asynccontextmanager
async def client(target: str, **settings):
    program = Program(target, **settings)
    await program.service.start()
    try:
        yield program
    finally:
        await program.service.close()


async def unavailable(awaitable) -> Reason:
    with pytest.raises(Unavailable) as caught:
        await awaitable
    return caught.value.reason


def answer(key: MemberKey, **fields) -> pb.Membership:
    return pb.Membership(**({"room_id": key.room_id, "account_id": key.account_id} | fields))


@pytest.mark.parametrize("wrong", ["room", "account", "account.id", "nothing"])
async def test_an_answer_about_another_room_or_account_is_none(chat, wrong):
    key, other = new_key(), new_key()
    chat.answer_instead(
        *key,
        {
            "room": answer(key, room_id=other.room_id),
            "account": answer(key, account_id=other.account_id),
            "account.id": answer(key, account=pb.Account(id=other.account_id)),
            "nothing": pb.Membership(nick="who?"),
        }[wrong],
    )
    async with client(chat.target) as program:
        assert await unavailable(program.service.get(key)) is Reason.WRONG_ANSWER
        assert await unavailable(program.service.batch([key])) is Reason.WRONG_ANSWER
        assert program.requests == {
            ("GetMembership", "WRONG_ANSWER"): 1,
            ("BatchGetMemberships", "WRONG_ANSWER"): 1,
        }


async def test_an_answer_may_write_guids_in_capitals_or_without_dashes(chat):
    key = new_key()
    room_id, account_id = key.room_id.upper(), key.account_id.replace("-", "").upper()
    chat.answer_instead(*key, answer(key, room_id=room_id, account_id=account_id))
    async with client(chat.target) as program:
        assert (await program.service.get(key)).key == key
        assert (await program.service.batch([key])).keys() == {key}


async def test_a_batch_tells_apart_who_is_there_and_who_is_not(chat):
    there, gone = new_key(), new_key()
    chat.allow(*there, nick="Ann")
    async with client(chat.target) as program:
        found = await program.service.batch([gone, there])
        assert {key: one.nick for key, one in found.items()} == {there: "Ann"}


async def test_a_batch_in_which_one_stands_twice_means_nothing(chat):
    key, gone = new_key(), new_key()
    chat.allow(*key)
    chat.answer_instead(*gone, answer(key))
    async with client(chat.target) as program:
        assert await unavailable(program.service.batch([key, gone])) is Reason.WRONG_ANSWER


async def test_a_slow_answer_ends_at_the_deadline(chat):
    chat.delay_seconds = 60
    async with client(chat.target, timeout_seconds=0.1) as program:
        assert await unavailable(program.service.get(new_key())) is Reason.DEADLINE
        assert await unavailable(program.service.batch([new_key()])) is Reason.DEADLINE
        assert program.requests["GetMembership", "DEADLINE_EXCEEDED"] == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [("UNAVAILABLE", Reason.UNREACHABLE), ("INTERNAL", Reason.FAILED), ("PERMISSION_DENIED", Reason.FAILED)],
)
async def test_an_error_is_no_answer_and_is_not_asked_again(chat, status, reason):
    chat.fail(grpc.StatusCode[status])
    async with client(chat.target) as program:
        assert await unavailable(program.service.get(new_key())) is reason
        assert chat.calls["GetMembership"] == 1
        assert program.requests == {("GetMembership", status): 1}


async def test_the_trace_goes_along(chat):
    async with client(chat.target) as program:
        await program.service.get(new_key(), metadata=(("traceparent", "00-1-2-01"),))
        assert chat.traceparents["GetMembership"] == ["00-1-2-01"]


async def test_every_call_is_traced_and_of_a_stream_its_opening(chat):
    spans: list[tuple[str, str]] = []

    @contextmanager
    def traced(method, metadata):
        try:
            yield (*metadata, ("traceparent", method))
        except grpc.aio.AioRpcError as error:
            spans.append((method, error.code().name))
            raise
        else:
            spans.append((method, "OK"))

    async with client(chat.target, trace_call=traced) as program:
        await program.service.get(new_key())
        await program.service.batch([new_key()])
        assert chat.traceparents == {
            "GetMembership": ["GetMembership"],
            "BatchGetMemberships": ["BatchGetMemberships"],
        }
        events = program.service.watch("")
        assert await anext(events) == WatchStarted()
        opened = ("WatchMemberships", "OK")
        assert spans == [("GetMembership", "NOT_FOUND"), ("BatchGetMemberships", "OK"), opened]
        await anext(events)
        chat.break_streams()
        assert await unavailable(anext(events)) is Reason.UNREACHABLE
        chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")
        with pytest.raises(WatchUnimplemented):
            await anext(program.service.watch(""))
        assert spans[3:] == [("WatchMemberships", "UNIMPLEMENTED")]


async def test_a_call_under_way_when_the_client_closes_ends(chat):
    chat.delay_seconds = 60
    async with client(chat.target, timeout_seconds=60) as program:
        call = asyncio.create_task(unavailable(program.service.get(new_key())))
        await until(lambda: chat.calls["GetMembership"])
        await program.service.close()
        assert await call is Reason.CLOSED
        assert await unavailable(program.service.get(new_key())) is Reason.CLOSED


async def test_changes_come_as_they_are_told(chat):
    key, other = new_key(), new_key()
    async with client(chat.target) as program:
        events = program.service.watch("")
        assert await anext(events) == WatchStarted()
        assert isinstance(await anext(events), CursorMoved)
        chat.allow(*key, nick="Ann", tell=True)
        chat.deny(*key, tell=True)
        joined, left = await anext(events), await anext(events)
        assert isinstance(joined, Changed)
        assert joined.membership.nick == "Ann"
        assert (left.key, left.membership) == (key, None)
        chat._changes.append(key, answer(other))
        assert isinstance(await anext(events), MaybeChanged)
        await events.aclose()
        await until(lambda: not chat.watching)


async def test_a_service_that_does_not_watch_and_a_cursor_that_is_too_old_are_told_apart(chat):
    async with client(chat.target) as program:
        with pytest.raises(CursorTooOld):
            await anext(program.service.watch("long-ago-1"))
        chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")
        with pytest.raises(WatchUnimplemented):
            await anext(program.service.watch(""))


async def test_a_service_that_is_slow_to_answer_but_tells_of_changes_keeps_its_connection(chat):
    async with client(chat.target, timeout_seconds=0.05) as program:
        events = program.service.watch("")
        assert await anext(events) == WatchStarted()
        assert isinstance(await anext(events), CursorMoved)
        chat.delay_seconds = 60
        for number in range(8):
            assert await unavailable(program.service.get(new_key())) is Reason.DEADLINE
            chat.allow(*new_key(), nick=str(number), tell=True)
            told = await anext(events)
            assert told.membership.nick == str(number)
        assert chat.calls["WatchMemberships"] == 1
        await events.aclose()


async def test_a_service_that_comes_up_late_is_found(chat):
    await chat.stop()
    key = new_key()
    chat.allow(*key)
    async with client(chat.target) as program:
        assert await unavailable(program.service.get(key)) is Reason.UNREACHABLE
        await chat.start()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await program.service.get(key)
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)


class TestTls:
    async def test_the_service_must_show_a_certificate_of_our_authority_for_its_name(self, tmp_path):
        ours, theirs = Authority(), Authority()
        key = new_key()
        chat = ChatServiceDouble()
        chat.allow(*key)
        await chat.start(
            credentials=certificates.server_credentials(
                ours, ours.issue("nobody.test", x509.DNSName("nobody.test"))
            )
        )
        try:
            for ca, server_name, works in (
                (ours.pem, "nobody.test", True),
                (ours.pem, None, False),
                (ours.pem, "chat.test", False),
                (theirs.pem, "nobody.test", False),
            ):
                tls = certificates.write(tmp_path, ca=ca, server_name=server_name)
                async with client(chat.target, tls=tls) as program:
                    if works:
                        assert await program.service.get(key)
                    else:
                        assert await unavailable(program.service.get(key)) is Reason.UNREACHABLE
            async with client(chat.target) as program:
                assert await unavailable(program.service.get(key)) is Reason.UNREACHABLE, "no TLS"
            assert chat.calls["GetMembership"] == 1
        finally:
            await chat.stop()

    async def test_mutual_tls_shows_our_certificate(self, tmp_path):
        authority = Authority()
        key = new_key()
        chat = ChatServiceDouble()
        chat.allow(*key)
        await chat.start(
            credentials=certificates.server_credentials(authority, authority.issue("chat"), mutual=True)
        )
        try:
            with_pair = certificates.write(tmp_path, ca=authority.pem, pair=authority.issue("sidecar"))
            async with client(chat.target, tls=with_pair) as program:
                assert await program.service.get(key)
            async with client(chat.target, tls=certificates.write(tmp_path, ca=authority.pem)) as program:
                assert await unavailable(program.service.get(key)) is Reason.UNREACHABLE
        finally:
            await chat.stop()

    async def test_certificates_rotate_under_load_without_a_failed_call(self, tmp_path):
        """Client, server and authority change at once; connections that are open live on."""
        old, new = Authority(), Authority()
        shown = [certificates.server_configuration(old, old.issue("chat"))]  # to new connections
        key = new_key()
        chat = ChatServiceDouble()
        chat.allow(*key)
        await chat.start(
            credentials=grpc.dynamic_ssl_server_credentials(
                shown[0], lambda: shown[-1], require_client_authentication=True
            )
        )
        tls = certificates.write(tmp_path, ca=old.pem, pair=old.issue("sidecar"))
        async with client(chat.target, tls=tls) as program:
            assert await program.service.get(key)
            used = program.service._channel._current
            events = program.service.watch("")
            assert await anext(events) == WatchStarted()
            done = asyncio.Event()

            async def keep_asking() -> None:
                while not done.is_set():
                    assert await program.service.get(key)

            load = [asyncio.create_task(keep_asking()) for _ in range(4)]
            shown.append(certificates.server_configuration(new, new.issue("chat")))
            certificates.write(tmp_path, ca=new.pem, pair=new.issue("sidecar"))
            await until(lambda: program.service._channel._current is not used)
            asked = chat.calls["GetMembership"]
            await until(lambda: chat.calls["GetMembership"] > asked + 100)
            assert [event async for event in events if not isinstance(event, CursorMoved)] == []
            done.set()
            await asyncio.gather(*load)
            assert set(program.requests) == {("GetMembership", "OK"), ("WatchMemberships", "CANCELLED")}
        await chat.stop()

    async def test_files_that_do_not_work_change_nothing(self, tmp_path):
        authority = Authority()
        key = new_key()
        chat = ChatServiceDouble()
        chat.allow(*key)
        await chat.start(
            credentials=certificates.server_credentials(authority, authority.issue("chat"), mutual=True)
        )
        tls = certificates.write(tmp_path, ca=authority.pem, pair=authority.issue("sidecar"))
        async with client(chat.target, tls=tls) as program:
            assert await program.service.get(key)
            used = program.service._channel._current
            certificates.write(tmp_path, ca=b"not a certificate", pair=authority.issue("sidecar"))
            opened = []
            channel = program.service._channel
            channel._open = _recording(channel._open, opened)
            await until(lambda: opened)
            assert await program.service.get(key)
            (tmp_path / "ca.pem").unlink()
            assert program.service._channel._current is used
            assert await program.service.get(key)
            certificates.write(tmp_path, ca=authority.pem, pair=authority.issue("sidecar"))
            await until(lambda: program.service._channel._current is not used)
            assert await program.service.get(key)
        await chat.stop()


def _recording(function, calls):
    def wrapped(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return wrapped
