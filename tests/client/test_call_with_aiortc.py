"""Two independent WebRTC stacks agree: aiortc and Chromium complete a call through the sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, VideoStreamTrack
from aiortc.sdp import candidate_from_sdp
from websockets.asyncio.client import connect

from tests.client.desk import BROWSER_SECONDS, open_page, run_browser, run_desk, sees
from tests.harness import Client, until


class Peer:
    """A person in the room whose client is aiortc; the signals are the guide's, written by hand."""

    def __init__(self, client: Client) -> None:
        self.frames = 0
        self._client = client
        self._pc = RTCPeerConnection()
        self._pc.addTrack(VideoStreamTrack())
        self._pc.on("track", self._took)
        self._tasks: list[asyncio.Task] = []

    def start(self) -> None:
        self._tasks.append(asyncio.create_task(self._answer_signals()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pc.close()
        await self._client.close()

    async def say_hello(self) -> None:
        await self._client.send({"type": "hello", "data": {}})

    async def offer(self) -> None:
        """To everyone, in the flat shape, as the guide's client does."""
        await self._pc.setLocalDescription(await self._pc.createOffer())
        await self._client.send({"type": "offer", "offer": self._description()})

    def _description(self) -> dict[str, str]:
        return {"type": self._pc.localDescription.type, "sdp": self._pc.localDescription.sdp}

    async def _answer_signals(self) -> None:
        while True:
            packet = json.loads(await self._client.ws.recv())
            signal = packet["data"] if packet["type"] == "webrtc.signal" else {"type": None}
            if signal["type"] == "offer":
                await self._pc.setRemoteDescription(RTCSessionDescription(**signal["data"]["offer"]))
                await self._pc.setLocalDescription(await self._pc.createAnswer())
                answer = {"answer": self._description()}
                await self._client.send(
                    {"type": "answer", "data": answer, "toConnection": signal["senderConnectionId"]}
                )
            elif signal["type"] == "answer":
                await self._pc.setRemoteDescription(RTCSessionDescription(**signal["data"]["answer"]))
            elif signal["type"] == "ice-candidate":
                await self._take_candidate(signal["data"]["candidate"])

    async def _take_candidate(self, told: dict) -> None:
        if not told["candidate"]:
            return
        candidate = candidate_from_sdp(told["candidate"].removeprefix("candidate:"))
        candidate.sdpMid, candidate.sdpMLineIndex = told["sdpMid"], told["sdpMLineIndex"]
        await self._pc.addIceCandidate(candidate)

    def _took(self, track) -> None:
        if track.kind == "video":
            self._tasks.append(asyncio.create_task(self._watch(track)))

    async def _watch(self, track) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                await track.recv()
                self.frames += 1


@pytest.mark.parametrize("aiortc_offers", [False, True], ids=["chromium offers", "aiortc offers"])
async def test_aiortc_and_chromium_complete_a_call(tmp_path, aiortc_offers):
    async with run_desk(tmp_path) as desk, run_browser() as browser:
        alice = await open_page(browser, desk.link("alice", "lobby"))
        await alice.wait_for_function("window.demo?.call?.session")
        url = f"{desk.origin.replace('http', 'ws')}{desk.world['mountPrefix']}/chat/realtime/{desk.room('lobby')}"
        headers = {"Authorization": f"Bearer {await desk.token('bob')}"}
        peer = Peer(Client(await connect(url, additional_headers=headers, proxy=None)))
        peer.start()
        try:
            await (peer.offer() if aiortc_offers else peer.say_hello())
            await sees(alice, 1)
            await until(lambda: peer.frames > 10, "frames in aiortc", seconds=BROWSER_SECONDS)
        finally:
            await peer.stop()
        await alice.wait_for_function("demo.call.remotes.length === 0")
