"""Instructions of one message, one heartbeat and one accept, counted by valgrind: they repeat where times do not.

Also the memory that only one room's messages touch: what makes a message dearer where rooms are many.

`python -m bench.instructions` prints both; with `--functions` also where they go. Needs valgrind (its package has the
header that `collect.c` is compiled with) and a C compiler.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import os
import platform
import random
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
MANY_ROOMS = 5000
MEASURED_AMONG_MANY = 3000
COMPARABLE = sys.version_info[:2] == (3, 11) and platform.machine() == "x86_64"
"""Whether the bounds on instructions in bounds.toml are this build's."""
CACHE = "1048576,16,64"  # bytes, ways, bytes of a line: a second-level cache of today


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
            with _counted(library, "two messages of each in one tick, room of 2"):
                for _ in range(MEASURED):
                    stage.all_say(messages=2)
        if size == 8:
            stage.all_say()
            with _counted(library, "a message of each in one tick, room of 8"):
                for _ in range(MEASURED):
                    stage.all_say()
        if size == 100:
            stage.frame = client_frame(to=stage.room[1].member.identity.account_id)
            stage.say(0)
            with _counted(library, "directed message, room of 100"):
                for _ in range(MEASURED):
                    stage.say(0)
            _beat(stage, WARM)
            with _counted(library, "ping and pong"):
                _beat(stage, MEASURED)
        stage.close()
    stage = Stage(size=8, quiet=True)
    _say(stage, WARM)
    with _counted(library, "message into silence, room of 8"):
        _say(stage, MEASURED)
    stage.close()
    stage = Stage(size=2, rooms=1000)
    _say(stage, WARM)
    with _counted(library, "message, room of 2 among 1,000"):
        _say(stage, MEASURED)
    stage.close()


async def _wander(library: ctypes.CDLL) -> None:
    """Messages of anybody in many rooms of 3."""
    stage = Stage(size=3, rooms=MANY_ROOMS, quiet=True)
    stage.room = list(stage.connections.by_id.values())
    chance = random.Random(1)
    for _ in range(2):
        for number in chance.sample(range(len(stage.room)), len(stage.room)):
            stage.say(number)
    gc.collect()
    library.start()
    for _ in range(MEASURED_AMONG_MANY):  # what all messages touch is in the cache from here on
        stage.say(chance.randrange(len(stage.room)))
    library.zero()
    for _ in range(MEASURED_AMONG_MANY):
        stage.say(chance.randrange(len(stage.room)))
    library.stop(b"among many")
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


def _beat(stage: Stage, times: int) -> None:
    for number in range(times):
        stage.beat(number % len(stage.room))


def count(directory: Path) -> dict[str, int]:
    """Instructions per message, heartbeat or accept, by what was done.

    Raises: CalledProcessError, FileNotFoundError (no valgrind).
    """
    return {
        label: round(totals["Ir"] / MEASURED) for label, totals in _run(directory, "calls", "--play").items()
    }


def cold_lines(directory: Path) -> float:
    """Cache lines one message in one of `MANY_ROOMS` rooms of 3 finds outside of `CACHE`, by valgrind's simulation.

    Raises: as `count`.
    """
    options = ("--cache-sim=yes", f"--LL={CACHE}")
    (totals,) = _run(directory, "lines", "--wander", *options).values()
    return (totals["DLmr"] + totals["DLmw"]) / MEASURED_AMONG_MANY


def _run(directory: Path, name: str, what: str, *options: str) -> dict[str, dict[str, int]]:
    """Totals by event, for each label that was played."""
    library = directory / "collect.so"
    subprocess.run(
        [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", library, ROOT / "bench" / "collect.c"],
        check=True,
    )
    subprocess.run(
        [
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", *options,
            f"--callgrind-out-file={directory / name}", f"--log-file={directory / name}-log",
            sys.executable, "-m", "bench.instructions", what, library,
        ],
        check=True, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "0"},
    )  # fmt: skip
    totals = {}
    for file in sorted(directory.glob(f"{name}.*"), key=lambda path: int(path.suffix[1:])):
        text = file.read_text()
        label = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
        events = re.search(r"^events: (.*)$", text, re.MULTILINE)
        counts = re.search(r"^(?:summary|totals): (.*)$", text, re.MULTILINE)
        if label and events and counts:
            totals[label[1]] = dict(zip(events[1].split(), map(int, counts[1].split()), strict=True))
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", action="store_true")
    parser.add_argument("--play", metavar="LIBRARY", help=argparse.SUPPRESS)
    parser.add_argument("--wander", metavar="LIBRARY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        library = ctypes.CDLL(arguments.play)
        asyncio.run(_play(library))
        uvloop.run(_accept(library))
        return
    if arguments.wander:
        asyncio.run(_wander(ctypes.CDLL(arguments.wander)))
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for label, number in count(directory).items():
            print(f"{number:>10,}  {label}")
        print(
            f"{cold_lines(directory):>10.1f}  cache lines of its own, message in one of {MANY_ROOMS:,} rooms of 3"
        )
        if arguments.functions:
            subprocess.run(["callgrind_annotate", "--threshold=90", directory / "calls.1"], check=True)


if __name__ == "__main__":
    main()
