"""What the sidecar writes about itself: one line per refused handshake and per ended connection, and no secret."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from websockets.exceptions import InvalidStatus

from sidecar.observe import logs
from tests.harness import guid, http

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


async def test_a_refused_handshake_has_one_line_with_all_there_is_to_know(world):
    room, account = guid(), guid()
    answer = await world.sidecar.probe(
        room,
        world.issuer.token(account),
        traceparent=TRACEPARENT,
        **{"X-Request-Id": "gw-17:a.b", "X-Forwarded-For": "203.0.113.9"},
    )
    line = await world.sidecar.logged("handshake refused", room=room)
    assert answer.status == 403
    assert answer.json["traceId"] == line["trace_id"] == TRACE
    assert line["request_id"] == "gw-17:a.b"
    assert (line["status"], line["code"], line["account"]) == (403, "NOT_A_MEMBER", account)
    assert line["address"] == "203.0.113.9"
    assert line["reason"]
    assert 0 < line["seconds"] < 60
    assert line["level"] == "info"
    assert len([line for line in world.sidecar.raw_log if room in line]) == 1, "nothing else is said about it"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b', "ä"])
async def test_a_request_id_that_could_spoil_a_line_is_left_out(world, given):
    room = guid()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.sidecar.port)
    head = f"GET /sphere/chat/realtime/{room} HTTP/1.1\r\nHost: x\r\nX-Request-Id: {given}\r\n\r\n"
    writer.write(head.encode())
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert (await world.sidecar.logged("handshake refused", room=room))["request_id"] is None


async def test_an_ended_connection_has_one_line_with_all_there_is_to_know(world):
    room = guid()
    client = await world.join(room, headers={"traceparent": TRACEPARENT})
    listener = await world.join(room)
    await client.send({"type": "offer", "data": {"sdp": "v=0 secret candidate"}})
    await listener.receive_signal("offer")
    await client.ws.close(4999, "see you")
    line = await world.sidecar.logged("connection ended", account=client.account)
    assert line["trace_id"] == TRACE
    assert (line["room"], line["connection"]) == (room, client.connection_id)
    assert (line["code"], line["reason"], line["closed_by"]) == (4999, "see you", "client")
    assert line["packets_in"] == 1
    assert line["packets_out"] == 2, "the welcome, and user-joined of the other"
    assert line["seconds"] > 0
    assert line["address"] == "127.0.0.1"
    assert not [line for line in world.sidecar.raw_log if "secret candidate" in line]
    await listener.close()


async def test_a_connection_that_we_end_says_so(world):
    client = await world.join(guid())
    for _ in range(20):
        await client.send("{")
        assert (await client.receive())["type"] == "error"
    assert (await client.closed())[0] == 1008
    line = await world.sidecar.logged("connection ended", account=client.account)
    assert (line["code"], line["closed_by"]) == (1008, "sidecar")


async def test_the_level_can_be_changed_while_it_runs_from_this_machine_alone(world):
    sidecar, unsaid, said = world.sidecar, guid(), guid()

    async def level(word: str, **headers: str):
        return await post(sidecar, "/log-level", word, headers)

    assert (await level("warning")).status == 200
    await sidecar.probe(unsaid)
    assert (await level("info")).body == b"info\n"
    await sidecar.probe(said)
    await sidecar.logged("handshake refused", room=said)
    assert not [line for line in sidecar.raw_log if unsaid in line]
    assert (await level("loud")).status == 400
    assert (await level("")).status == 400
    assert (await level("debug", Origin="http://127.0.0.1")).status == 403
    assert (await level("debug", **{"X-Forwarded-For": "203.0.113.9"})).status == 403
    assert (await sidecar.ops("/log-level")).status == 405


async def test_a_page_in_a_browser_cannot_drain_the_sidecar(world):
    answer = await post(world.sidecar, "/drain", "", {"Origin": "https://evil.example"})
    assert answer.status == 403
    assert (await world.sidecar.ops("/readyz")).status == 200


async def test_what_a_mesh_hands_on_from_outside_is_not_from_this_machine(world):
    assert (await post(world.sidecar, "/drain", "", {}, source="127.0.0.6")).status == 403
    assert (await post(world.sidecar, "/log-level", "debug", {}, source="127.0.0.6")).status == 403
    assert (await post(world.sidecar, "/log-level", "info", {}, source="127.0.0.7")).status == 200


async def post(sidecar, path: str, body: str, headers: dict[str, str], *, source: str = "127.0.0.1"):
    """A POST with a body, which `http` of the harness does not send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.ops_port, local_addr=(source, 0))
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    head, _, content = answer.partition(b"\r\n\r\n")
    return PlainAnswer(int(head.split()[1]), content)


