"""Peer: the relay on `websockets`' asyncio server with uvloop. No authentication (python_websockets.py PORT)."""

import json
import sys
import uuid
from collections import defaultdict

import uvloop
from websockets.asyncio.server import broadcast, serve

rooms = defaultdict(set)


async def relay(ws):
    me = str(uuid.uuid4())
    info = {"id": me, "name": "user", "nick": "User", "profile": {}, "updatedAt": "2026-01-01T00:00:00Z"}
    peers = rooms[ws.request.path.split("?")[0]]
    peers.add(ws)
    try:
        async for text in ws:
            said = json.loads(text)
            data = {"type": said["type"], "data": said["data"], "senderAccountId": me, "senderInfo": info}
            out = json.dumps({"type": "webrtc.signal", "data": data})
            broadcast([peer for peer in peers if peer is not ws], out)
    finally:
        peers.discard(ws)


async def main():
    async with serve(relay, "127.0.0.1", int(sys.argv[1]), compression=None, backlog=4096) as server:
        await server.serve_forever()


uvloop.run(main())
