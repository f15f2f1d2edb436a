"""A bug anywhere on the way of a connection: an exception at the head of every function it passes and at every await.

Each is thrown once, by a trace function, into a sidecar in this process; then people who have nothing to do with it
join and talk. What may follow is that somebody is refused with 500 or 503 or closed with 1011, and a log with a trace;
never a dead process, a hang, or anything left behind.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import logging
import sys
import threading
from pathlib import Path

import pytest
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

import sidecar
from sidecar import config
from sidecar.app import Sidecar
from tests.harness import Client, auth_settings, guid, until

SOURCE = Path(sidecar.__file__).parent
TRACED = tuple(str(SOURCE / part) for part in ("edge", "transport", "signaling", "membership", "auth"))
LAST_DEFENCE = {"report_bug", "fail", "_fail", "_refuse", "answer_error", "_end_of"}
"""What answers and logs a bug: a bug in it is beyond it."""


class Injected(Exception):
    """Stands for any bug of ours."""


Site = tuple[str, int, str]


@functools.cache
def awaits(filename: str) -> frozenset[int]:
    tree = ast.parse(Path(filename).read_text())
    kinds = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    return frozenset(node.lineno for node in ast.walk(tree) if isinstance(node, kinds))


class Fault:
    """Notes each site that is passed; throws at `target`, once."""

    def __init__(self, target: Site | None = None) -> None:
        self.target = target
        self.passed: dict[Site, None] = {}
        self.thrown = False

    def __enter__(self):
        assert threading.current_thread() is threading.main_thread()
        self.before = sys.gettrace()
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def _on_call(self, frame, event, _arg):
        filename = frame.f_code.co_filename
        if event != "call" or not filename.startswith(TRACED) or frame.f_code.co_name in LAST_DEFENCE:
            return None
        if frame.f_code.co_name.startswith("<"):
            return None
        first = True

        def on_line(frame, event, _arg):
            nonlocal first
            if event == "line" and (first or frame.f_lineno in awaits(filename)):
                first = False
                self._pass((filename, frame.f_lineno, frame.f_code.co_qualname))
            return on_line

        return on_line

    def _pass(self, site: Site) -> None:
        self.passed[site] = None
        if site == self.target and not self.thrown:
            self.thrown = True
            raise Injected(f"{site[2]}:{site[1]}")


class World:
    """A sidecar in this process, and everything it says."""

    def __init__(self, running: Sidecar, chat, issuer, log: list) -> None:
        self.running = running
        self.chat = chat
        self.issuer = issuer
        self.log = log
        self.port = int(running.address.rpartition(":")[2])

    async def join(self, room: str) -> Client:
        account = guid()
        self.chat.allow(room, account, nick="before")
        token = self.issuer.token(account)
        ws = await connect(
            f"ws://127.0.0.1:{self.port}/api/chat/realtime/{room}",
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            proxy=None,
        )
        client = Client(ws)
        client.account = account
        client.token = token
        client.welcome = (await client.receive())["data"]
        return client

    async def live(self, room: str) -> None:
        """The life of a call, from two handshakes to a kick, with everything a connection does in between."""
        a, b = await self.join(room), await self.join(room)
        try:
            await a.receive_signal("user-joined")
            await a.send({"type": "offer", "data": {"sdp": "x"}})
            await b.receive_signal("offer")
            await b.send({"type": "webrtc.signal", "data": {"type": "answer", "x": 1}, "to": a.account})
            await a.receive_signal("answer")
            await a.ws.send([b'{"type":"ping"', b',"data":1}'], text=True)
            assert (await a.receive())["type"] == "pong"
            await (await a.ws.ping())
            await a.send({"type": "auth.refresh", "data": {"token": self.issuer.token(a.account)}})
            assert (await a.receive())["type"] == "auth.refreshed"
            await a.send("nonsense")
            assert (await a.receive())["type"] == "error"
            self.chat.allow(room, b.account, nick="after", tell=True)

            async def renamed() -> bool:
                await b.send({"type": "offer", "data": {}})
                return (await a.receive_signal("offer"))["senderInfo"]["nick"] == "after"

            await until(renamed, "the new nick")
            await b.close()
            await a.receive_signal("user-left")
            self.chat.deny(room, a.account, tell=True)
            assert (await a.closed())[0] == 4403
        finally:
            for client in (a, b):
                client.ws.transport.abort()

    async def nothing_left(self) -> None:
        connections = self.running.connections
        await until(lambda: not connections.by_id, "no connection is left")
        assert not connections._hub.rooms
        assert not connections._hub._connections_of
        assert not connections.wheel._slots
        assert not connections.backlog._sizes
        assert connections.backlog.bytes == 0
        assert not connections._directory._live
        await until(lambda: not connections._tasks, "no task is left")


@pytest.fixture
async def world(chat, issuer):
    lines: list[tuple[str, dict]] = []

    def keep(_logger, level, event):
        lines.append((level, dict(event)))
        raise structlog.DropEvent

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(
                (record.levelname.lower(), {"event": record.getMessage(), "exc_info": record.exc_info})
            )

    log = structlog.wrap_logger(None, processors=[keep], wrapper_class=structlog.stdlib.BoundLogger)
    settings = auth_settings(issuer) | {
        "host": "127.0.0.1", "port": 0, "ops_host": "127.0.0.1", "ops_port": 0,
        "membership_target": chat.target, "handshake_rate": 0, "address_handshake_rate": 0,
        "heartbeat_seconds": 0.2, "pong_timeout_seconds": 5, "membership_recheck_seconds": 1,
        "auth_failures_per_minute": 0,
    }  # fmt: skip
    values, _ = config.load({f"SIDECAR_{name.upper()}": str(value) for name, value in settings.items()})
    running = Sidecar(values, log)
    handler = Handler()
    logging.getLogger().addHandler(handler)
    await running.start()
    try:
        yield World(running, chat, issuer, lines)
    finally:
        await running.stop()
        logging.getLogger().removeHandler(handler)


async def test_a_bug_anywhere_ends_no_more_than_its_connection(world):
    with Fault() as survey:
        await world.live(guid())
    await world.nothing_left()
    assert len(survey.passed) > 150
    untold = []
    for site in survey.passed:
        world.log.clear()
        outcome = "unharmed"
        with Fault(site) as fault:
            try:
                async with asyncio.timeout(10):
                    await world.live(guid())
            except ConnectionClosed as closed:
                outcome = f"closed {closed.rcvd.code if closed.rcvd else 1006}"
            except InvalidStatus as refused:
                outcome = f"refused {refused.response.status_code}"
            except (InvalidHandshake, AssertionError) as other:
                outcome = f"{type(other).__name__} {other}"
            except TimeoutError:
                outcome = "hung"
        where = f"{site[2]}:{site[1]}"
        if not fault.thrown:
            continue  # passed by chance the first time: a heartbeat, a re-check
        traces = [line for level, line in world.log if level == "error" and line.get("exc_info")]
        print(f"{where:70} {outcome[:60]:30} traces={len(traces)}")
        if not traces:
            untold.append(where)
        try:
            await world.nothing_left()
        except (AssertionError, TimeoutError) as e:
            print("   LEFT", repr(e)[:200])
            break
        with contextlib.suppress(Exception):
            async with asyncio.timeout(10):
                await world.live(guid())
                continue
        print("   NOT SERVING")
    print("UNTOLD", untold)
