"""The live page for people, on the operators' listener: a few files and one JSON document."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from sanic import HTTPResponse, Request

from sidecar.edge.listener import App
from sidecar.edge.ops import READ
from sidecar.observe.history import State

_FILES = Path(__file__).parent.parent / "observe" / "live"
_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "live.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def add_live_page(app: App, *, state: Callable[[], State]) -> None:
    """Serve the page at `/` and what it shows at `/state`."""
    for name, content_type in _TYPES.items():
        _add_file(
            app, "/" if name == "index.html" else f"/{name}", (_FILES / name).read_bytes(), content_type
        )

    @app.route("/state", methods=READ)
    async def show(_request: Request) -> HTTPResponse:
        return HTTPResponse(msgspec.json.encode(state()), headers=_HEADERS, content_type="application/json")


def _add_file(app: App, path: str, content: bytes, content_type: str) -> None:
    async def serve(_request: Request) -> HTTPResponse:
        return HTTPResponse(content, headers=_HEADERS, content_type=content_type)

    app.add_route(serve, path, methods=READ, name=f"live_{path.strip('/') or 'page'}".replace(".", "_"))
