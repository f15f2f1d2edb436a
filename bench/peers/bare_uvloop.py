"""Peer: how little a relay in Python on uvloop can cost. Parses no JSON, checks nothing (bare_uvloop.py PORT).

A delivery is 350 bytes longer than what was sent, as the sidecar's is.
"""

import asyncio
import sys
from collections import defaultdict

import uvloop
from websockets.speedups import apply_mask

ENVELOPE, SENDER = b" " * 50, b"i" * 300
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
rooms = defaultdict(list)


class Relay(asyncio.Protocol):
    __slots__ = ("received", "room", "transport")

    def connection_made(self, transport):
        self.transport = transport
        self.received = b""
        self.room = None

    def data_received(self, data):
        self.received += data
        if self.room is not None:
            self.relay()
        elif b"\r\n\r\n" in self.received:
            self.room = rooms[self.received.split(b" ", 2)[1].split(b"?")[0]]
            self.room.append(self)
            self.received = b""
            self.transport.write(ANSWER)

    def relay(self):
        while len(self.received) >= 8:
            frame = self.received
            end = 8 + int.from_bytes(frame[2:4])  # all that come here have a 16-bit size
            if len(frame) < end:
                return
            payload = apply_mask(frame[8:end], frame[4:8])
            size = len(payload) + len(ENVELOPE) + len(SENDER)
            out = b"\x81\x7e" + size.to_bytes(2) + ENVELOPE + payload + SENDER
            for peer in self.room:
                if peer is not self:
                    peer.transport.write(out)
            self.received = frame[end:]

    def connection_lost(self, _):
        if self.room is not None:
            self.room.remove(self)


async def main():
    server = await asyncio.get_running_loop().create_server(
        Relay, "127.0.0.1", int(sys.argv[1]), backlog=4096
    )
    await server.serve_forever()


uvloop.run(main())
