"""Where a key document comes from: a file, or one bounded HTTP GET."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import httptools

from sidecar.off_loop import OffLoop

MAX_DOCUMENT_BYTES = 262_144
_CHUNK_BYTES = 65_536
_OK = 200
_NOT_QUOTED = "%/?:@!$&'()*+,;=~"  # RFC 3986 3.3, 3.4; what is quoted already stays
_FIRST_FINAL_STATUS = 200  # 1xx answers announce another one


class Unreachable(OSError):
    """The document could not be had; the message says why, for an operator."""


class Source(Protocol):
    """A document that can change under us. Whoever reads sets the deadline."""

    @property
    def name(self) -> str: ...

    async def read(self) -> bytes:
        """The document as it is now.

        Raises:
            Unreachable: it cannot be had, or is over `MAX_DOCUMENT_BYTES`.
        """
        ...


class FileSource:
    """A file, read whole each time: a swapped symlink, a renamed and a rewritten file all look the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._off_loop = OffLoop(self._read)
        self.name = str(path)

    async def read(self) -> bytes:
        return await self._off_loop()

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                document = file.read(MAX_DOCUMENT_BYTES + 1)
        except OSError as error:
            raise Unreachable(error.strerror or type(error).__name__) from None
        if len(document) > MAX_DOCUMENT_BYTES:
            raise Unreachable(f"over {MAX_DOCUMENT_BYTES} bytes")
        return document


class UrlSource:
    """An http or https URL: one connection per read, no redirects, no proxies."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = url
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        target = quote(urlunsplit(("", "", parts.path or "/", parts.query, "")), safe=_NOT_QUOTED)
        host = f"[{self._host}]" if ":" in self._host else self._host.encode("idna").decode()
        self._request = (
            f"GET {target} HTTP/1.1\r\nHost: {host if parts.port is None else f'{host}:{parts.port}'}\r\n"
            "User-Agent: sphere-sidecar\r\nAccept: application/jwk-set+json, application/json\r\n"
            "Accept-Encoding: identity\r\nConnection: close\r\n\r\n"
        ).encode("ascii")

    async def read(self) -> bytes:
        try:
            return await self._get()
        except ssl.SSLError as error:
            raise Unreachable(f"TLS: {error.reason or error}") from None
        except OSError as error:
            if isinstance(error, Unreachable):
                raise
            raise Unreachable(error.strerror or str(error) or type(error).__name__) from None

    async def _get(self) -> bytes:
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        try:
            writer.write(self._request)
            answer = _Answer()
            while not answer.complete and (chunk := await reader.read(_CHUNK_BYTES)):
                answer.feed(chunk)
            return answer.document()
        finally:
            # Nothing of ours is left to send, and a peer that does not read must not hold us.
            writer.transport.abort()


class _Answer:
    """The callbacks of httptools' parser, gathering one answer up to the size limit."""

    def __init__(self) -> None:
        self.complete = False
        self._body = bytearray()
        self._received_bytes = 0
        self._encoding = b"identity"
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, chunk: bytes) -> None:
        self._received_bytes += len(chunk)
        if self._received_bytes > MAX_DOCUMENT_BYTES:
            raise Unreachable(f"an answer over {MAX_DOCUMENT_BYTES} bytes")
        try:
            self._parser.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise Unreachable("an answer that is not HTTP") from None

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-encoding":
            self._encoding = value.strip().lower()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.complete = self._parser.get_status_code() >= _FIRST_FINAL_STATUS

    def document(self) -> bytes:
        """The body of a 200. One cut short is left to the reader to see: no prefix of an object is JSON."""
        status = self._parser.get_status_code()
        if status != _OK:
            raise Unreachable(f"answered {status or 'nothing'}; expected 200 (redirects are not followed)")
        if self._encoding != b"identity":
            raise Unreachable("an answer in a content encoding that was not asked for")
        return bytes(self._body)
