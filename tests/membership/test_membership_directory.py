from __future__ import annotations

import asyncio
import time

import grpc
import pytest
import structlog

from sidecar.errors import RefusalCode
from sidecar.membership.breaker import FAILURES_TO_OPEN, OPEN_SECONDS
from sidecar.membership.model import Ended, TimedOut, Unverifiable, Updated
from sidecar.membership.service import Changed
from tests.membership.membership_program import new_key, running, until

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_a_member_is_admitted_and_a_stranger_is_not(chat):
    key = new_key()
    chat.allow(*key, nick="Ann", account_name="ann", account_nick="A", profile={"b": 1}, updated_at=1.5)
    async with running(chat.target) as program:
        membership = await program.directory.admit(key)
        assert membership.key == key
        assert (membership.nick, membership.account_name, membership.account_nick) == ("Ann", "ann", "A")
        assert (membership.profile, membership.updated_at) == (b'{"b":1}', 1.5)
        refusal = await program.refusal(new_key())
        assert (refusal.code, refusal.status) == (RefusalCode.NOT_A_MEMBER, 403)
        assert program.requests == {("GetMembership", "OK"): 1, ("GetMembership", "NOT_FOUND"): 1}


@pytest.mark.parametrize("state", [{"joined": False}, {"left": True}, {"role": -1}, {"role": -100}])
async def test_invited_left_and_suspended_accounts_are_not_members(chat, state):
    key = new_key()
    chat.allow(*key, **state)
    async with running(chat.target) as program:
        assert (await program.refusal(key)).code is RefusalCode.NOT_A_MEMBER


async def test_a_timed_out_member_is_told_until_when(chat):
    key, free, banned = new_key(), new_key(), new_key()
    chat.allow(*key, timeout_until=4_000_000_000)
    chat.allow(*free, timeout_until=time.time() - 1)
    chat.allow(*banned, timeout_until=253_402_300_799.999)
    async with running(chat.target) as program:
        refusal = await program.refusal(key)
        assert (refusal.code, refusal.detail) == (RefusalCode.MEMBER_TIMED_OUT, "2096-10-02T07:06:40.000Z")
        assert (await program.refusal(banned)).detail == "9999-12-31T23:59:59.000Z"
        await program.directory.admit(free)


async def test_a_yes_and_a_no_are_remembered_for_their_own_times(chat):
    member, stranger = new_key(), new_key()
    chat.allow(*member)
    async with running(chat.target, cache_seconds=30, deny_seconds=3) as program:
        for _ in range(3):
            await program.directory.admit(member)
            await program.refusal(stranger)
        assert chat.calls["GetMembership"] == 2
        assert program.cache == ["missed", "missed", "allowed", "denied", "allowed", "denied"]

        program.clock.now += 3
        chat.allow(*stranger)
        await program.directory.admit(stranger)
        await program.directory.admit(member)
        assert chat.calls["GetMembership"] == 3

        program.clock.now += 27
        chat.deny(*member)
        assert (await program.refusal(member)).code is RefusalCode.NOT_A_MEMBER


async def test_without_a_cache_every_join_asks(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target, cache_seconds=0, deny_seconds=0) as program:
        for _ in range(3):
            await program.directory.admit(key)
        chat.deny(*key)
        await program.refusal(key)
        await program.refusal(key)
        assert chat.calls["GetMembership"] == 5


async def test_the_same_ids_the_other_way_round_are_another_key(chat):
    room_id, account_id = new_key()
    chat.allow(room_id, account_id)
    async with running(chat.target) as program:
        await program.directory.admit(type(new_key())(room_id, account_id))
        assert (await program.refusal(type(new_key())(account_id, room_id))).code is RefusalCode.NOT_A_MEMBER


async def test_a_thousand_joins_at_once_by_one_account_make_one_call(chat):
    key = new_key()
    chat.allow(*key)
    chat.delay_seconds = 0.1
    async with running(chat.target, cache_seconds=0) as program:
        admitted = await asyncio.gather(*(program.directory.admit(key) for _ in range(1000)))
        assert len(admitted) == 1000
        assert chat.calls["GetMembership"] == 1


