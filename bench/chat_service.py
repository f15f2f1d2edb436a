"""A chat service in its own process that says yes to everybody, over real gRPC (python -m bench.chat_service).

Its first line on standard output is the port it listens on. It has no WatchMemberships, as the services of today.
"""

from __future__ import annotations

import asyncio
import time

import grpc

from sidecar._proto.dyson.chat.v1 import membership_pb2 as pb
from sidecar._proto.dyson.chat.v1.membership_pb2_grpc import (
    ChatMembershipServiceServicer,
    add_ChatMembershipServiceServicer_to_server,
)

# What a profile weighs on the real network, more or less: with it a sender's stamp is about 300 bytes.
PROFILE = {
    "bio": "Likes long walks and short queues.",
    "picture": "0199c2a4-77aa-7cc2-9d3b-2f8f3d1f7a55",
    "level": 12,
}


class YesToAll(ChatMembershipServiceServicer):
    def __init__(self) -> None:
        same = pb.Membership()
        joined_at = int(time.time()) - 3600
        same.joined_at.FromSeconds(joined_at)
        same.account.profile.update(PROFILE)
        same.account.updated_at.FromSeconds(joined_at)
        # Merged from bytes: it shares a core with the generator, whose messages wait as long as an answer takes.
        self._same = same.SerializeToString()

    async def GetMembership(self, request, context):  # noqa: ARG002, N802 - gRPC's signature
        return pb.GetMembershipResponse(membership=self._member(request.room_id, request.account_id))

    async def BatchGetMemberships(self, request, context):  # noqa: ARG002, N802
        return pb.BatchGetMembershipsResponse(
            memberships=[self._member(key.room_id, key.account_id) for key in request.keys]
        )

    def _member(self, room_id: str, account_id: str) -> pb.Membership:
        name = f"user-{account_id[-6:]}"
        member = pb.Membership.FromString(self._same)
        member.room_id, member.nick = room_id, name.title()
        member.account_id = member.account.id = account_id
        member.account.name = member.account.nick = name
        return member


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_ChatMembershipServiceServicer_to_server(YesToAll(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
