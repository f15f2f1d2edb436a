"""Hubs as replicas have them, in one process, over the bus a test is about; people who note what they get."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

from sidecar.bus.local import LocalBus
from sidecar.bus.nats import NatsBus
from sidecar.bus.nats_client import Access
from sidecar.bus.spanning import SpanningBus
from sidecar.signaling.counters import RoomCounters
from sidecar.signaling.envelope import Dialect, Identity
from sidecar.signaling.hub import Hub
from sidecar.signaling.outlet import Outlet
from sidecar.signaling.packets import Signal
from sidecar.signaling.presence import Member
from sidecar.signaling.room import Participant
from sidecar.transport.frames import frame_header
from sidecar.transport.tick import Tick
from tests.harness import guid, until


class Instruments:
    next_sample = math.inf

    def relayed(self, seconds: float) -> None: ...

    def answered(self, seconds: float) -> None: ...


class Counters:
    def open(self, room_id: str) -> RoomCounters:
        return RoomCounters()

    def close(self, room_id: str) -> None: ...


class Noted:
    """What a bus reports."""

    def __init__(self) -> None:
        self.sent = self.taken = self.gaps = 0
        self.drops: Counter[str] = Counter()

    def published(self) -> None:
        self.sent += 1

    def received(self) -> None:
        self.taken += 1

    def dropped(self, reason: str) -> None:
        self.drops[reason] += 1

    def gap(self) -> None:
        self.gaps += 1


class Person(Outlet):
    """One connection; it is its own outlet."""

    def __init__(self, account: str, name: str) -> None:
        super().__init__()
        self.account = account
        self.name = name
        self.packets: list[dict] = []
        self.member: Member
        self.welcome: list[Participant] = []
        self.hub: Hub

    def fail(self, error: Exception) -> None:
        raise error

    def write(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            payload, start = frame_header(data, start)
            self.packets.append(json.loads(data[payload:start])["data"])

    @property
    def connection(self) -> str:
        return self.member.connection_id

    def say(self, kind: str, data: object = None, *, to: str | None = None, to_connection: str | None = None):
        raw = json.dumps(data).encode()
        signal = Signal(kind, raw, to, to_connection)
        self.member.room.post(self.member, signal, size=len(raw), received_at=time.monotonic())

    def leave(self) -> None:
        self.hub.leave(self.member)

    def heard(self, *types: str) -> list[dict]:
        """Signals of these types so far; none named: all that are no presence."""
        return [
            p for p in self.packets if (p["type"] in types if types else "sdp" in p["type"] or not _told(p))
        ]

    def data(self) -> list[object]:
        """What others said to this person, in order."""
        return [p["data"] for p in self.packets if not _told(p)]

    def presence(self) -> list[tuple[str, str]]:
        """(what, account) of what was told of others, in order."""
        return [(p["type"], p["senderAccountId"]) for p in self.packets if _told(p)]

    def sees(self) -> dict[str, set[str]]:
        """Others present, by account, as this person was told: by the welcome, and by every packet since."""
        seen = {p.identity.account_id: set(p.connection_ids) for p in self.welcome}
        seen.setdefault(self.account, set()).add(self.connection)
        for packet in self.packets:
            if not _told(packet):
                continue
            account, connection = packet["senderAccountId"], packet["senderConnectionId"]
            there = seen.setdefault(account, set())
            match packet["type"]:
                case "user-joined":
                    assert not there, f"user-joined for {account}, who was there"
                    there.add(connection)
                case "connection-joined":
                    assert there
                    assert connection not in there
                    there.add(connection)
                case "connection-left":
                    assert connection in there
                    assert len(there) > 1
                    there.remove(connection)
                case "user-left":
                    assert there == {connection}, f"user-left with {there}"
                    there.remove(connection)
        seen[self.account].remove(self.connection)
        return {account: there for account, there in seen.items() if there}


def _told(packet: dict) -> bool:
    return packet["type"] in {"user-joined", "user-left", "connection-joined", "connection-left"}


class Replica:
    """A hub and what carries its rooms."""

    def __init__(
        self,
        access: Access | None,
        *,
        prefix: str = "sphere",
        timeout: float = 6.0,
        journal=None,
        followers=(),
        **options,
    ) -> None:
        self.noted = Noted()
        self.nats: NatsBus | None = None
        self.spanning: SpanningBus | None = None
        bus: LocalBus | SpanningBus = LocalBus()
        if access is not None:
            bus = self.spanning = SpanningBus(
                prefix=prefix,
                node_timeout_seconds=timeout,
                observer=self.noted,
                clock=time.monotonic,
                schedule=lambda work: asyncio.get_running_loop().call_soon(work),
                journal=journal,
            )
            self.nats = NatsBus(
                rooms=self.spanning,
                access=access,
                prefix=prefix,
                followers=followers,
                clock=time.monotonic,
                **options,
            )
        self.hub = Hub(
            bus=bus,
            schedule=Tick(),
            instruments=Instruments(),
            counters=Counters(),
            max_room_connections=0,
            max_connections_per_account=0,
        )

    async def start(self, *, connected: bool = True) -> None:
        if self.nats is not None:
            await self.nats.start()
            if connected:
                await until(lambda: self.nats.connected, "bus connected")

    async def close(self) -> None:
        if self.nats is not None:
            await self.nats.close()

    async def join(self, room: str, account: str | None = None, *, name: str = "") -> Person:
        account = account or guid()
        person = Person(account, name)
        person.hub = self.hub
        with self.hub.entering(room) as entered:
            await entered.settle()
            person.member, person.welcome = self.hub.join(
                room,
                connection_id=guid(),
                identity=Identity(account_id=account, name=name, nick="", profile=b"{}", updated_at=None),
                joined_at=time.time(),
                dialect=Dialect.GUIDE,
                outlet=person,
            )
        return person


class Cluster:
    """Replicas 0, 1, 2, by number; with the local bus they are all the same one."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = list(replicas)

    def __getitem__(self, number: int) -> Replica:
        return self.replicas[number % len(self.replicas)]

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(replica.start() for replica in self.replicas))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def flush(self) -> None:
        """Whatever was said before is with everybody after."""
        for _ in range(2):
            for replica in self.replicas:
                if replica.nats is not None and replica.nats.connected:
                    await replica.nats.flush()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.close()
