"""The chat service in a process of its own, to be killed, frozen and started again."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from tests.harness import ROOT

PROGRAM = ROOT / "tests" / "chat_server.py"
START_SECONDS = 60


class ChatProcess:
    """Always at the same address. Each start says anew who the members are."""

    def __init__(self, *, target: str = "", within: Iterable[str] = ()) -> None:
        """`within` is the beginning of a command that runs the rest of it elsewhere."""
        self.target = target or _free_address()
        self._within = tuple(within)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def port(self) -> int:
        return int(self.target.rpartition(":")[2])

    async def start(self, members: Iterable[tuple[str, str]]) -> None:
        """`members` are pairs of room and account."""
        ids = [one for pair in members for one in pair]
        self._process = await asyncio.create_subprocess_exec(
            *self._within, sys.executable, PROGRAM, self.target, *ids, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            assert await self._process.stdout.readline() == b"listening\n"

    async def kill(self) -> None:
        """As `kill -9` does; nothing where it does not run."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def freeze(self) -> None:
        """Connections stay open and nothing answers any more: what a half-open peer looks like."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@asynccontextmanager
async def chat_process(
    members: Iterable[tuple[str, str]], *, target: str = "", within: Iterable[str] = ()
) -> AsyncIterator[ChatProcess]:
    chat = ChatProcess(target=target, within=within)
    try:
        await chat.start(members)
        yield chat
    finally:
        await chat.kill()
