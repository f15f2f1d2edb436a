"""A wire between the sidecar and the chat service that can go silent."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

PING = b"\x00\x00\x08\x06\x00"
"""How an HTTP/2 PING frame begins that is no answer to one (RFC 9113, section 6.7)."""


class Wire:
    """A TCP relay. `go_silent` makes the connections there are swallow everything, without ever closing."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._silent: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.pings = 0
        """HTTP/2 PING frames of the one who connects, as far as each came alone."""

    @asynccontextmanager
    async def laid(self):
        listener = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        self.target = f"127.0.0.1:{port}"
        try:
            yield self
        finally:
            listener.close()
            for writer in self._writers:
                writer.close()
            for writer in self._writers:
                with suppress(OSError):
                    await writer.wait_closed()

    def go_silent(self) -> None:
        self._silent |= self._writers

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, other_writer}
        await asyncio.gather(
            self._carry(reader, other_writer, count=True), self._carry(other_reader, writer, count=False)
        )

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                self.pings += count and data.startswith(PING)
                if writer not in self._silent:
                    writer.write(data)
                    await writer.drain()
        writer.close()
