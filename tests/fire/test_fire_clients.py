"""Clients that nobody here wrote: websockets, aiohttp, picows, Node's ws and Node's own WebSocket, all in one room."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import aiohttp
import picows
import pytest

from tests.harness import DEADLINE_SECONDS, guid

NODE = Path(__file__).parent / "node"


class Websockets:
    """`websockets`, with the compression it offers by itself."""

    async def run(self, url: str, token: str, others: int) -> list[dict]:
        from websockets.asyncio.client import connect  # noqa: PLC0415

        async with connect(url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None) as ws:
            return await _converse(ws.send, ws.recv, others)


class Aiohttp:
    """`aiohttp`, token in the subprotocol, heartbeats of its own."""

    async def run(self, url: str, token: str, others: int) -> list[dict]:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, protocols=["bearer", token], heartbeat=0.5, compress=15) as ws,
        ):
            assert ws.protocol == "bearer"
            return await _converse(ws.send_str, ws.receive_str, others)


class Picows:
    """`picows`, token in the query."""

    async def run(self, url: str, token: str, others: int) -> list[dict]:
        received: asyncio.Queue[str] = asyncio.Queue()

        class Listener(picows.WSListener):
            def on_ws_frame(self, transport, frame):
                if frame.msg_type == picows.WSMsgType.TEXT:
                    received.put_nowait(frame.get_payload_as_utf8_text())

        transport, _ = await picows.ws_connect(Listener, f"{url}?tk={token}", enable_auto_pong=True)

        async def send(text: str) -> None:
            transport.send(picows.WSMsgType.TEXT, text.encode())

        try:
            return await _converse(send, received.get, others)
        finally:
            transport.send_close(picows.WSCloseCode.OK)
            await transport.wait_disconnected()


async def _converse(send, receive, others: int) -> list[dict]:
    """Say hello once everybody is there; what the others said."""
    first = json.loads(await receive())
    there = len(first["data"]["participants"])
    heard, said = [], False
    while len(heard) < others:
        if there == others and not said:
            said = True
            await send(
                json.dumps({"type": "offer", "data": {"sdp": "ünï\U0001f600" * 100}}, ensure_ascii=False)
            )
        packet = json.loads(await receive())["data"]
        there += packet.get("type") == "user-joined"
        if packet.get("type") == "offer":
            heard.append(packet)
    return heard


class Node:
    """A script that does the same with Node's `ws` or Node's own WebSocket."""

    def __init__(self, library: str) -> None:
        self.library = library

    async def run(self, url: str, token: str, others: int) -> list[dict]:
        process = await asyncio.create_subprocess_exec(
            "node", "--experimental-websocket", "converse.mjs", self.library, url, token, str(others),
            cwd=NODE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode == 0, self.library
        return json.loads(out)


@pytest.fixture(scope="module")
def node_modules():
    if not (NODE / "node_modules" / "ws").exists():
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=NODE, check=True, timeout=120
        )


async def test_libraries_nobody_here_wrote_talk_to_each_other_and_leave_cleanly(
    start, chat, issuer, node_modules
):
    room = guid()
    clients = {guid(): client for client in (Websockets(), Aiohttp(), Picows(), Node("ws"), Node("own"))}
    for account in clients:
        chat.allow(room, account)
    async with start() as sidecar:
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            heard = await asyncio.gather(
                *(
                    client.run(sidecar.url(room), issuer.token(account), len(clients) - 1)
                    for account, client in clients.items()
                )
            )
        for account, signals in zip(clients, heard, strict=True):
            assert {signal["senderAccountId"] for signal in signals} == set(clients) - {account}
            assert {signal["data"]["sdp"] for signal in signals} == {"ünï\U0001f600" * 100}
        for account in clients:
            line = await sidecar.logged("connection ended", account=account)
            assert (line["code"], line["closed_by"]) in {(1000, "client"), (1005, "client")}
