"""The WebSocket opening handshake, server's side (RFC 6455 section 4.2)."""

from __future__ import annotations

import binascii

from sanic import Request
from websockets.utils import accept_key

_KEY_BYTES = 16


def upgrade_problem(request: Request) -> str | None:
    """Why this request is no WebSocket upgrade we can serve; None if it is one."""
    headers = request.headers
    if not _lists(headers.getall("upgrade", []), "websocket"):
        return "this is a WebSocket endpoint"
    if not _lists(headers.getall("connection", []), "upgrade"):
        return "the Connection header does not say Upgrade"
    if headers.getall("sec-websocket-version", []) != ["13"]:
        return "only WebSocket version 13 is spoken here"
    keys = headers.getall("sec-websocket-key", [])
    if len(keys) != 1 or not _is_key(keys[0].strip()):
        return "Sec-WebSocket-Key must be 16 bytes in base64, once"
    if request.version != "1.1":
        return "a WebSocket upgrade needs HTTP/1.1"
    if "transfer-encoding" in headers or headers.get("content-length", "0").strip() != "0":
        return "an upgrade has no body"
    return None


def switching_protocols(request: Request, *, select_bearer: bool) -> bytes:
    """The head of the 101 answer to a request without an `upgrade_problem`."""
    accept = accept_key(request.headers["sec-websocket-key"].strip())
    subprotocol = "Sec-WebSocket-Protocol: bearer\r\n" if select_bearer else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{subprotocol}\r\n"
    ).encode()


def _lists(lines: list[str], token: str) -> bool:
    """Whether comma-separated lists name `token`, in any letter case."""
    return token in map(str.strip, ",".join(lines).lower().split(","))


def _is_key(value: str) -> bool:
    try:
        return len(binascii.a2b_base64(value, strict_mode=True)) == _KEY_BYTES
    except ValueError:
        return False
