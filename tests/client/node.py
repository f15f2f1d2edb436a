"""Node, for what runs outside a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from tests.harness import DEADLINE_SECONDS, ROOT

OLDEST = 20
WITH_OWN_WEBSOCKET = 22


def node_command() -> list[str]:
    """How to run a script. Fails, rather than skips, where there is no Node: the client would go untested."""
    node = shutil.which("node")
    assert node, "Node 20 or newer is needed for the client's tests; on Debian: apt-get install nodejs"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(version.removeprefix("v").split(".")[0])
    assert major >= OLDEST, (
        f"Node {OLDEST} or newer is needed for the client's tests, this is {version.strip()}"
    )
    return [node] if major >= WITH_OWN_WEBSOCKET else [node, "--experimental-websocket"]


class Script:
    """A running script that takes JSON lines and tells JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def tell(self, message: object) -> None:
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def hear(self, **wanted: object) -> dict:
        """The next line with these fields; what comes before it is passed over."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while line := await self._process.stdout.readline():
                told = json.loads(line)
                if all(told.get(key) == value for key, value in wanted.items()):
                    return told
        raise AssertionError(f"the script ended before it told {wanted}")


@contextlib.asynccontextmanager
async def run_script(file: Path, *arguments: str) -> AsyncIterator[Script]:
    process = await asyncio.create_subprocess_exec(
        *node_command(), str(file), *arguments, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Script(process)
    finally:
        process.stdin.close()
        if process.returncode is None:
            process.kill()
        await process.wait()
