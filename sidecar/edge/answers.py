"""What a handshake is answered with where it is not upgraded: an error in the network's shape, or a CORS preflight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from sanic import HTTPResponse, Request

from sidecar.edge.address import origin_allowed
from sidecar.errors import Refusal, RefusalCode

ALLOWED_METHODS = "GET, OPTIONS"
NO_TOKEN = "no token: send Authorization, ?tk=, the subprotocol bearer or the cookie AuthToken"
REALM = "sphere"


class Answers:
    """Pages of `allowed_origins` may read them: browsers hide a handshake's status, so a plain GET is their probe."""

    def __init__(self, *, allowed_origins: Sequence[str]) -> None:
        self._allowed_origins = allowed_origins

    def refused(self, request: Request, refusal: Refusal, *, status: int, trace_id: str) -> HTTPResponse:
        """`ApiError` as the network's services write it, null fields left out."""
        body = {"code": refusal.code.value, "message": refusal.message, "status": status}
        if refusal.detail is not None:
            body["detail"] = refusal.detail
        body["traceId"] = trace_id
        return HTTPResponse(
            msgspec.json.encode(body),
            status=status,
            content_type="application/json",
            headers=self._cors_headers(request) | _status_headers(request, refusal, status),
        )

    def preflight(self, request: Request) -> HTTPResponse:
        headers = self._cors_headers(request)
        if "access-control-allow-origin" in headers:
            headers["access-control-allow-methods"] = "GET"
            headers["access-control-allow-headers"] = "Authorization, traceparent"
            headers["access-control-max-age"] = "600"
        return HTTPResponse(status=204, headers=headers | {"allow": ALLOWED_METHODS})

    def _cors_headers(self, request: Request) -> dict[str, str]:
        origin = request.headers.get("origin")
        if not self._allowed_origins:
            return {}
        if origin is None or not origin_allowed(origin, self._allowed_origins):
            return {"vary": "Origin"}
        return {
            "vary": "Origin",
            "access-control-allow-origin": origin,
            "access-control-allow-credentials": "true",
            "access-control-expose-headers": "Retry-After, WWW-Authenticate",
        }


def _status_headers(request: Request, refusal: Refusal, status: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    if status == 401:  # noqa: PLR2004
        headers["www-authenticate"] = f'Bearer realm="{REALM}"'
        if refusal.message != NO_TOKEN:  # RFC 6750 section 3.1: an error code only where a token was sent
            description = refusal.message.replace('"', "'")
            headers["www-authenticate"] += f', error="invalid_token", error_description="{description}"'
    if status == 405:  # noqa: PLR2004
        headers["allow"] = ALLOWED_METHODS
    if status in {429, 503}:
        headers["retry-after"] = str(max(1, math.ceil(refusal.retry_after_seconds or 0)))
    if (
        refusal.code is RefusalCode.WEBSOCKET_EXPECTED
        and request.headers.get("upgrade")
        and request.headers.getall("sec-websocket-version", []) != ["13"]
    ):
        headers["sec-websocket-version"] = "13"
    return headers
