"""The listener of operators: probes, metrics, drain, log level; nothing of it can be reached through the other port."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address

import structlog
from sanic import HTTPResponse, Request
from sanic.exceptions import SanicException
from sanic.response import text

from sidecar.edge.listener import App, new_app
from sidecar.observe.logs import LEVELS

READ = ("GET", "HEAD")
_ISTIO_INBOUND = ip_address("127.0.0.6")
"""From here Istio's proxy hands on what came from outside: loopback, and yet not this machine."""
log = structlog.stdlib.get_logger(__name__)

_ONLY_FROM_HERE = "only from loopback, not through a proxy or a browser\n"


def ops_app(
    *,
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
    why_not_ready: Callable[[], str | None],
    begin_drain: Callable[[], object],
    set_log_level: Callable[[str], None],
) -> App:
    """`/livez` while the loop turns, `/readyz`, `/metrics`; from loopback `POST /drain` and `POST /log-level`.

    `why_not_ready` speaks of this process alone: an outage of others shows in metrics, never here. `metrics` gets an
    `Accept` header and gives the page and its content type.
    """
    app = new_app("ops")

    @app.route("/livez", methods=READ)
    async def livez(_request: Request) -> HTTPResponse:
        return text("ok\n")

    @app.route("/readyz", methods=READ)
    async def readyz(_request: Request) -> HTTPResponse:
        problem = why_not_ready()
        return text("ok\n") if problem is None else text(problem + "\n", status=503)

    @app.route("/metrics", methods=READ)
    async def scrape(request: Request) -> HTTPResponse:
        page, content_type = await metrics(request.headers.get("accept", ""))
        headers = {"vary": "Accept, Accept-Encoding"}
        if _takes_gzip(request.headers.get("accept-encoding", "")):
            page = await asyncio.to_thread(gzip.compress, page, 1)  # without the interpreter's lock
            headers["content-encoding"] = "gzip"
        return HTTPResponse(page, headers=headers, content_type=content_type)

    _add_controls(app, begin_drain=begin_drain, set_log_level=set_log_level)

    async def error(request: Request, exception: Exception) -> HTTPResponse:
        status, headers = 500, {}
        if isinstance(exception, SanicException):
            status, headers = exception.status_code, exception.headers
        else:
            log.error("ops request failed", path=request.path, exc_info=exception)
        return text(f"{exception if status < 500 else 'internal error'}\n", status=status, headers=headers)  # noqa: PLR2004

    app.error_handler.add(Exception, error)
    return app


def _add_controls(
    app: App, *, begin_drain: Callable[[], object], set_log_level: Callable[[str], None]
) -> None:
    @app.post("/drain")
    async def drain(request: Request) -> HTTPResponse:
        if not _from_this_machine(request):
            return text(_ONLY_FROM_HERE, status=403)
        begin_drain()
        return text("draining\n", status=202)

    @app.post("/log-level")
    async def log_level(request: Request) -> HTTPResponse:
        if not _from_this_machine(request):
            return text(_ONLY_FROM_HERE, status=403)
        level = request.body.decode(errors="replace").strip().lower()
        if level not in LEVELS:
            return text(f"expected a body of one word: {', '.join(LEVELS)}\n", status=400)
        set_log_level(level)
        return text(f"{level}\n")


def _from_this_machine(request: Request) -> bool:
    """Whether a program on this machine asks, and not a proxy for someone else or a page in a browser."""
    try:
        peer = ip_address(request.conn_info.client_ip if request.conn_info else "")
    except ValueError:
        return False
    if isinstance(peer, IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    passed_on = any(name in request.headers for name in ("origin", "x-forwarded-for", "forwarded"))
    return peer.is_loopback and peer != _ISTIO_INBOUND and not passed_on


def _takes_gzip(accept_encoding: str) -> bool:
    for item in accept_encoding.lower().split(","):
        coding, _, weight = item.partition(";")
        if coding.strip() == "gzip":
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
