"""What every test through a gateway needs: people with tokens, a chat service that knows them, a sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect

from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.harness import Client, Sidecar, auth_settings, guid, run_sidecar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HOST = "api.example.org"


@dataclass
class Network:
    """The network around sidecars: who may sign, who is in which room."""

    issuer: Issuer
    chat: ChatServiceDouble
    _clients: list[Client] = field(default_factory=list)

    def member(self, room: str) -> str:
        """The account id of a new member of `room`."""
        account = guid()
        self.chat.allow(room, account)
        return account

    @contextlib.asynccontextmanager
    async def sidecar(self, **settings: Any) -> AsyncIterator[Sidecar]:
        base = {"membership_target": self.chat.target, "log_level": "info", **auth_settings(self.issuer)}
        async with run_sidecar(**(base | settings)) as sidecar:
            yield sidecar

    async def call(
        self,
        gateway_port: int,
        room: str,
        account: str,
        *,
        prefix: str = "/sphere",
        tls: ssl.SSLContext | None = None,
        query: bool = False,
        **options: Any,
    ) -> Client:
        """Join `room` through a gateway; with `query` the token is in the URL, as some clients put it."""
        token = self.issuer.token(account)
        headers = dict(options.pop("headers", {}))
        if not query:
            headers["Authorization"] = f"Bearer {token}"
        url = (
            f"{'wss' if tls else 'ws'}://{HOST}{prefix}/chat/realtime/{room}{f'?tk={token}' if query else ''}"
        )
        client = Client(
            await connect(
                url, host="127.0.0.1", port=gateway_port, ssl=tls, additional_headers=headers,
                proxy=None, compression=None, **options,
            )
        )  # fmt: skip
        self._clients.append(client)
        client.welcome = (await client.receive())["data"]
        return client

    async def leave(self) -> None:
        """Close every client there ever was."""
        await asyncio.gather(*(client.close() for client in self._clients))


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with ChatServiceDouble() as chat:
        network = Network(Issuer(tmp_path / "issuer"), chat)
        yield network
        await network.leave()


async def offer_and_answer(caller: Client, callee: Client) -> None:
    """A signaling round trip, by the identities the sidecar stamps."""
    await caller.send({"type": "offer", "data": {"sdp": "o"}, "to": callee.welcome["userId"]})
    offer = await callee.receive_signal("offer")
    assert offer["senderAccountId"] == caller.welcome["userId"]
    assert offer["data"] == {"sdp": "o"}
    await callee.send({"type": "answer", "data": {"sdp": "a"}, "to": offer["senderAccountId"]})
    answer = await caller.receive_signal("answer")
    assert answer["senderAccountId"] == callee.welcome["userId"]
