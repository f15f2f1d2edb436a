"""A real membership service over the sample file: what `make run` asks, and a reference for implementers.

It keeps to protos/dyson/chat/v1/membership.proto in everything, so that whoever writes the real one can compare.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from sidecar._proto.dyson.chat.v1 import membership_pb2 as pb
from sidecar._proto.dyson.chat.v1.membership_pb2_grpc import (
    ChatMembershipServiceServicer,
    add_ChatMembershipServiceServicer_to_server,
)
from sidecar.dev import rooms
from sidecar.dev.rooms import FILE, BadSample, Member, Person, Room, Sample
from sidecar.membership.model import MemberKey
from sidecar.membership.service import MAX_BATCH_KEYS

_POLL_SECONDS = 0.5
_KEPT_CHANGES = 1000
_GRACE_SECONDS = 1.0
_JOINED = datetime(2025, 1, 1, tzinfo=UTC)

Context = grpc.aio.ServicerContext[Any, Any]


class ChangeLog:
    """The last changes, for any number of streams. A cursor is one's number, under a name new at every start."""

    def __init__(self, *, kept: int = _KEPT_CHANGES) -> None:
        self._name = secrets.token_hex(4)
        self._last = 0
        self._changes: deque[pb.MembershipEvent] = deque(maxlen=kept)
        self._more = asyncio.Event()
        self._closed = False

    def append(self, key: MemberKey, membership: pb.Membership | None) -> None:
        self._last += 1
        self._changes.append(
            pb.MembershipEvent(
                cursor=self._cursor(self._last),
                key=pb.MembershipKey(room_id=key.room_id, account_id=key.account_id),
                membership=membership,
            )
        )
        self._more.set()
        self._more = asyncio.Event()

    def close(self) -> None:
        """End every reading."""
        self._closed = True
        self._more.set()

    async def after(self, cursor: str) -> AsyncIterator[pb.MembershipEvent]:
        """Every change after that cursor, until `close`; first an event that only says where this begins.

        Raises:
            LookupError: that cursor is not known (any more), or the reader fell behind.
        """
        read = self._number(cursor) if cursor else self._last
        yield pb.MembershipEvent(cursor=self._cursor(read))
        while not self._closed:
            more = self._more
            missed = self._last - read
            if missed > len(self._changes):
                raise LookupError(cursor)
            if missed:
                read += 1
                yield self._changes[-missed]
            else:
                await more.wait()

    def _cursor(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _number(self, cursor: str) -> int:
        name, _, number = cursor.partition("-")
        if name != self._name or not number.isdecimal() or int(number) > self._last:
            raise LookupError(cursor)
        return int(number)


class SampleChatService(ChatMembershipServiceServicer):
    """Serves one sample file, and follows its edits, between `start` and `stop`."""

    def __init__(self, *, file: Path = FILE) -> None:
        """Raises: BadSample."""
        self._file = file
        self._stamp = _stamp(file)
        self._sample = rooms.read(file)
        self._memberships = _memberships(self._sample)
        self._server: grpc.aio.Server | None = None
        self._follower: asyncio.Task[None] | None = None

    def people(self) -> Mapping[str, Person]:
        return self._sample.people

    def rooms(self) -> Mapping[str, Room]:
        return self._sample.rooms

    async def start(self, address: str = "127.0.0.1:0") -> int:
        """Listen, without TLS. Returns the port."""
        self._changes = ChangeLog()
        self._server = grpc.aio.server()
        add_ChatMembershipServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        await self._server.start()
        self._follower = asyncio.create_task(self._follow_file(), name="sample rooms")
        return port

    async def stop(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
        if self._server is not None:
            self._changes.close()
            await self._server.stop(grace=_GRACE_SECONDS)

    async def GetMembership(  # noqa: N802 - the protocol's name
        self, request: pb.GetMembershipRequest, context: Context
    ) -> pb.GetMembershipResponse:
        membership = self._memberships.get(MemberKey(request.room_id, request.account_id))
        if membership is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such membership")
        return pb.GetMembershipResponse(membership=membership)

    async def BatchGetMemberships(  # noqa: N802
        self, request: pb.BatchGetMembershipsRequest, context: Context
    ) -> pb.BatchGetMembershipsResponse:
        if len(request.keys) > MAX_BATCH_KEYS:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"at most {MAX_BATCH_KEYS} keys")
        found = (self._memberships.get(MemberKey(key.room_id, key.account_id)) for key in request.keys)
        return pb.BatchGetMembershipsResponse(memberships=[one for one in found if one is not None])

    async def WatchMemberships(  # noqa: N802
        self, request: pb.WatchMembershipsRequest, context: Context
    ) -> AsyncIterator[pb.MembershipEvent]:
        try:
            async for event in self._changes.after(request.resume_after):
                yield event
        except LookupError:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "start with an empty cursor")

    async def _follow_file(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            stamp = _stamp(self._file)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                sample = rooms.read(self._file)
            except BadSample as error:
                print(f"{error}\n(what was there before still counts)", file=sys.stderr)
                continue
            self._replace(sample)

    def _replace(self, sample: Sample) -> None:
        before, self._memberships, self._sample = self._memberships, _memberships(sample), sample
        for key in before.keys() | self._memberships.keys():
            now = self._memberships.get(key)
            if now != before.get(key):
                self._changes.append(key, now)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    """What changes when the file is edited or replaced; None while it is away."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _memberships(sample: Sample) -> dict[MemberKey, pb.Membership]:
    return {
        MemberKey(str(room.id), str(sample.people[name].id)): _membership(
            room, name, sample.people[name], member
        )
        for room in sample.rooms.values()
        for name, member in room.members.items()
    }


def _membership(room: Room, name: str, person: Person, member: Member) -> pb.Membership:
    membership = pb.Membership(
        room_id=str(room.id),
        account_id=str(person.id),
        role=rooms.ROLE_NUMBERS[member.role],
        nick=member.nick,
        account=pb.Account(id=str(person.id), name=name, nick=person.nick),
    )
    membership.joined_at.FromDatetime(_JOINED)
    membership.account.updated_at.FromDatetime(_JOINED)
    membership.account.profile.update(person.profile)
    if member.timeout_until is not None:
        membership.timeout_until.FromDatetime(member.timeout_until)
    return membership
