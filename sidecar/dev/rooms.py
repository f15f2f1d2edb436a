"""The sample file of `make run`: who there is, and who belongs to which room."""

from __future__ import annotations

import shutil
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError

FILE = Path(__file__).with_name("rooms.toml")

Role = Literal["owner", "moderator", "member", "suspended"]
ROLE_NUMBERS: dict[Role, int] = {"owner": 100, "moderator": 50, "member": 0, "suspended": -1}

Name = Annotated[str, Field(min_length=1, max_length=64)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Person(_Table):
    id: UUID
    nick: str = ""
    profile: dict[str, JsonValue] = {}


class Member(_Table):
    role: Role = "member"
    nick: str = ""
    timeout_until: AwareDatetime | None = None


class Room(_Table):
    id: UUID
    members: dict[Name, Member] = {}


class Sample(_Table):
    """One reading of the file. People and rooms are named as in it."""

    people: dict[Name, Person]
    rooms: dict[Name, Room]


class BadSample(Exception):
    """The file cannot be used; `problems` holds one line each, with the place in the file."""

    def __init__(self, file: Path, problems: list[str]) -> None:
        super().__init__("\n".join(f"{file}: {problem}" for problem in problems))
        self.problems = problems


def own_file(directory: Path) -> Path:
    """The sample file in `directory`, for editing; made when first needed. Raises: OSError."""
    file = directory / FILE.name
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FILE, file)
    return file


def read(file: Path) -> Sample:
    """Parse the file.

    Raises:
        BadSample: with every problem found.
    """
    try:
        sample = Sample.model_validate(tomllib.loads(file.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSample(file, [str(error)]) from None
    except ValidationError as error:
        raise BadSample(file, [_told(problem["loc"], problem["msg"]) for problem in error.errors()]) from None
    if problems := [*_duplicates(sample), *_strangers(sample)]:
        raise BadSample(file, problems)
    return sample


def _told(place: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(map(str, place))}: {message}"


def _duplicates(sample: Sample) -> list[str]:
    problems = []
    for kind, tables in (("people", sample.people), ("rooms", sample.rooms)):
        names: dict[UUID, str] = {}
        for name, table in tables.items():
            first = names.setdefault(table.id, name)
            if first != name:
                problems.append(f"{kind}.{name}: has the same id as {kind}.{first}")
    return problems


def _strangers(sample: Sample) -> list[str]:
    return [
        f"rooms.{room}.members.{name}: there is no [people.{name}]"
        for room, table in sample.rooms.items()
        for name in table.members
        if name not in sample.people
    ]


def state_of(member: Member) -> str:
    """Why a member of the sample file may not join, or `active`."""
    if member.role == "suspended":
        return "suspended"
    if member.timeout_until is not None and member.timeout_until > datetime.now(UTC):
        return "timed out"
    return "active"
