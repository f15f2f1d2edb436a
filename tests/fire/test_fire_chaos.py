"""Joins, leaves, talk, stalls, kicks, an unreachable chat service, new keys, in an order nobody planned.

After each step: who is in which room as everybody in it sees it, every packet's sender and room, and that each receiver
has each sender's packets in order, none missing. At the end: nothing left. `CHAOS_SECONDS` and `CHAOS_SEED` set how
long and which order; a failure names its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from websockets.exceptions import ConnectionClosed, InvalidStatus

from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.fire.raw import begin, dial
from tests.harness import Client, auth_settings, guid, run_sidecar, until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "25"))
ROOMS, ACCOUNTS = 4, 9


@dataclass(eq=False)
class Person:
    """One connection, and what it has seen of its room."""

    client: Client
    room: str
    account: str
    seen: set[str] = field(default_factory=set)
    heard: dict[str, int] = field(default_factory=dict)
    said: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.client.connection_id

    async def listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                packet = json.loads(await self.client.ws.recv())
                if packet["type"] != "webrtc.signal":
                    self.problems.append(f"unasked: {packet}")
                    continue
                self.take(packet["data"])

    def take(self, signal: dict) -> None:
        sender = signal["senderConnectionId"]
        match signal["type"]:
            case "user-joined" | "connection-joined":
                self.seen.add(sender)
            case "user-left" | "connection-left":
                self.seen.discard(sender)
            case _:
                number = signal["data"]["number"]
                if number != self.heard.get(sender, number - 1) + 1:
                    self.problems.append(f"{number} after {self.heard[sender]} from {sender}")
                self.heard[sender] = number
                claimed = (signal["data"]["room"], signal["data"]["account"], signal["data"]["connection"])
                if claimed != (self.room, signal["senderAccountId"], sender):
                    self.problems.append(f"{claimed} is not {self.room} {signal['senderAccountId']} {sender}")


class Chaos:
    def __init__(
        self, sidecar, chat: ChatServiceDouble, issuer: Issuer, keys: Path, *, dice: random.Random
    ) -> None:
        self.sidecar = sidecar
        self.chat = chat
        self.issuer = issuer
        self.keys = keys
        self.dice = dice
        self.rooms = [guid() for _ in range(ROOMS)]
        self.accounts = [guid() for _ in range(ACCOUNTS)]
        self.people: list[Person] = []
        self.listeners: dict[Person, asyncio.Task] = {}
        self.steps: list[str] = []
        self.allowed = {(room, account) for room in self.rooms for account in self.accounts}
        for room, account in self.allowed:
            chat.allow(room, account)

    async def join(self) -> None:
        room, account = self.dice.choice(sorted(self.allowed))
        client = await self.sidecar.connect(room, self.issuer.token(account))
        person = Person(client, room, account)
        person.seen = {
            one for participant in client.welcome["participants"] for one in participant["connectionIds"]
        }
        self.people.append(person)
        self.listeners[person] = asyncio.create_task(person.listen())

    async def talk(self) -> None:
        for person in self.dice.sample(self.people, k=min(4, len(self.people))):
            for _ in range(self.dice.randrange(1, 6)):
                person.said += 1
                data = {
                    "room": person.room,
                    "account": person.account,
                    "connection": person.id,
                    "number": person.said,
                }
                await person.client.send({"type": "offer", "data": data})

    async def leave(self) -> None:
        if self.people:
            person = self.dice.choice(self.people)
            if self.dice.random() < 0.5:
                await person.client.close()
            else:
                person.client.ws.transport.abort()
            await self._forget(person)

    async def kick(self) -> None:
        if self.people:
            person = self.dice.choice(self.people)
            self.chat.deny(person.room, person.account, tell=True)
            for one in [
                one for one in self.people if (one.room, one.account) == (person.room, person.account)
            ]:
                assert (await one.client.closed())[0] == 4403
                await self._forget(one)
            self.chat.allow(person.room, person.account, tell=True)

            async def may_come_back() -> bool:
                answer = await self.sidecar.probe(person.room, self.issuer.token(person.account))
                return answer.json["code"] == "WEBSOCKET_EXPECTED"

            await until(may_come_back, "the kicked one may come back")

    async def stall(self) -> None:
        room, account = self.dice.choice(sorted(self.allowed))
        async with dial(self.sidecar, receive_buffer=4096) as peer:
            await begin(peer, room, self.issuer.token(account))
            peer.stop_reading()
            await self.talk()

    async def lose_the_chat_service(self) -> None:
        await self.chat.stop()
        try:
            room, account = self.dice.choice(sorted(self.allowed))
            with contextlib.suppress(InvalidStatus):  # unless the answer is cached
                client = await self.sidecar.connect(room, self.issuer.token(account))
                await client.close()
            await self.talk()
        finally:
            await self.chat.start()

        async def asked_again() -> bool:
            stranger = await self.sidecar.probe(self.rooms[0], self.issuer.token(guid()))
            return stranger.json["code"] == "NOT_A_MEMBER"

        await until(asked_again, "the chat service is asked again")

    async def rotate_keys(self) -> None:
        self.issuer = Issuer(self.keys.parent / guid())
        shutil.copy(self.issuer.public_file, self.keys.with_suffix(".new"))
        self.keys.with_suffix(".new").replace(self.keys)

        async def known() -> bool:
            answer = await self.sidecar.probe(self.rooms[0], self.issuer.token(self.accounts[0]))
            return answer.json["code"] == "WEBSOCKET_EXPECTED"

        await until(known, "the new key counts")

    async def _forget(self, person: Person) -> None:
        self.people.remove(person)
        await self.listeners.pop(person)
        assert not person.problems, person.problems

    async def holds(self) -> None:
        """The invariants, once everybody has heard what was on its way."""
        await until(lambda: not self._wrong(), "everybody sees the same")

        async def counted() -> bool:
            metrics = await self.sidecar.metrics()
            return metrics["sphere_sidecar_connections"] == len(self.people) and metrics[
                "sphere_sidecar_rooms"
            ] == len({person.room for person in self.people})

        await until(counted, "the sidecar counts as many")

    def _wrong(self) -> list[str]:
        wrong = []
        for person in self.people:
            assert not person.problems, person.problems
            others = {other.id for other in self.people if other.room == person.room} - {person.id}
            if person.seen - {person.id} != others:
                wrong.append(f"{person.id} sees {person.seen} in place of {others}")
            wrong += [
                f"{person.id} has {person.heard[other.id]} of {other.said}"
                for other in self.people
                if other.id in person.heard and person.heard[other.id] != other.said
            ]
        return wrong


def count(folder: Path) -> int:
    return len(list(folder.iterdir()))


async def test_invariants_hold_whatever_happens(tmp_path):
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
    dice = random.Random(seed)
    keys = tmp_path / "keys.pem"
    issuer = Issuer(tmp_path / "first")
    shutil.copy(issuer.public_file, keys)
    settings = auth_settings(issuer) | {
        "jwt_public_key_file": keys, "jwt_jwks_refresh_seconds": 0.5, "membership_recheck_seconds": 1,
        "membership_cache_seconds": 2, "membership_deny_seconds": 0, "handshake_rate": 0, "address_handshake_rate": 0,
        "auth_failures_per_minute": 0, "message_rate": 0, "max_connections_per_account": 0,
    }  # fmt: skip
    async with ChatServiceDouble() as chat, run_sidecar(**settings, membership_target=chat.target) as sidecar:
        chaos = Chaos(sidecar, chat, issuer, keys, dice=dice)
        files = Path(f"/proc/{sidecar.process.pid}/fd")
        await until(lambda: chat.watching, "the watch is open")
        await chaos.holds()
        before = count(files)
        kinds = [chaos.join] * 8 + [chaos.talk] * 10 + [chaos.leave] * 5 + [chaos.kick] * 2
        kinds += [chaos.stall] * 2 + [chaos.lose_the_chat_service, chaos.rotate_keys]
        end = time.monotonic() + SECONDS
        try:
            for kind in [chaos.lose_the_chat_service, chaos.rotate_keys, chaos.kick, chaos.stall]:
                await chaos.join()
                await kind()
                await chaos.holds()
            while time.monotonic() < end:
                kind = dice.choice(kinds)
                chaos.steps.append(kind.__name__)
                await kind()
                await chaos.holds()
            while chaos.people:
                await chaos.leave()
            await chaos.holds()
        except BaseException as error:
            error.add_note(f"CHAOS_SEED={seed}, step {len(chaos.steps)}: {chaos.steps[-5:]} {chaos._wrong()}")
            raise
        assert len(chaos.steps) > 5
        await until(lambda: count(files) <= before + 2, "files are closed")
        bugs = [line for line in sidecar.log if line.get("level") == "error"]
        assert not bugs, bugs[:3]
