"""One test for each row of docs/protocol.md, "The handshake", over a real socket."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from unittest import mock

import grpc
import pytest
from websockets.exceptions import InvalidStatus

from tests.fire.faults import one_world
from tests.harness import guid, http, until

ROOM = guid()


def refused(caught) -> tuple[int, dict]:
    return caught.value.response.status_code, json.loads(caught.value.response.body)


async def raw(sidecar, head: str) -> bytes:
    """Send a request as it stands; everything that comes back until the peer closes or stops."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
    writer.write(head.encode())
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "chat_id",
    ["1", ROOM + "0", ROOM[:-1], "{" + ROOM + "}", ROOM.replace("-", "_"), ROOM + "/"],
    ids=["a number", "too long", "too short", "in braces", "underscores", "a slash behind"],
)
async def test_what_is_no_guid_is_not_found(world, chat_id):
    answer = await world.sidecar.probe(chat_id)
    assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/sphere/chat", "/metrics", "/livez", "/readyz", "/drain"])
async def test_an_unknown_path_is_not_found_and_nothing_of_ops_is_reachable(world, path):
    answer = await http(f"http://127.0.0.1:{world.sidecar.port}{path}")
    assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND")
    assert answer.json["status"] == 404
    assert len(answer.json["traceId"]) == 32


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "PATCH"])
async def test_another_method_than_get_is_not_allowed(world, method):
    answer = await http(world.sidecar.url(ROOM, scheme="http"), method=method)
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]
    if method != "HEAD":
        assert answer.json["code"] == "METHOD_NOT_ALLOWED"


