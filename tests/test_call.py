"""Two WebRTC stacks complete a real call, media both ways, with the sidecar as their only signaling."""

from __future__ import annotations

import asyncio

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaBlackhole
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

from tests.harness import Client, guid, until

FRAMES = 10


class Caller:
    """A person in a call: a peer connection, and the signaling client it goes through."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.peer = RTCPeerConnection()
        self.frames = {"audio": 0, "video": 0}
        self.tasks: list[asyncio.Task] = []
        self.peer.addTrack(AudioStreamTrack())
        self.peer.addTrack(VideoStreamTrack())
        self.sink = MediaBlackhole()
        self.peer.on("track", lambda track: self.tasks.append(asyncio.create_task(self.watch(track))))

    async def watch(self, track) -> None:
        while True:
            await track.recv()
            self.frames[track.kind] += 1

    async def describe(self, kind: str) -> None:
        """Send our offer or answer; aiortc puts its candidates into it."""
        make = self.peer.createOffer if kind == "offer" else self.peer.createAnswer
        await self.peer.setLocalDescription(await make())
        await self.client.send({"type": kind, "data": {"type": kind, "sdp": self.peer.localDescription.sdp}})

    async def hear(self, kind: str) -> None:
        description = (await self.client.receive_signal(kind))["data"]
        await self.peer.setRemoteDescription(RTCSessionDescription(**description))

    async def hang_up(self) -> None:
        await self.peer.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_two_people_call_each_other(world):
    room = guid()
    alice, bob = Caller(await world.join(room)), Caller(await world.join(room))
    try:
        await alice.client.receive_signal("user-joined")
        await alice.describe("offer")
        await bob.hear("offer")
        await bob.describe("answer")
        await alice.hear("answer")
        await until(
            lambda: all(min(one.frames.values()) > FRAMES for one in (alice, bob)),
            "media both ways",
            seconds=30,
        )
    finally:
        await alice.hang_up()
        await bob.hang_up()