async def test_a_caller_who_gives_up_takes_no_one_along(chat):
    key = new_key()
    chat.allow(*key)
    chat.delay_seconds = 0.1
    async with running(chat.target) as program:
        first, second = (asyncio.create_task(program.directory.admit(key)) for _ in range(2))
        await until(lambda: chat.calls["GetMembership"])
        first.cancel()
        assert (await second).key == key
        assert chat.calls["GetMembership"] == 1


async def test_a_kick_that_comes_while_the_caller_waits_is_seen(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        await until(lambda: chat.watching)
        chat.delay_seconds = 0.3
        waiting = asyncio.create_task(program.refusal(key))
        await until(lambda: chat.calls["GetMembership"])
        chat.deny(*key, tell=True)
        chat.allow(*key)  # the answer on its way still says yes
        assert (await waiting).code is RefusalCode.NOT_A_MEMBER


async def test_a_kick_in_the_tick_between_answer_and_caller_is_seen(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target, cache_seconds=0) as program:
        waiting = asyncio.create_task(program.refusal(key))
        answers: list[object] = []
        questions = program.directory._questions
        questions._on_answer = _after(questions._on_answer, answers)
        await until_next_tick(lambda: answers)
        chat.deny(*key)
        program.directory.recheck_now(key)
        assert (await waiting).code is RefusalCode.NOT_A_MEMBER
        assert chat.calls["GetMembership"] == 2


def _after(learn, answers):
    def wrapped(*arguments):
        learn(*arguments)
        answers.append(arguments)

    return wrapped


async def until_next_tick(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_hint_while_the_caller_waits_asks_again(chat):
    key = new_key()
    chat.allow(*key)
    chat.delay_seconds = 0.2
    async with running(chat.target) as program:
        waiting = asyncio.create_task(program.directory.admit(key))
        await until(lambda: chat.calls["GetMembership"])
        program.directory.recheck_now(key)
        await waiting
        assert chat.calls["GetMembership"] == 2


async def test_a_kick_told_by_the_stream_ends_a_live_connection_and_its_cache_entry(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        await until(lambda: chat.watching)
        await program.join(key)
        chat.deny(*key, tell=True)
        await until(lambda: program.told)
        assert program.told == [(key, Ended())]
        assert (await program.refusal(key)).code is RefusalCode.NOT_A_MEMBER


async def test_a_kick_forgets_the_cached_yes_of_one_who_is_not_connected(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target, deny_seconds=0) as program:
        await until(lambda: chat.watching)
        await program.directory.admit(key)
        chat.deny(*key, tell=True)
        await until(lambda: not len(program.directory._allowed))
        assert (await program.refusal(key)).code is RefusalCode.NOT_A_MEMBER


async def test_an_invitation_told_by_the_stream_counts_at_once(chat):
    key, other = new_key(), new_key()
    async with running(chat.target, deny_seconds=3600) as program:
        await until(lambda: chat.watching)
        await program.refusal(key)
        chat.allow(*key, tell=True)
        chat.allow(*other)
        await program.join(other)
        chat.deny(*other, tell=True)
        await until(lambda: program.told)  # events come in order
        await program.directory.admit(key)


async def test_suspension_and_time_out_end_a_live_connection_and_a_new_nick_reaches_it(chat):
    suspended, timed_out, renamed, unconcerned = (new_key() for _ in range(4))
    async with running(chat.target) as program:
        await until(lambda: chat.watching)
        for key in (suspended, timed_out, renamed, unconcerned):
            chat.allow(*key)
            await program.join(key)
        chat.allow(*suspended, role=-1, tell=True)
        chat.allow(*timed_out, timeout_until=4_000_000_000, tell=True)
        chat.allow(*renamed, nick="New", profile={"a": 1.0}, tell=True)
        await until(lambda: len(program.told) == 3)
        assert program.told[:2] == [(suspended, Ended()), (timed_out, TimedOut(4_000_000_000))]
        key, change = program.told[2]
        assert key == renamed
        assert isinstance(change, Updated)
        assert (change.membership.nick, change.membership.profile) == ("New", b'{"a":1}')


async def test_without_a_stream_rechecks_notice_kicks_time_outs_and_nicks(chat):
    chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")
    kicked, timed_out, renamed = new_key(), new_key(), new_key()
    for key in (kicked, timed_out, renamed):
        chat.allow(*key)
    async with running(chat.target, recheck_seconds=0.2) as program:
        for key in (kicked, timed_out, renamed):
            await program.join(key)
        chat.deny(*kicked)
        chat.allow(*timed_out, timeout_until=4_000_000_000)
        membership = chat.allow(*renamed, nick="New")
        await until(lambda: {key for key, _ in program.told} == {kicked, timed_out, renamed})
        changes = dict(program.told)
        assert changes[kicked] == Ended()
        assert changes[timed_out] == TimedOut(4_000_000_000)
        assert changes[renamed].membership.nick == membership.nick
        assert chat.calls["WatchMemberships"] == 1


async def test_a_key_is_rechecked_until_its_last_connection_is_gone(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target, recheck_seconds=0.05) as program:
        await program.join(key)
        await program.join(key)
        program.directory.unfollow(key)
        seen = chat.calls["BatchGetMemberships"]
        await until(lambda: chat.calls["BatchGetMemberships"] > seen + 2)
        program.directory.unfollow(key)
        assert not program.directory._live


async def test_batches_hold_at_most_256_keys(chat):
    async with running(chat.target, recheck_seconds=0.5) as program:
        keys = [new_key() for _ in range(700)]
        for key in keys:
            chat.allow(*key)
        memberships = await asyncio.gather(*(program.directory.admit(key) for key in keys))
        for key, membership in zip(keys, memberships, strict=True):
            program.directory.follow(key, membership)
            program.directory.recheck_now(key)
        chat.batch_sizes.clear()
        await until(lambda: sum(chat.batch_sizes) >= 700)
        assert max(chat.batch_sizes) <= 256
        assert not program.told


async def test_a_hint_about_a_live_member_asks_anew_at_once(chat):
    key, elsewhere = new_key(), new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        await program.join(key)
        chat.deny(*key)
        program.directory.recheck_now(elsewhere)
        program.directory.recheck_now(key)
        await until(lambda: program.told)
        assert set(program.told) == {(key, Ended())}
        assert set(chat.batch_sizes) == {1}  # nobody asks about who is not here


async def test_one_listener_that_fails_does_not_stop_the_watch_over_the_others(chat):
    first, second = new_key(), new_key()
    chat.allow(*first)
    chat.allow(*second)
    async with running(chat.target) as program:
        await until(lambda: chat.watching)
        told = []

        def listener(key, change):
            told.append(key)
            if key == first:
                raise ZeroDivisionError

        program.directory.on_change = listener
        await program.join(first)
        await program.join(second)
        chat.deny(*first, tell=True)
        chat.deny(*second, tell=True)
        await until(lambda: told == [first, second])


@pytest.mark.parametrize("told_by", ["stream", "re-check"])
@pytest.mark.parametrize(
    "becomes",
    [{"nick": "New"}, {"role": -1}, {"timeout_until": 4_000_000_000}],
    ids=["renamed", "out", "timed out"],
)
async def test_a_change_that_nobody_heard_is_told_again_with_the_next_answer(chat, becomes, told_by):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target, recheck_seconds=0.2, cache_seconds=3600) as program:
        await until(lambda: chat.watching)
        await program.join(key)
        deaf = True
        heard = []

        def listener(key, change):
            if deaf:
                raise ZeroDivisionError
            heard.append((key, change))

        program.directory.on_change = listener
        chat.allow(*key, **becomes, tell=told_by == "stream")
        seen = chat.calls["BatchGetMemberships"]
        await until(lambda: chat.calls["BatchGetMemberships"] > seen + 3)
        if "nick" not in becomes:
            assert (await program.refusal(key)).status == 403, "what was not heard counts all the same"
        deaf = False
        await until(lambda: heard)
        (_, change), *_ = heard
        assert isinstance(change, Updated | Ended | TimedOut)
        if isinstance(change, Updated):
            assert change.membership.nick == "New"
            seen = chat.calls["BatchGetMemberships"]
            await until(lambda: chat.calls["BatchGetMemberships"] > seen + 3)
            assert len(heard) == 1, "and no more once it was"


async def test_a_live_membership_that_stays_the_same_stays_the_same_object(chat):
    key = new_key()
    chat.allow(*key, profile={"a": 1})
    async with running(chat.target, recheck_seconds=0.1) as program:
        membership = await program.join(key)
        seen = chat.calls["BatchGetMemberships"]
        await until(lambda: chat.calls["BatchGetMemberships"] > seen + 1)
        assert program.directory._live.get(key).membership is membership
        assert membership.key is key
        assert await program.directory.admit(key) is membership


async def test_who_leaves_is_let_in_again_without_a_question(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        await program.join(key)
        await program.join(key)
        program.directory.unfollow(key)
        program.directory.unfollow(key)
        await program.join(key)
        program.directory.unfollow(key)
        program.clock.now += 31
        assert program.cache == ["missed", "allowed", "allowed"]
        await program.join(key)
        assert program.cache[-1] == "missed"


async def test_a_hint_about_one_who_then_leaves_makes_the_next_join_ask(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        await program.join(key)
        chat.deny(*key)
        program.directory.recheck_now(key)
        program.directory.unfollow(key)
        assert (await program.refusal(key)).code is RefusalCode.NOT_A_MEMBER


async def test_a_broken_stream_is_resumed_where_it_broke_and_nothing_is_missed(chat):
    key, other = new_key(), new_key()
    chat.allow(*key)
    chat.allow(*other)
    async with running(chat.target) as program:
        await program.join(key)
        await program.join(other)
        await until(lambda: chat.watching)
        chat.allow(*other, nick="New", tell=True)
        await until(lambda: program.told)
        chat.break_streams()
        chat.deny(*key, tell=True)
        await until(lambda: (key, Ended()) in program.told)
        assert len(chat.resumed_after) == 2
        assert chat.resumed_after[1]


async def test_a_cursor_that_is_too_old_makes_every_live_member_be_rechecked(chat):
    keys = [new_key() for _ in range(20)]
    async with running(chat.target, recheck_seconds=3600) as program:
        await until(lambda: chat.watching)
        for key in keys:
            chat.allow(*key)
            await program.join(key)
        chat.allow(*keys[0], nick="New", tell=True)
        await until(lambda: program.told)
        program.told.clear()
        for key in keys:
            chat.deny(*key)
        chat.forget_changes()
        await until(lambda: {key for key, _ in program.told} == set(keys))
        assert chat.resumed_after[-1] == ""


async def test_an_old_event_of_a_resumed_stream_does_not_end_a_connection_made_since(chat):
    key, other = new_key(), new_key()
    chat.allow(*key)
    chat.allow(*other)
    async with running(chat.target, cache_seconds=0) as program:
        await until(lambda: chat.watching)
        await program.join(other)
        chat.allow(*other, nick="New", tell=True)
        await until(lambda: program.told)
        chat.fail(UNAVAILABLE, "WatchMemberships")
        chat.break_streams()
        await until(lambda: not chat.watching)
        await until(lambda: program.requests["WatchMemberships", "UNAVAILABLE"])
        chat.deny(*key, tell=True)
        chat.allow(*key, tell=True)
        await program.join(key)
        program.told.clear()
        chat.fail(None)
        chat.deny(*other, tell=True)  # comes last
        await until(lambda: program.told)
        assert program.told == [(other, Ended())]


async def test_an_old_event_of_a_resumed_stream_does_not_answer_a_question_asked_since(chat):
    key = new_key()
    chat.allow(*key)
    chat.delay_seconds = 0.3
    async with running(chat.target) as program:
        waiting = asyncio.create_task(program.directory.admit(key))
        await until(lambda: chat.calls["GetMembership"])
        program.directory._changed(Changed("1", key, None), program.clock.now - 1)
        assert (await waiting).key == key
        assert chat.calls["GetMembership"] == 2


async def test_an_outage_admits_only_from_the_cache_and_is_answered_at_once(chat):
    member, stranger = new_key(), new_key()
    chat.allow(*member)
    async with running(chat.target) as program:
        await program.directory.admit(member)
        chat.fail(UNAVAILABLE)
        for _ in range(FAILURES_TO_OPEN):
            refusal = await program.refusal(new_key())
            assert (refusal.code, refusal.status) == (RefusalCode.MEMBERSHIP_UNAVAILABLE, 503)
        assert program.directory.breaker_open
        asked = chat.calls["GetMembership"]
        for _ in range(100):
            refusal = await program.refusal(stranger)
            assert refusal.retry_after_seconds >= 1
        assert chat.calls["GetMembership"] == asked
        await program.directory.admit(member)

        program.clock.now += OPEN_SECONDS
        chat.delay_seconds = 0.05
        codes = {
            (await one).code for one in [asyncio.create_task(program.refusal(new_key())) for _ in range(50)]
        }
        assert codes == {RefusalCode.MEMBERSHIP_UNAVAILABLE}
        assert chat.calls["GetMembership"] == asked + 1, "one probe"

        chat.fail(None)
        program.clock.now += OPEN_SECONDS
        chat.allow(*stranger)
        await program.directory.admit(stranger)
        assert not program.directory.breaker_open


async def test_an_answer_about_someone_else_is_no_answer_and_does_not_open_the_breaker(chat):
    good = new_key()
    chat.allow(*good)
    async with running(chat.target) as program:
        for _ in range(FAILURES_TO_OPEN + 1):
            key, other = new_key(), new_key()
            chat.answer_instead(*key, chat.allow(*other))
            assert (await program.refusal(key)).code is RefusalCode.MEMBERSHIP_UNAVAILABLE
        await program.directory.admit(good)
        assert program.requests["GetMembership", "WRONG_ANSWER"] == FAILURES_TO_OPEN + 1


async def test_an_error_about_one_room_does_not_open_the_breaker(chat):
    good = new_key()
    chat.allow(*good)
    async with running(chat.target) as program:
        chat.fail(grpc.StatusCode.INTERNAL)
        for _ in range(FAILURES_TO_OPEN + 1):
            assert (await program.refusal(new_key())).code is RefusalCode.MEMBERSHIP_UNAVAILABLE
        chat.fail(None)
        await program.directory.admit(good)


@pytest.mark.parametrize("faults", [1, 2])
async def test_a_fault_in_an_answer_is_the_trouble_of_those_it_is_about(chat, faults):
    """One odd row must not keep the removed in their calls, nor have the others thrown out."""
    keys = [new_key() for _ in range(256)]
    for key in keys:
        chat.allow(*key)
    async with running(chat.target, cache_seconds=0, recheck_seconds=3600) as program:
        for key in keys:
            await program.join(key)
        for key in keys[:faults]:
            chat.answer_instead(*key, chat.allow(*new_key()))
        for key in keys[faults : faults + 3]:
            chat.deny(*key)
        asked = chat.calls["BatchGetMemberships"]
        for key in keys:
            program.directory.recheck_now(key)
        await until(lambda: len(program.told) >= 3 and program.directory.stale)
        assert {key for key, change in program.told if change == Ended()} == set(keys[faults : faults + 3])
        assert chat.calls["BatchGetMemberships"] - asked <= 40
        assert len(program.directory._live._unverified) == faults


async def test_why_the_chat_service_is_of_no_use_is_logged_once_in_a_while(chat):
    asked, other = new_key(), new_key()
    chat.answer_instead(*asked, chat.allow(*other))
    async with running(chat.target) as program:
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                await program.refusal(asked)
            chat.fail(grpc.StatusCode.INTERNAL)
            await program.refusal(new_key())
        problems = [
            line["problem"] for line in lines if line["event"] == "the chat service gave no usable answer"
        ]
        assert len(problems) == 2
        assert asked.room_id in problems[0]
        assert other.room_id in problems[0]
        assert "INTERNAL" in problems[1]


async def test_live_connections_outlive_an_outage_until_their_answers_are_too_old(chat):
    kept, old = new_key(), new_key()
    chat.allow(*kept)
    chat.allow(*old)
    async with running(chat.target, recheck_seconds=0.2, stale_seconds=2) as program:
        await program.join(old)
        await until(lambda: chat.batch_sizes)
        chat.fail(UNAVAILABLE)
        await until(lambda: program.directory.stale)
        program.clock.now += 1.9
        chat.fail(None, "GetMembership")
        program.directory._breaker._failures = 0
        await program.join(kept)
        assert not program.told
        program.clock.now += 1
        await until(lambda: program.told)
        assert set(program.told) == {(old, Unverifiable())}

        program.directory.unfollow(old)
        chat.fail(None)
        program.clock.now += OPEN_SECONDS
        await until(lambda: not program.directory.stale)
        assert (kept, Unverifiable()) not in program.told


async def test_closing_refuses_those_who_wait_and_leaves_no_task(chat):
    key = new_key()
    chat.allow(*key)
    chat.delay_seconds = 60
    before = asyncio.all_tasks()
    async with running(chat.target, timeout_seconds=60) as program:
        waiting = asyncio.create_task(program.refusal(key))
        await until(lambda: chat.calls["GetMembership"])
        await program.directory.close()
        assert (await waiting).code is RefusalCode.MEMBERSHIP_UNAVAILABLE
        assert (await program.refusal(key)).code is RefusalCode.MEMBERSHIP_UNAVAILABLE
    chat.delay_seconds = 0
    ours = [task for task in asyncio.all_tasks() - before if "sidecar" in str(task.get_coro())]
    assert not ours


async def test_the_cache_is_bounded_and_strangers_do_not_push_members_out(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        program.directory._denied._max_entries = 10
        await program.directory.admit(key)
        for _ in range(50):
            await program.refusal(new_key())
        assert len(program.directory._denied) == 10
        await program.directory.admit(key)
        assert program.cache[-1] == "allowed"


async def test_an_answer_asked_for_before_an_event_does_not_undo_it(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        await until(lambda: chat.watching)
        await program.join(key)
        chat.delay_seconds = 0.3
        chat.answer_instead(*key, chat.allow(*key, nick="Old"))
        program.directory.recheck_now(key)
        await until(lambda: chat.calls["BatchGetMemberships"])
        chat.allow(*key, nick="New", tell=True)
        await until(lambda: program.requests["BatchGetMemberships", "OK"])
        await asyncio.sleep(0)
        assert [change.membership.nick for _, change in program.told] == ["New"]


async def test_an_answer_asked_for_before_a_hint_does_not_count(chat):
    chat.fail(grpc.StatusCode.UNIMPLEMENTED, "WatchMemberships")  # its beginning would be one more hint
    key = new_key()
    chat.allow(*key)
    async with running(chat.target) as program:
        await program.join(key)
        chat.delay_seconds = 0.3
        chat.answer_instead(*key, chat.allow(*key, nick="Old"))
        program.directory.recheck_now(key)
        await until(lambda: chat.calls["BatchGetMemberships"])
        program.directory.recheck_now(key)
        await until(lambda: chat.calls["BatchGetMemberships"] == 2)
        assert not program.told
        await until(lambda: program.told)
        assert program.requests["BatchGetMemberships", "OK"] == 2


async def test_who_was_let_in_from_the_cache_rests_on_it_as_long_as_the_others(chat):
    key = new_key()
    chat.allow(*key)
    async with running(chat.target, recheck_seconds=0.2, stale_seconds=25) as program:
        await program.directory.admit(key)
        chat.fail(UNAVAILABLE)
        program.clock.now += 20
        await program.join(key)
        await until(lambda: program.directory.stale)
        program.clock.now += 24
        failed = chat.calls["BatchGetMemberships"]
        await until(lambda: chat.calls["BatchGetMemberships"] > failed + 2)
        assert not program.told
        program.clock.now += 2
        await until(lambda: program.told)
        assert program.told[0] == (key, Unverifiable())
