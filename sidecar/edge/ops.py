"""The listener of operators: probes, metrics, drain. Nothing of it is reachable through the signaling port."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from ipaddress import ip_address

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from sanic import HTTPResponse, Request
from sanic.exceptions import SanicException
from sanic.response import json, text

from sidecar.edge.listener import App, new_app


def ops_app(
    *, registry: CollectorRegistry, why_not_ready: Callable[[], str | None], begin_drain: Callable[[], object]
) -> App:
    """`/livez` while the loop turns, `/readyz`, `/metrics`, and `POST /drain` from loopback.

    `why_not_ready` speaks of this process alone: an outage of others shows in metrics, never here.
    """
    app = new_app("ops")

    @app.get("/livez")
    async def livez(_request: Request) -> HTTPResponse:
        return text("ok\n")

    @app.get("/readyz")
    async def readyz(_request: Request) -> HTTPResponse:
        problem = why_not_ready()
        return text("ok\n") if problem is None else text(problem + "\n", status=503)

    @app.get("/metrics")
    async def metrics(request: Request) -> HTTPResponse:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        page = encode(registry)
        headers = {"vary": "Accept, Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            page = gzip.compress(page, compresslevel=1)
            headers["content-encoding"] = "gzip"
        return HTTPResponse(page, headers=headers, content_type=content_type)

    @app.post("/drain")
    async def drain(request: Request) -> HTTPResponse:
        peer = request.conn_info.client_ip if request.conn_info else ""
        if not ip_address(peer).is_loopback:
            return json({"message": "only from loopback"}, status=403)
        begin_drain()
        return text("draining\n", status=202)

    async def error(_request: Request, exception: Exception) -> HTTPResponse:
        status = exception.status_code if isinstance(exception, SanicException) else 500
        return text(f"{exception if status < 500 else 'internal error'}\n", status=status)  # noqa: PLR2004

    app.error_handler.add(Exception, error)
    return app
