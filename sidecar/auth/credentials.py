"""Where a handshake carries its token: the places of docs/protocol.md, "The token", in their order."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

SUBPROTOCOL = "bearer"
_AUTHORIZATION_HEADERS = ("authorization", "x-forwarded-authorization", "x-original-authorization")
_SCHEMES = {"bearer": False, "bot": True}
_WRAPPERS = {"[": "]", '"': '"'}
_BLANKS = " \t"


class Headers(Protocol):
    """Request headers by name in any letter case: Sanic's, multidict's."""

    def getall(self, name: str, default: list[str], /) -> list[str]: ...


class Source(Enum):
    """Where the token was found; a cookie is sent by the browser unasked, so its `Origin` is judged."""

    AUTHORIZATION = "authorization"
    QUERY = "query"
    SUBPROTOCOL = "subprotocol"
    COOKIE = "cookie"


@dataclass(frozen=True, slots=True)
class Credential:
    """A token nobody has verified yet. `bot`: it came under the scheme `Bot`, which only API keys may use."""

    token: str = field(repr=False)
    source: Source
    bot: bool = False


def find_credential(headers: Headers, query_token: str | None, cookie_token: str | None) -> Credential | None:
    """The first token in that order; an empty value or another scheme is passed over."""
    for name in _AUTHORIZATION_HEADERS:
        for value in headers.getall(name, []):
            found = _from_authorization(value)
            if found is not None:
                return found
    if query_token:
        return Credential(query_token, Source.QUERY)
    offered_token = _from_subprotocols(headers)
    if offered_token:
        return Credential(offered_token, Source.SUBPROTOCOL)
    if cookie_token:
        return Credential(cookie_token, Source.COOKIE)
    return None


def offers_bearer(headers: Headers) -> bool:
    """Whether the 101 must select the subprotocol `bearer`: a browser that offered it fails otherwise."""
    return SUBPROTOCOL in _subprotocols(headers)


def _from_authorization(value: str) -> Credential | None:
    words = _unwrapped(value.strip()).split(maxsplit=1)
    if len(words) != len(("scheme", "token")):
        return None
    bot = _SCHEMES.get(words[0].lower())
    return None if bot is None else Credential(words[1], Source.AUTHORIZATION, bot)


def _unwrapped(value: str) -> str:
    """`[Bearer x]` and `"Bearer x"`, as some gateways forward it, without the wrapping."""
    closing = _WRAPPERS.get(value[:1])
    if closing is not None and len(value) > 1 and value.endswith(closing):
        return value[1:-1].strip()
    return value


def _from_subprotocols(headers: Headers) -> str | None:
    """What follows the first `bearer`, as `new WebSocket(url, ["bearer", token])` offers it."""
    offered = _subprotocols(headers)
    if SUBPROTOCOL not in offered:
        return None
    return next(iter(offered[offered.index(SUBPROTOCOL) + 1 :]), None)


def _subprotocols(headers: Headers) -> list[str]:
    """The offered subprotocols in order, over all header lines (RFC 6455 11.3.4; RFC 9110 5.6.1)."""
    lines = headers.getall("sec-websocket-protocol", [])
    return [name for line in lines for item in line.split(",") if (name := item.strip(_BLANKS))]
