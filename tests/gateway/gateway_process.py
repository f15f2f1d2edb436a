"""A gateway as a process of its own, ended however the test ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from tests.harness import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class GatewayProcess:
    """`log` is a file that it writes its complaints to."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def terminated(self) -> None:
        """End it as a kubelet does, and wait until it has gone."""
        self.send(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self._process.wait()

    async def until_it_runs(self, condition: Callable[[], object]) -> None:
        """Wait until `condition()` is true. Fails with its log where it has ended, or takes too long."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not await asyncio.to_thread(condition):
                    if self._process.returncode is not None:
                        break
                    await asyncio.sleep(0.02)
                else:
                    return
        except TimeoutError:
            pass
        raise AssertionError("the gateway does not run:\n" + self._log.read_text())


@contextlib.asynccontextmanager
async def run_gateway(*command: str, log: Path) -> AsyncIterator[GatewayProcess]:
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, stdout=file, stderr=file)
    try:
        yield GatewayProcess(process, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