class PlainAnswer:
    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body


async def test_no_token_appears_in_anything_a_run_writes(start, chat, issuer):
    """Every place a token can come from, good and bad, at the most talkative level, until the end of the process."""
    tokens: list[str] = []
    room = guid()

    def token(**options) -> str:
        account = guid()
        chat.allow(room, account)
        tokens.append(issuer.token(account, **options))
        return tokens[-1]

    async with start(log_level="debug", ops_page=True, drain_seconds=0) as sidecar:
        client = await sidecar.connect(room, token())
        await client.send({"type": "auth.refresh", "data": {"token": token()}})
        await client.send({"type": "auth.refresh", "data": {"token": token(ttl_seconds=-600)}})
        await sidecar.connect(room, query=f"tk={token()}")
        await sidecar.connect(room, subprotocols=["bearer", token()])
        await sidecar.connect(room, headers={"Cookie": f"AuthToken={token()}"})
        for bad in (token(ttl_seconds=-600), token()[:-3] + "xyz", issuer.token(guid()), token(bot=True)):
            tokens.append(bad)
            for options in (
                {"token": bad},
                {"query": f"tk={bad}"},
                {"headers": {"Cookie": f"AuthToken={bad}"}},
            ):
                with contextlib.suppress(InvalidStatus):
                    await sidecar.connect(room, **options)
        for target in (f"/nowhere?tk={token()}", f"/sphere/chat/realtime/x?tk={token()}"):
            await http(f"http://127.0.0.1:{sidecar.port}{target}")
            await http(f"http://127.0.0.1:{sidecar.ops_port}{target}")
        for broken in (
            f"GET /?tk={token()} HTTP/9\r\n\r\n",
            f"{token()}\r\n\r\n",
            f"GET /{token() * 40}\r\n\r\n",
        ):
            await throw(sidecar.port, broken)
        pages = [(await sidecar.ops(path)).body.decode() for path in ("/metrics", "/state", "/")]
        sidecar.terminate()
        await sidecar.exit_status()
    written = "".join(sidecar.raw_log) + "".join(pages)
    assert "handshake refused" in written
    assert "connection ended" in written
    for one in tokens:
        header, payload, signature = one.split(".")
        assert payload not in written
        assert signature not in written
        assert header not in written


async def throw(port: int, text: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text.encode())
    async with asyncio.timeout(15):
        await reader.read()
    writer.close()


@pytest.mark.parametrize("json", [True, False])
def test_a_token_in_a_line_of_anybody_is_masked(issuer, capsys, json):
    """The last line of defence: a library that quotes a request, or an error text with a token in it."""
    token = issuer.token(guid())
    root = logging.getLogger()
    before = root.handlers, root.level
    try:
        log = logs.set_up(level="info", json=json)
        log.warning("ours", url=f"/x?tk={token}&y=1")
        try:
            raise ValueError(f"cannot use {token}")
        except ValueError:
            logging.getLogger("library").exception("bad %s", token)
    finally:
        root.handlers, _ = before
        root.setLevel(before[1])
    written = capsys.readouterr().err
    assert "ours" in written
    assert "cannot use" in written
    assert written.count("[token]") == 3
    for part in token.split("."):
        assert part not in written


async def test_debug_lines_name_the_trace_of_an_accepted_handshake(start, chat, issuer):
    async with start(log_level="debug") as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        await sidecar.connect(
            room, issuer.token(account), headers={"traceparent": TRACEPARENT, "X-Request-Id": "abc"}
        )
        line = await sidecar.logged("handshake accepted")
        assert (line["trace_id"], line["request_id"]) == (TRACE, "abc")
        assert (line["account"], line["room"]) == (account, room)
