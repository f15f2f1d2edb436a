"""What the demo page needs of a server, beside the signaling endpoint and on its origin."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import BadRequest, Forbidden, NotFound
from sanic.response import file, json

from sidecar.dev.chat_service import SampleChatService
from sidecar.dev.issuer import Issuer
from sidecar.dev.rooms import state_of
from sidecar.edge.listener import App
from sidecar.guid import canonical_guid
from sidecar.rfc3339 import rfc3339

DEMO = Path(__file__).parent / "demo"
CLIENT = Path(__file__).parents[2] / "client"
MAX_TTL_SECONDS = 24 * 3600.0


class _Wanted(msgspec.Struct):
    account: str
    ttl_seconds: float = msgspec.field(name="ttlSeconds", default=300.0)


def add_to(
    app: App, *, issuer: Issuer, chat_service: SampleChatService, rooms_file: Path, mount_prefix: str
) -> None:
    """The page at `/`, its files, who there is, and tokens for the asking: for loopback only."""

    @app.get("/")
    async def page(_request: Request) -> HTTPResponse:
        return await _static(DEMO, "index.html")

    @app.get("/demo/people.json")
    async def people(request: Request) -> HTTPResponse:
        _check_loopback(request)
        persons = chat_service.people()
        return json(
            {
                "people": [
                    {"id": str(person.id), "name": name, "nick": person.nick}
                    for name, person in persons.items()
                ],
                "rooms": [
                    {
                        "id": str(room.id),
                        "name": name,
                        "members": [
                            {
                                "account": str(persons[member].id),
                                "nick": entry.nick,
                                "role": entry.role,
                                "state": state_of(entry),
                            }
                            for member, entry in room.members.items()
                        ],
                    }
                    for name, room in chat_service.rooms().items()
                ],
                "sampleFile": str(rooms_file),
                "mountPrefix": mount_prefix,
            }
        )

    @app.post("/demo/token")
    async def token(request: Request) -> HTTPResponse:
        _check_loopback(request)
        try:
            wanted = msgspec.json.decode(request.body, type=_Wanted)
        except msgspec.DecodeError as problem:
            raise BadRequest(str(problem)) from None
        account = canonical_guid(wanted.account)
        if account is None or not 0 < wanted.ttl_seconds <= MAX_TTL_SECONDS:
            raise BadRequest(f"account must be a GUID, ttlSeconds at most {MAX_TTL_SECONDS}")
        names = [name for name, person in chat_service.people().items() if str(person.id) == account]
        minted = issuer.token(account, ttl_seconds=wanted.ttl_seconds, name=names[0] if names else "")
        return json({"token": minted, "expiresAt": rfc3339(issuer.clock() + wanted.ttl_seconds)})

    @app.get("/demo/<name>")
    async def demo_file(_request: Request, name: str) -> HTTPResponse:
        return await _static(DEMO, name)

    @app.get("/client/<name>")
    async def client_file(_request: Request, name: str) -> HTTPResponse:
        return await _static(CLIENT, name)


async def _static(folder: Path, name: str) -> HTTPResponse:
    path = folder / name
    if path.parent != folder or not path.is_file():
        raise NotFound(f"no such file: {name}")
    return await file(path, headers={"cache-control": "no-cache"})


def _check_loopback(request: Request) -> None:
    """Tokens are free here, so only pages of this machine may ask: a name that resolves to it will not do."""
    for authority in (request.headers.get("host", ""), urlsplit(request.headers.get("origin", "")).netloc):
        host = urlsplit(f"//{authority}").hostname
        if host is None or host == "localhost":
            continue
        try:
            if ip_address(host).is_loopback:
                continue
        except ValueError:
            pass
        raise Forbidden("only for pages of this machine")
