"""Instructions of one message and of one accept, counted by valgrind: they repeat where times do not.

`python -m bench.instructions` prints them; with `--functions` also where they go. Needs valgrind (its package has the
header that `collect.c` is compiled with) and a C compiler.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.accept import door
from bench.path import Stage, client_frame

ROOT = Path(__file__).parent.parent
WARM = 100
MEASURED = 200


@contextlib.contextmanager
def _counted(library: ctypes.CDLL, label: str) -> Iterator[None]:
    gc.collect()
    library.start()
    yield
    library.stop(label.encode())


async def _play(library: ctypes.CDLL) -> None:
    """What runs under valgrind."""
    for size in (2, 8, 100):
        stage = Stage(size=size)
        _say(stage, WARM)
        with _counted(library, f"message, room of {size}"):
            _say(stage, MEASURED)
        if size == 2:
            with _counted(library, "two messages in one read, room of 2"):
                for number in range(MEASURED):
                    stage.say(number % 2, messages=2)
        if size == 100:
            stage.frame = client_frame(to=stage.room[1].member.identity.account_id)
            stage.say(0)
            with _counted(library, "directed message, room of 100"):
                for _ in range(MEASURED):
                    stage.say(0)
        stage.close()
    stage = Stage(size=2, rooms=1000)
    _say(stage, WARM)
    with _counted(library, "message, room of 2 among 1,000"):
        _say(stage, MEASURED)
    stage.close()


async def _accept(library: ctypes.CDLL) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with door(Path(name)) as entrance:
            requests = entrance.requests(WARM + MEASURED)
            await entrance.let_in(requests[:WARM])
            with _counted(library, "accept, nothing cached"):
                await entrance.let_in(requests[WARM:])
            entrance.send_home()
            with _counted(library, "accept, token and membership cached"):
                await entrance.let_in(requests[WARM:])


def _say(stage: Stage, messages: int) -> None:
    for number in range(messages):
        stage.say(number % len(stage.room))


def count(directory: Path) -> dict[str, int]:
    """Instructions per message or accept, by what was done.

    Raises: CalledProcessError, FileNotFoundError (no valgrind).
    """
    library = directory / "collect.so"
    subprocess.run(
        [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", library, ROOT / "bench" / "collect.c"],
        check=True,
    )
    subprocess.run(
        [
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no",
            f"--callgrind-out-file={directory / 'calls'}",
            sys.executable, "-m", "bench.instructions", "--play", library,
        ],
        check=True, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "0"},
    )  # fmt: skip
    counts = {}
    for file in sorted(directory.glob("calls.*"), key=lambda path: int(path.suffix[1:])):
        text = file.read_text()
        label = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
        total = re.search(r"^(?:summary|totals): (\d+)$", text, re.MULTILINE)
        if label and total:
            counts[label[1]] = round(int(total[1]) / MEASURED)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", action="store_true")
    parser.add_argument("--play", metavar="LIBRARY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        library = ctypes.CDLL(arguments.play)
        asyncio.run(_play(library))
        uvloop.run(_accept(library))
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for label, number in count(directory).items():
            print(f"{number:>10,}  {label}")
        if arguments.functions:
            subprocess.run(["callgrind_annotate", "--threshold=90", directory / "calls.1"], check=True)


if __name__ == "__main__":
    main()