async def test_a_draining_sidecar_answers_503_before_it_looks_at_the_token(start, chat, issuer):
    async with start() as sidecar:
        assert (await sidecar.ops("/drain", method="POST")).status == 202
        answer = await sidecar.probe(ROOM)
        assert (answer.status, answer.json["code"]) == (503, "UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await sidecar.ops("/readyz")).status == 503
        assert (await sidecar.ops("/livez")).status == 200


async def test_a_full_sidecar_answers_503(start, chat, issuer):
    async with start(max_connections=1) as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        first = await sidecar.connect(room, issuer.token(account))
        answer = await sidecar.probe(room, issuer.token(account))
        assert (answer.status, answer.json["code"]) == (503, "UNAVAILABLE")
        await first.close()
        await until(lambda: _accepted(sidecar, room, issuer.token(account)), "a place is free again")


async def _accepted(sidecar, room, token):
    return (await sidecar.probe(room, token)).json["code"] == "WEBSOCKET_EXPECTED"


async def test_an_address_that_tries_too_often_is_limited_and_another_is_not(start, chat, issuer):
    async with start(
        address_handshake_rate=0.01, address_handshake_burst=3, trusted_proxies="127.0.0.1"
    ) as sidecar:
        for _ in range(3):
            answer = await sidecar.probe(ROOM, **{"X-Forwarded-For": "6.6.6.6, 203.0.113.7"})
            assert answer.status == 401
        answer = await sidecar.probe(ROOM, **{"X-Forwarded-For": "1.2.3.4, 203.0.113.7"})
        assert (answer.status, answer.json["code"]) == (429, "RATE_LIMITED")
        assert int(answer.headers["retry-after"]) > 1
        assert (await sidecar.probe(ROOM, **{"X-Forwarded-For": "203.0.113.8"})).status == 401


async def test_an_address_that_used_up_its_failures_is_still_judged_five_times_a_second(start, chat, issuer):
    async with start(auth_failures_per_minute=3) as sidecar:
        statuses = [(await sidecar.probe(ROOM)).status for _ in range(30)]
        assert statuses[:3] == [401] * 3
        assert 429 in statuses
        room, account = guid(), guid()
        chat.allow(room, account)
        await until(lambda: _accepted(sidecar, room, issuer.token(account)), "a neighbour gets in")


async def test_no_token_is_unauthorized_and_says_where_one_is_looked_for(world):
    answer = await world.sidecar.probe(ROOM)
    assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert "error=" not in answer.headers["www-authenticate"]


async def test_a_bad_token_is_unauthorized_and_not_repeated_in_the_answer(world):
    token = world.issuer.token(guid())
    forged = token[:-8] + ("AAAAAAAA" if not token.endswith("AAAAAAAA") else "BBBBBBBB")
    answer = await world.sidecar.probe(ROOM, forged)
    assert (answer.status, answer.json["code"]) == (401, "UNAUTHORIZED")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert forged not in answer.body.decode()


async def test_an_expired_token_says_so(world):
    answer = await world.sidecar.probe(ROOM, world.issuer.token(guid(), ttl_seconds=-120))
    assert (answer.status, answer.json["code"]) == (401, "TOKEN_EXPIRED")


@pytest.mark.parametrize(
    "place",
    ["Authorization", "X-Forwarded-Authorization", "X-Original-Authorization", "tk", "subprotocol", "cookie"],
)
async def test_the_token_is_found_in_each_of_its_places(world, place):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    token = world.issuer.token(account)
    options: dict = {}
    if place == "tk":
        options["query"] = f"tk={token}"
    elif place == "subprotocol":
        options["subprotocols"] = ["bearer", token]
    elif place == "cookie":
        options["headers"] = {"Cookie": f"other=1; AuthToken={token}"}
    else:
        options["headers"] = {place: f"[bearer {token}]"}
    client = await world.sidecar.connect(room, **options)
    assert client.welcome["userId"] == account
    assert client.ws.subprotocol == ("bearer" if place == "subprotocol" else None)
    await client.close()


async def test_bearer_is_selected_whenever_it_is_offered(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    token = world.issuer.token(account)
    client = await world.sidecar.connect(room, token, subprotocols=["bearer", "not-a-token"])
    assert client.ws.subprotocol == "bearer"
    await client.close()


async def test_a_bot_joins_with_an_api_key_without_exp_and_a_person_may_not_carry_one(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    key = world.issuer.token(account, bot=True, ttl_seconds=None)
    bot = await world.sidecar.connect(room, headers={"Authorization": f"Bot {key}"})
    assert bot.welcome["userId"] == account
    await bot.close()
    assert (await world.sidecar.probe(room, key)).status == 401
    person = world.issuer.token(account)
    assert (await world.sidecar.probe(room, Authorization=f"Bot {person}")).status == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://app.example.org", 400),
        ("https://x.y.example.net", 400),
        ("https://chat_app.example.net", 400),
        ("https://example.net", 403),
        ("http://app.example.org", 403),
        ("https://app.example.org.evil.example", 403),
        ("https://evil.example/.example.net", 403),
        ("https://u@a.example.net", 403),
        ("null", 403),
        (None, 400),
    ],
)
async def test_with_a_cookie_the_origin_has_to_be_one_of_ours(world, origin, status):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    headers = {"Cookie": f"AuthToken={world.issuer.token(account)}"} | ({"Origin": origin} if origin else {})
    answer = await world.sidecar.probe(room, **headers)
    assert answer.status == status
    assert answer.json["code"] == ("WEBSOCKET_EXPECTED" if status == 400 else "ORIGIN_NOT_ALLOWED")


async def test_with_a_cookie_the_same_origin_is_allowed_as_the_proxy_forwards_it(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    cookie = {"Cookie": f"AuthToken={world.issuer.token(account)}", "Origin": "https://chat.example.com"}
    forwarded = {"X-Forwarded-Host": "chat.example.com", "X-Forwarded-Proto": "https"}
    assert (await world.sidecar.probe(room, **cookie, **forwarded)).status == 400
    assert (
        await world.sidecar.probe(room, **cookie, **forwarded | {"X-Forwarded-Proto": "http"})
    ).status == 403
    assert (await world.sidecar.probe(room, **cookie)).status == 403
    own = {"Origin": f"http://127.0.0.1:{world.sidecar.port}"}
    assert (await world.sidecar.probe(room, **cookie | own)).status == 400


async def test_the_origin_does_not_matter_where_the_token_was_sent_on_purpose(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    answer = await world.sidecar.probe(room, world.issuer.token(account), Origin="https://evil.example")
    assert answer.json["code"] == "WEBSOCKET_EXPECTED"


async def test_an_account_that_tries_too_often_is_limited_and_another_is_not(start, chat, issuer):
    async with start(handshake_rate=0.01, handshake_burst=2) as sidecar:
        room, alice, bob = guid(), guid(), guid()
        chat.allow(room, alice)
        chat.allow(room, bob)
        for _ in range(2):
            assert (await sidecar.probe(room, issuer.token(alice))).status == 400
        answer = await sidecar.probe(room, issuer.token(alice))
        assert (answer.status, answer.json["code"]) == (429, "RATE_LIMITED")
        assert (await sidecar.probe(room, issuer.token(bob))).status == 400


async def test_who_is_no_member_is_refused(world):
    answer = await world.sidecar.probe(ROOM, world.issuer.token(guid()))
    assert (answer.status, answer.json["code"]) == (403, "NOT_A_MEMBER")


@pytest.mark.parametrize("state", [{"role": -1}, {"joined": False}, {"left": True}])
async def test_who_is_no_active_member_is_refused(world, state):
    room, account = guid(), guid()
    world.chat.allow(room, account, **state)
    answer = await world.sidecar.probe(room, world.issuer.token(account))
    assert (answer.status, answer.json["code"]) == (403, "NOT_A_MEMBER")


async def test_who_is_timed_out_is_told_until_when(world):
    room, account = guid(), guid()
    world.chat.allow(room, account, timeout_until=time.time() + 3600)
    answer = await world.sidecar.probe(room, world.issuer.token(account))
    assert (answer.status, answer.json["code"]) == (403, "MEMBER_TIMED_OUT")
    assert answer.json["detail"].endswith("Z")


async def test_without_the_chat_service_nobody_new_is_admitted(start, chat, issuer):
    async with start() as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        chat.fail(grpc.StatusCode.UNAVAILABLE)
        answer = await sidecar.probe(room, issuer.token(account))
        assert (answer.status, answer.json["code"]) == (503, "MEMBERSHIP_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await sidecar.ops("/readyz")).status == 200


async def test_an_answer_about_somebody_else_admits_nobody(world):
    room, account = guid(), guid()
    other = world.chat.allow(room, guid())
    world.chat.answer_instead(room, account, other)
    answer = await world.sidecar.probe(room, world.issuer.token(account))
    assert (answer.status, answer.json["code"]) == (503, "MEMBERSHIP_UNAVAILABLE")


async def test_a_plain_get_is_the_probe_of_who_would_connect(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    answer = await world.sidecar.probe(room, world.issuer.token(account))
    assert (answer.status, answer.json["code"]) == (400, "WEBSOCKET_EXPECTED")


async def test_an_unknown_dialect_is_refused(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    with pytest.raises(InvalidStatus) as caught:
        await world.sidecar.connect(room, world.issuer.token(account), query="dialect=klingon")
    assert refused(caught)[0] == 400
    assert refused(caught)[1]["code"] == "UNKNOWN_DIALECT"


@pytest.mark.parametrize(
    ("broken", "header"),
    [
        ("Sec-WebSocket-Version: 8", True),
        ("Sec-WebSocket-Key: short", False),
        ("Connection: keep-alive", False),
        ("Upgrade: h2c", False),
        ("Content-Length: 5", False),
    ],
)
async def test_a_broken_upgrade_is_refused_before_anything_is_upgraded(world, broken, header):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    lines = {
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Authorization": f"Bearer {world.issuer.token(account)}",
    }
    name, _, value = broken.partition(": ")
    lines[name] = value
    head = f"GET /sphere/chat/realtime/{room} HTTP/1.1\r\nHost: x\r\n"
    answer = await raw(world.sidecar, head + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert (b"sec-websocket-version: 13" in answer.lower()) is header


async def test_a_full_room_and_an_account_with_too_many_connections_are_conflicts(start, chat, issuer):
    async with start(max_room_connections=2, max_connections_per_account=1) as sidecar:
        room, other, alice, bob, carol = (guid() for _ in range(5))
        for account in (alice, bob, carol):
            chat.allow(room, account)
        chat.allow(other, alice)
        await sidecar.connect(room, issuer.token(alice))
        with pytest.raises(InvalidStatus) as caught:
            await sidecar.connect(other, issuer.token(alice))
        assert refused(caught)[0] == 409
        assert refused(caught)[1]["code"] == "TOO_MANY_CONNECTIONS"
        await sidecar.connect(room, issuer.token(bob))
        with pytest.raises(InvalidStatus) as caught:
            await sidecar.connect(room, issuer.token(carol))
        assert refused(caught)[1]["code"] == "ROOM_FULL"


@pytest.mark.parametrize("prefix", ["/sphere", "/api"])
async def test_every_mount_prefix_and_every_spelling_of_the_guid_leads_to_the_same_room(world, prefix):
    room = guid()
    a = await world.join(room)
    for spelling in (room.upper(), uuid.UUID(room).hex):
        account = guid()
        world.chat.allow(room, account)
        url = f"http://127.0.0.1:{world.sidecar.port}{prefix}/chat/realtime/{spelling}"
        answer = await http(url, headers={"Authorization": f"Bearer {world.issuer.token(account)}"})
        assert answer.json["code"] == "WEBSOCKET_EXPECTED"
        client = await world.sidecar.connect(spelling, world.issuer.token(account))
        assert client.welcome["roomId"] == room
        await a.receive_signal("user-joined")
        await client.close()
    await a.close()


async def test_the_first_row_that_fails_answers(world):
    """A bad token in a room one does not belong to, with a method that is not allowed: 405; with GET: 401."""
    assert (await http(world.sidecar.url(ROOM, scheme="http"), method="POST")).status == 405
    assert (await world.sidecar.probe(ROOM, "x.y.z")).status == 401
    answer = await world.sidecar.probe(ROOM, world.issuer.token(guid()))
    assert answer.status == 403


async def test_answers_carry_cors_headers_for_allowed_origins_alone(world):
    allowed = await world.sidecar.probe(ROOM, Origin="https://app.example.org")
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.org"
    assert allowed.headers["access-control-allow-credentials"] == "true"
    other = await world.sidecar.probe(ROOM, Origin="https://evil.example")
    assert "access-control-allow-origin" not in other.headers
    assert other.headers["vary"] == "Origin"


async def test_a_preflight_is_answered(world):
    preflight = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "GET"}
    answer = await http(world.sidecar.url(ROOM, scheme="http"), method="OPTIONS", headers=preflight)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "Authorization" in answer.headers["access-control-allow-headers"]


async def test_the_trace_of_the_caller_stands_in_the_answer_and_in_the_log(world):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = await world.sidecar.probe(ROOM, traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    assert answer.json["traceId"] == trace
    line = await world.sidecar.logged("handshake refused", trace_id=trace)
    assert line["code"] == "UNAUTHORIZED"


async def test_a_cookie_is_found_on_any_line(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    head = f"GET /sphere/chat/realtime/{room} HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n"
    answer = await raw(world.sidecar, head + f"Cookie: AuthToken={world.issuer.token(account)}\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_empty_elements_of_forwarded_for_are_passed_over(world):
    for value in ("198.51.100.7,, 127.0.0.5", "198.51.100.7, ,"):
        answer = await world.sidecar.probe(ROOM, **{"X-Forwarded-For": value})
        line = await world.sidecar.logged("handshake refused", trace_id=answer.json["traceId"])
        assert line["address"] == "198.51.100.7"


async def test_forwarded_headers_of_a_stranger_are_ignored_and_warned_of_once(start):
    async with start(trusted_proxies="10.0.0.0/8") as sidecar:
        for header in ("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-For"):
            await sidecar.probe(ROOM, **{header: "198.51.100.7"})
        await sidecar.logged("handshake refused")
        warnings = [line for line in sidecar.log if "X-Forwarded-" in line["event"]]
        assert len(warnings) == 1


@pytest.mark.parametrize("version", ["", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13\r\n"])
async def test_an_upgrade_that_does_not_say_its_version_once_is_told_ours(world, version):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    head = (
        f"GET /sphere/chat/realtime/{room} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {world.issuer.token(account)}\r\n"
    )
    answer = await raw(world.sidecar, head + version + "\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"sec-websocket-version: 13" in answer.lower()


async def test_a_request_id_follows_the_connection_to_its_end(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    headers = {"X-Request-Id": "req-42"}
    client = await world.sidecar.connect(room, world.issuer.token(account), headers=headers)
    await client.close()
    await world.sidecar.logged("connection ended", account=account, request_id="req-42")


@pytest.mark.parametrize(
    "cookies",
    [
        ['AuthToken="{}"'],
        ["AuthToken=; other=x; AuthToken={}"],
        ["other=x", "more=y;AuthToken = {} ; AuthToken=second"],
        ["AuthTokens=x; XAuthToken=y; =z; AuthToken; AuthToken={}"],
    ],
)
async def test_the_cookie_is_found_among_others(world, cookies):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    token = world.issuer.token(account)
    lines = "".join(f"Cookie: {cookie.format(token)}\r\n" for cookie in cookies)
    answer = await raw(world.sidecar, f"GET /api/chat/realtime/{room} HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_no_method_makes_a_room_of_what_is_no_guid(world):
    for room, status in (("1", b"404"), (ROOM, b"405")):
        for method in ("POST", "PROPFIND", "get"):
            answer = await raw(
                world.sidecar, f"{method} /api/chat/realtime/{room} HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            assert answer[9:12] == status


async def test_who_ceased_to_be_a_member_while_the_room_settled_is_not_let_in(issuer):
    """In this process, for a bus that takes its time."""
    room, settling, settled = guid(), asyncio.Event(), asyncio.Event()

    async def settle(_room: str) -> None:
        settling.set()
        await settled.wait()

    async with one_world(issuer) as world:
        bus, directory = world.running.connections._hub._bus, world.running._directory
        with mock.patch.multiple(bus, settled=lambda _room: settled.is_set(), settle=settle):
            joining = asyncio.create_task(world.join(room))
            await settling.wait()
            (member,) = world.chat.members
            world.chat.deny(*member, tell=True)
            await until(lambda: member in directory._denied._answers, "the event is here")
            settled.set()
            with pytest.raises(InvalidStatus) as caught:
                await joining
        assert caught.value.response.status_code == 403
        assert json.loads(caught.value.response.body)["code"] == "NOT_A_MEMBER"
        await world.nothing_left()
