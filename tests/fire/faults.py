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
import json
import logging
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import uvloop
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

import sidecar
from sidecar import config
from sidecar.app import Sidecar
from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.harness import Client, auth_settings, guid, until

SOURCE = Path(sidecar.__file__).parent
TRACED = tuple(str(SOURCE / part) for part in ("edge", "transport", "signaling", "bus", "membership", "auth"))
LAST_DEFENCE = {
    "Connections.report_bug", "Connection.fail", "Handshake._fail", "Handshake._refuse", "Handshake.answer_error",
    "Tick.__call__", "Tick._run", "write_to", "_ImpatientHttp.__init__", "_ImpatientHttp.connection_made",
}  # fmt: skip
"""What answers and logs a bug, turns the loop for all rooms or writes to all of one, or comes before anything that
could do so: a bug in it is beyond it."""

BOOKS = {
    "Entering.__exit__", "Connections.leave", "Connections.lost", "Connection.connection_lost",
    "Directory.unfollow", "LiveMemberships.remove",
}  # fmt: skip
"""Who left is struck out here: a bug in that leaves an entry too many, and hangs nobody."""


class Injected(Exception):
    """Stands for any bug of ours."""


class Closed(Exception):
    """One of the two in a call was closed before its end."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


Site = tuple[str, int, str]


@functools.cache
def awaits(filename: str) -> frozenset[int]:
    tree = ast.parse(Path(filename).read_text())
    kinds = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    return frozenset(node.lineno for node in ast.walk(tree) if isinstance(node, kinds))


@functools.cache
def tries(filename: str) -> frozenset[int]:
    """Lines that say no more than `try:`: nothing can fail there."""
    lines = Path(filename).read_text().splitlines()
    return frozenset(number for number, line in enumerate(lines, 1) if line.strip() == "try:")


class Fault:
    """Notes each site that is passed; throws at `target`, or at the head of `function` where `when` says so, once."""

    def __init__(
        self,
        target: Site | None = None,
        *,
        function: str = "",
        when: Callable[[dict[str, Any]], bool] = lambda _: True,
    ) -> None:
        self.target = target
        self.function = function
        self.when = when
        """Told the function's arguments by name."""
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
        if event != "call" or not filename.startswith(TRACED) or frame.f_code.co_qualname in LAST_DEFENCE:
            return None
        if frame.f_code.co_name.startswith("<"):
            return None
        first = True

        def on_line(frame, event, _arg):
            nonlocal first
            if frame.f_lineno in tries(filename):
                return on_line
            if event == "line" and (first or frame.f_lineno in awaits(filename)):
                head, first = (frame if first else None), False
                self._pass((filename, frame.f_lineno, frame.f_code.co_qualname), head)
            return on_line

        return on_line

    def _pass(self, site: Site, head) -> None:
        self.passed[site] = None
        aimed = head is not None and site[2] == self.function and self.when(head.f_locals)
        if (aimed or site == self.target) and not self.thrown:
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

    async def join(self, room: str, *, dialect: str = "guide") -> Client:
        account = guid()
        self.chat.allow(room, account, nick="before")
        token = self.issuer.token(account)
        ws = await connect(
            f"ws://127.0.0.1:{self.port}/api/chat/realtime/{room}?dialect={dialect}",
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
        a = await self.join(room)
        try:
            b = await self.join(room)
        except BaseException:
            a.ws.transport.abort()
            raise
        call = asyncio.create_task(self.talk(room, a, b))
        closed = [asyncio.create_task(client.closed()) for client in (a, b)]
        try:
            waiting = {call, *closed}
            while not call.done():
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for one in closed:
                    if one.done() and one.result()[0] == 1011:
                        raise Closed(1011)
            await call
        finally:
            for task in (call, *closed):
                task.cancel()
            await asyncio.gather(call, *closed, return_exceptions=True)
            for client in (a, b):
                client.ws.transport.abort()

    async def talk(self, room: str, a: Client, b: Client) -> None:
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

    def traces(self) -> list[str]:
        """The bugs that were told in the log, one line each."""
        return [
            str(line["event"])
            for level, line in self.log
            if level in {"error", "exception"} and line.get("exc_info")
        ]

    async def nothing_left(self) -> None:
        connections = self.running.connections
        await until(lambda: not connections.by_id, "no connection is left", seconds=7)
        assert not connections._hub.rooms
        assert not connections._hub._connections_of
        assert not connections.wheel._slots
        assert not connections.backlog._sizes
        assert connections.backlog.bytes == 0
        assert not connections._directory._live
        await until(lambda: not connections._tasks, "no task is left")


@contextlib.asynccontextmanager
async def one_world(issuer):
    lines: list[tuple[str, dict]] = []
    chat = ChatServiceDouble()
    await chat.start()

    def keep(_logger, level, event):
        lines.append((level, dict(event)))
        raise structlog.DropEvent

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(
                (record.levelname.lower(), {"event": record.getMessage(), "exc_info": record.exc_info})
            )

    before = structlog.get_config()
    structlog.configure(
        processors=[keep],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    log = structlog.stdlib.get_logger()
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
        await chat.stop()
        logging.getLogger().removeHandler(handler)
        structlog.configure(**before)


class Outcome(NamedTuple):
    """What came of one bug."""

    where: str
    told: str
    """What the people concerned saw."""
    traces: int
    left: str
    """What was left behind, or why nobody could talk afterwards; empty: nothing."""


async def survey(issuer: Issuer) -> list[Site]:
    async with one_world(issuer) as world:
        with Fault() as passing:
            await world.live(guid())
        await world.nothing_left()
        return list(passing.passed)


async def throw_at(world: World, site: Site) -> Outcome | None:
    """Live through a bug at `site`; None: not passed this time (a heartbeat, a re-check)."""
    world.log.clear()
    told, left = "nothing", ""
    excused = site[2] in BOOKS
    with Fault(site) as fault:
        try:
            async with asyncio.timeout(1 if excused else 10):
                await world.live(guid())
        except Closed as closed:
            told = f"closed {closed.code}"
        except ConnectionClosed as closed:
            told = f"closed {closed.rcvd.code if closed.rcvd else 1006}"
        except InvalidStatus as refused:
            told = f"refused {refused.response.status_code}"
        except InvalidHandshake:
            told = "cut"
        except AssertionError as other:
            told = f"other {other}"
        except TimeoutError:
            told = "hung"
    if not fault.thrown:
        return None
    try:
        if not excused:
            await world.nothing_left()
        async with asyncio.timeout(10):
            await world.live(guid())
    except (AssertionError, TimeoutError, ConnectionClosed, InvalidHandshake) as problem:
        left = repr(problem).splitlines()[0]
    return Outcome(f"{Path(site[0]).name}:{site[1]} {site[2]}", told, len(world.traces()), left)


async def main() -> None:
    """Prints one JSON list per bug."""
    with tempfile.TemporaryDirectory() as folder:
        issuer = Issuer(Path(folder))
        sites = await survey(issuer)
        while sites:
            async with one_world(issuer) as world:
                while sites:
                    site = sites.pop()
                    outcome = await throw_at(world, site)
                    if outcome is not None:
                        print(json.dumps(outcome), flush=True)
                        if outcome.left or site[2] in BOOKS:
                            break  # the next begins in a world of its own


if __name__ == "__main__":
    uvloop.run(main())
