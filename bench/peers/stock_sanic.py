"""Peer: the relay on Sanic's own WebSocket handler. No authentication (stock_sanic.py PORT)."""

import json
import sys
import uuid
from collections import defaultdict

from sanic import Sanic

app = Sanic("stock")
rooms = defaultdict(set)


@app.websocket("/<path:path>")
async def relay(request, ws, path):  # noqa: ARG001 - Sanic's signature
    me = str(uuid.uuid4())
    info = {"id": me, "name": "user", "nick": "User", "profile": {}, "updatedAt": "2026-01-01T00:00:00Z"}
    peers = rooms[path]
    peers.add(ws)
    try:
        async for text in ws:
            said = json.loads(text)
            data = {"type": said["type"], "data": said["data"], "senderAccountId": me, "senderInfo": info}
            out = json.dumps({"type": "webrtc.signal", "data": data})
            for peer in list(peers):
                if peer is not ws:
                    await peer.send(out)
    finally:
        peers.discard(ws)


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, access_log=False, motd=False, backlog=4096)
