"""The sample file and the server over it, as `make run` uses them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.dev import rooms
from sidecar.dev.chat_service import FILE, SampleChatService
from sidecar.dev.rooms import BadSample
from sidecar.errors import RefusalCode
from sidecar.membership.model import Ended, MemberKey, TimedOut, Updated
from sidecar.membership.service import CursorTooOld
from tests.membership.membership_program import running, until

SAMPLE = """
[people.ann]
id = "a11ce000-0000-4000-8000-000000000001"
nick = "Ann"
profile = {{ level = 3 }}

[rooms.lobby]
id = "10bb1000-0000-4000-8000-00000000000a"
[rooms.lobby.members]
{members}
"""
ANN = MemberKey("10bb1000-0000-4000-8000-00000000000a", "a11ce000-0000-4000-8000-000000000001")


@asynccontextmanager
async def served(file: Path):
    service = SampleChatService(file=file)
    port = await service.start()
    try:
        async with running(f"127.0.0.1:{port}", cache_seconds=0, deny_seconds=0) as program:
            yield service, program
    finally:
        await service.stop()


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "rooms.toml"
    file.write_text(SAMPLE.format(members="ann = {}"))
    return file


def edit(file: Path, members: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(SAMPLE.format(members=members))
    fresh.rename(file)


async def test_the_shipped_sample_has_someone_for_every_answer():
    async with served(FILE) as (service, program):
        outcomes = set()
        for room in service.rooms().values():
            for name, person in service.people().items():
                key = MemberKey(str(room.id), str(person.id))
                member = room.members.get(name)
                if member and member.role != "suspended" and not member.timeout_until:
                    membership = await program.directory.admit(key)
                    assert membership.account_name == name
                    outcomes.add("admitted")
                else:
                    outcomes.add((await program.refusal(key)).code)
        assert outcomes == {"admitted", RefusalCode.NOT_A_MEMBER, RefusalCode.MEMBER_TIMED_OUT}


async def test_every_edit_reaches_a_live_connection_through_the_stream(file):
    async with served(file) as (_, program):
        await until(lambda: program.directory._watch._cursor)
        membership = await program.join(ANN)
        assert (membership.account_nick, membership.profile) == ("Ann", b'{"level":3}')
        edit(file, 'ann = { nick = "Annie" }')
        await until(lambda: program.told)
        key, change = program.told.pop()
        assert key == ANN
        assert isinstance(change, Updated)
        assert change.membership.nick == "Annie"
        for members, expected in (
            ("ann = { timeout_until = 2099-01-01T00:00:00Z }", TimedOut(4070908800.0)),
            ('ann = { role = "suspended" }', Ended()),
            ("", Ended()),
        ):
            program.told.clear()
            edit(file, members)
            await until(lambda: program.told)
            assert program.told == [(ANN, expected)]
        assert ("BatchGetMemberships", "OK") not in program.requests


async def test_a_broken_edit_is_told_and_changes_nothing(file, capsys):
    async with served(file) as (_, program):
        edit(file, "ann = { role = 'king' }\nbob = {}")
        told = ""
        async with asyncio.timeout(20):
            while "still counts" not in told:
                await asyncio.sleep(0.02)
                told += capsys.readouterr().err
        assert "rooms.lobby.members.ann.role" in told
        await program.directory.admit(ANN)
        edit(file, "")
        async with asyncio.timeout(20):
            while True:
                if not await program.service.get(ANN):
                    break
                await asyncio.sleep(0.02)


async def test_a_cursor_of_an_earlier_run_is_out_of_range(file):
    async with served(file) as (_, program):
        with pytest.raises(CursorTooOld):
            await anext(program.service.watch("0badcafe-3"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("people = 3", "people"),
        ("a = = 1", "line 1"),
        (SAMPLE.format(members="bob = {}"), "rooms.lobby.members.bob: there is no [people.bob]"),
        (SAMPLE.format(members="ann = { rank = 1 }"), "rooms.lobby.members.ann.rank"),
        (SAMPLE.format(members="ann = { timeout_until = 2099-01-01 }"), "timeout_until"),
        (SAMPLE.replace("10bb1000", "xyz").format(members=""), "rooms.lobby.id"),
        (
            SAMPLE.format(members="") + '[rooms.other]\nid = "10bb1000-0000-4000-8000-00000000000a"',
            "rooms.other: has the same id as rooms.lobby",
        ),
    ],
)
def test_a_bad_sample_names_the_place(tmp_path, text, problem):
    file = tmp_path / "rooms.toml"
    file.write_text(text)
    with pytest.raises(BadSample) as caught:
        rooms.read(file)
    assert problem in str(caught.value)
    assert str(file) in str(caught.value)
