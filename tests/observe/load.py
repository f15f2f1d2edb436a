"""A known load: people in rooms who signal, count what they send and receive, and handshakes refused for a reason."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field

from websockets.exceptions import InvalidStatus

from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.harness import Client, Sidecar, guid

KINDS = ("offer", "answer", "ice-candidate", "hang-up")


@dataclass
class Counted:
    """What the clients of one room saw."""

    sent: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


@dataclass
class Load:
    """People in rooms, until `leave`."""

    sidecar: Sidecar
    chat: ChatServiceDouble
    issuer: Issuer
    people: dict[str, list[Client]] = field(default_factory=dict)
    counted: dict[str, Counted] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    async def fill(self, *sizes: int) -> None:
        """A room for each size, with that many people."""
        for size in sizes:
            room = guid()
            self.counted[room] = Counted()
            self.people[room] = [await self.enter(room) for _ in range(size)]

    async def enter(self, room: str) -> Client:
        account = guid()
        self.chat.allow(room, account)
        return await self.sidecar.connect(room, self.issuer.token(account))

    async def talk(self, rounds: int = 1) -> None:
        """Everybody sends one signal of each kind to everybody else, and all of them arrive."""
        for _ in range(rounds):
            for room in self.people:
                await self._talk_in(room)

    async def _talk_in(self, room: str) -> None:
        people, counted = self.people[room], self.counted[room]
        for client in people:
            for kind in KINDS:
                text = json.dumps({"type": kind, "data": {"text": "x" * 40}})
                counted.sent[kind if kind != "hang-up" else "other"] += 1
                counted.sent_bytes += len(text)
                await client.send(text)
        expected = (len(people) - 1) * len(KINDS)
        await asyncio.gather(*(self._listen(client, counted, expected) for client in people))

    async def _listen(self, client: Client, counted: Counted, expected: int) -> None:
        while expected:
            async with asyncio.timeout(15):
                text = await client.ws.recv()
            if json.loads(text).get("data", {}).get("type") in KINDS:
                expected -= 1
                counted.received += 1
                counted.received_bytes += len(text)

    async def be_refused(self) -> None:
        """Handshakes without a token, with an expired one, and into a room of others."""
        room = next(iter(self.people))
        await self.try_to_enter(room, None, "unauthorized")
        await self.try_to_enter(room, self.issuer.token(guid(), ttl_seconds=-600), "token_expired")
        await self.try_to_enter(room, self.issuer.token(guid()), "not_a_member")

    async def try_to_enter(self, room: str, token: str | None, outcome: str) -> None:
        with contextlib.suppress(InvalidStatus):
            await self.sidecar.connect(room, token)
            raise AssertionError(f"expected {outcome}")
        self.refused[outcome] += 1

    async def leave(self) -> None:
        for people in self.people.values():
            await asyncio.gather(*(client.close() for client in people))
