"""A real HTTP server for a JWKS, on loopback, that misbehaves on request."""

import asyncio
from contextlib import asynccontextmanager


class JwksServer:
    """Answers each request with `body` and `status`, or as `answer(reader_free_writer)` says; counts them."""

    def __init__(self, body=b'{"keys":[]}'):
        self.body = body
        self.status = "200 OK"
        self.headers = ""
        self.misbehave = None
        self.requests = []
        self.port = 0
        self.scheme = "http"

    @property
    def url(self):
        return f"{self.scheme}://localhost:{self.port}/.well-known/jwks?v=1"

    async def serve_one(self, reader, writer):
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.misbehave is not None:
                await self.misbehave(writer)
            else:
                head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.body)}\r\n{self.headers}\r\n"
                writer.write(head.encode() + self.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()


@asynccontextmanager
async def serving(body=b'{"keys":[]}', *, tls=None):
    jwks = JwksServer(body)
    server = await asyncio.start_server(jwks.serve_one, "127.0.0.1", 0, ssl=tls)
    jwks.port = server.sockets[0].getsockname()[1]
    jwks.scheme = "https" if tls else "http"
    try:
        yield jwks
    finally:
        server.close()
        await server.wait_closed()
