"""A rolling restart of real sidecars under calls of two, whose clients do what the reconnect packet asks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Self

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.harness import Sidecar, guid, until

Start = Callable[[], AbstractAsyncContextManager[Sidecar]]
RETRY_SECONDS = 0.2
SPEAKING_SECONDS = 0.5


class Fleet:
    """Replicas, and the gateway's choice among those that are ready."""

    def __init__(self, start: Start, replicas: int) -> None:
        self.ready: list[Sidecar] = []
        self._start = start
        self._replicas = replicas
        self._ends: dict[int, contextlib.AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(self.add() for _ in range(self._replicas)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for end in self._ends.values():
            await end.aclose()

    async def add(self) -> None:
        end = contextlib.AsyncExitStack()
        sidecar = await end.enter_async_context(self._start())
        self._ends[sidecar.port] = end
        self.ready.append(sidecar)

    async def restart_each(self) -> None:
        """One after the other: it drains, it ends, another is ready in its place."""
        for old in list(self.ready):
            self.ready.remove(old)
            old.terminate()
            assert await asyncio.wait_for(old.process.wait(), 60) == 0
            await self._ends.pop(old.port).aclose()
            await self.add()


class Caller:
    """One of the two people of a call. Times are on the monotonic clock."""

    def __init__(self, fleet: Fleet, room: str, account: str, token: str) -> None:
        self.account = account
        self.left_at = 0.0
        self.moved_at: list[float] = []
        self.away: list[float] = []
        """Seconds from each reconnect packet to the next welcome; the wait it asks for is part of them."""
        self.others: set[str] = set()
        self.here = False
        self.tries_in_vain = 0
        self.closes: list[int] = []
        self._fleet = fleet
        self._room = room
        self._token = token

    async def stay(self) -> None:
        """Be in the call until cancelled, wherever that is possible."""
        while True:
            try:
                client = await random.choice(self._fleet.ready).connect(self._room, self._token)
            except (OSError, InvalidHandshake, ConnectionClosed):
                self.tries_in_vain += 1
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self.left_at:
                self.away.append(time.monotonic() - self.left_at)
            self.others = {person["accountId"] for person in client.welcome["participants"]} - {self.account}
            self.here = True
            speaking = asyncio.create_task(self._speak(client.ws))
            wait = await self._listen(client.ws)
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
            await asyncio.sleep(wait)

    async def _listen(self, ws: ClientConnection) -> float:
        """Seconds to wait before coming back."""
        wait = 0.0
        with contextlib.suppress(ConnectionClosed):
            while True:
                packet = json.loads(await ws.recv())["data"]
                match packet:
                    case {"reconnectAfterMs": after_ms}:
                        wait = after_ms / 1000
                        self.here, self.left_at = False, time.monotonic()
                        self.moved_at.append(self.left_at)
                    case {"type": "user-joined", "senderAccountId": account}:
                        self.others.add(account)
                    case {"type": "user-left", "senderAccountId": account}:
                        self.others.discard(account)
        self.here = False
        self.closes.append(ws.close_code or 1006)
        return wait

    async def _speak(self, ws: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(SPEAKING_SECONDS * random.uniform(0.5, 1.5))
                await ws.send(json.dumps({"type": "offer", "data": {"sdp": "x" * 1000}}))


class Calls:
    """`number` calls of two people each, and how long everybody is away."""

    def __init__(self, fleet: Fleet, chat: ChatServiceDouble, issuer: Issuer, number: int) -> None:
        self.pairs: list[tuple[Caller, Caller]] = []
        for _ in range(number):
            room, accounts = guid(), (guid(), guid())
            for account in accounts:
                chat.allow(room, account)
            one, other = (Caller(fleet, room, account, issuer.token(account)) for account in accounts)
            self.pairs.append((one, other))
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def callers(self) -> list[Caller]:
        return [caller for pair in self.pairs for caller in pair]

    def together(self) -> int:
        """Calls whose two people are connected and see each other, and nobody else."""
        return sum(
            one.here and other.here and one.others == {other.account} and other.others == {one.account}
            for one, other in self.pairs
        )

    async def all_together(self) -> None:
        await until(lambda: self.together() == len(self.pairs), "all calls together", seconds=60)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(caller.stay()) for caller in self.callers]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
