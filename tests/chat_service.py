"""A real gRPC membership server in the test's own process, whose answers the test sets."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Self

import grpc

from sidecar._proto.dyson.chat.v1 import membership_pb2 as pb
from sidecar._proto.dyson.chat.v1.membership_pb2_grpc import (
    ChatMembershipServiceServicer,
    add_ChatMembershipServiceServicer_to_server,
)
from sidecar.dev.chat_service import ChangeLog
from sidecar.membership.model import MemberKey

METHODS = ("GetMembership", "BatchGetMemberships", "WatchMemberships")
JOINED_AT = 1_700_000_000


class ChatServiceDouble(ChatMembershipServiceServicer):
    """`async with ChatServiceDouble() as chat:`, or `start` and `stop`; `target` is what to connect to.

    Nobody is a member until `allow`. A change reaches open streams only through `tell` (or `allow(…, tell=True)`), so
    that a test decides whether a sidecar learns of it from the stream or from a re-check.

    `delay_seconds` holds every unary answer back. `calls` counts by method, `batch_sizes` and `traceparents`, these
    by method too, say more: a test that looks at one call is not disturbed by a re-check.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.batch_sizes: list[int] = []
        self.traceparents: defaultdict[str, list[str]] = defaultdict(list)
        self.delay_seconds = 0.0
        self.watching = 0
        self.resumed_after: list[str] = []
        self._memberships: dict[MemberKey, pb.Membership] = {}
        self._failures: dict[str, grpc.StatusCode] = {}
        self._instead: dict[MemberKey, pb.Membership] = {}
        self._changes = ChangeLog()
        self._streams: set[asyncio.Task] = set()
        self._server: grpc.aio.Server | None = None
        self.port = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(
        self, address: str | None = None, *, credentials: grpc.ServerCredentials | None = None
    ) -> int:
        """Listen, at the same port as before unless told otherwise. What was set stays across `stop` and `start`."""
        address = address or f"127.0.0.1:{self.port}"
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_ChatMembershipServiceServicer_to_server(self, self._server)
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        return self.port

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None

    def allow(
        self,
        room_id: str,
        account_id: str,
        *,
        role: int = 0,
        joined: bool = True,
        left: bool = False,
        timeout_until: float | None = None,
        nick: str = "",
        account_name: str = "",
        account_nick: str = "",
        profile: Mapping[str, object] | None = None,
        updated_at: float | None = None,
        tell: bool = False,
    ) -> pb.Membership:
        """From now on this is the membership, active unless the arguments say otherwise."""
        membership = pb.Membership(
            room_id=room_id,
            account_id=account_id,
            role=role,
            nick=nick,
            account=pb.Account(id=account_id, name=account_name, nick=account_nick),
        )
        if joined:
            membership.joined_at.FromSeconds(JOINED_AT)
        if left:
            membership.leave_at.FromSeconds(JOINED_AT + 3600)
        if timeout_until is not None:
            membership.timeout_until.FromNanoseconds(int(timeout_until * 1e9))
        if profile:
            membership.account.profile.update(profile)
        if updated_at is not None:
            membership.account.updated_at.FromNanoseconds(int(updated_at * 1e9))
        self._memberships[MemberKey(room_id, account_id)] = membership
        if tell:
            self.tell(room_id, account_id)
        return membership

    def deny(self, room_id: str, account_id: str, *, tell: bool = False) -> None:
        """From now on there is no such membership."""
        self._memberships.pop(MemberKey(room_id, account_id), None)
        if tell:
            self.tell(room_id, account_id)

    @property
    def members(self) -> list[MemberKey]:
        """Whoever has a membership, active or not."""
        return list(self._memberships)

    def tell(self, room_id: str, account_id: str) -> None:
        """An event for the streams: the membership as it is now."""
        key = MemberKey(room_id, account_id)
        self._changes.append(key, self._memberships.get(key))

    def answer_instead(self, room_id: str, account_id: str, membership: pb.Membership) -> None:
        """Answer a question about this key with a membership that may be another one's."""
        self._instead[MemberKey(room_id, account_id)] = membership

    def fail(self, status: grpc.StatusCode | None, *methods: str) -> None:
        """Answer these methods (none named: all) with `status`; None: answer properly again."""
        for method in methods or METHODS:
            if status is None:
                self._failures.pop(method, None)
            else:
                self._failures[method] = status

    def break_streams(self) -> None:
        """End every open stream with UNAVAILABLE; they can be resumed."""
        for stream in self._streams:
            stream.cancel()

    def forget_changes(self) -> None:
        """Every cursor given so far is now too old."""
        self._changes = ChangeLog()
        self.break_streams()

    async def GetMembership(self, request, context):  # noqa: N802
        await self._begin("GetMembership", context)
        key = MemberKey(request.room_id, request.account_id)
        membership = self._instead.get(key) or self._memberships.get(key)
        if membership is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return pb.GetMembershipResponse(membership=membership)

    async def BatchGetMemberships(self, request, context):  # noqa: N802
        self.batch_sizes.append(len(request.keys))
        await self._begin("BatchGetMemberships", context)
        keys = [MemberKey(key.room_id, key.account_id) for key in request.keys]
        found = [self._instead.get(key) or self._memberships.get(key) for key in keys]
        return pb.BatchGetMembershipsResponse(memberships=[one for one in found if one is not None])

    async def WatchMemberships(self, request, context) -> AsyncIterator[pb.MembershipEvent]:  # noqa: N802
        self.calls["WatchMemberships"] += 1
        if status := self._failures.get("WatchMemberships"):
            await context.abort(status)
        self.resumed_after.append(request.resume_after)
        self.watching += 1
        changes = self._changes.after(request.resume_after)
        try:
            while True:
                following = asyncio.ensure_future(anext(changes))
                self._streams.add(following)
                try:
                    await asyncio.wait([following])
                finally:
                    self._streams.discard(following)
                    following.cancel()
                if following.cancelled():
                    await context.abort(grpc.StatusCode.UNAVAILABLE)
                yield following.result()
        except LookupError:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE)
        finally:
            self.watching -= 1

    async def _begin(self, method: str, context: grpc.aio.ServicerContext) -> None:
        self.calls[method] += 1
        found = [value for name, value in context.invocation_metadata() if name == "traceparent"]
        self.traceparents[method] += found
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if status := self._failures.get(method):
            await context.abort(status)
