"""Coverage-guided fuzzing.

`python -m fuzz.run` fuzzes packets and frames, half an hour each (`FUZZ_SECONDS`: another time);
`python -m fuzz.run packets|frames [libFuzzer options] [corpus folders]` one of them. New inputs that reach new code go
into the first folder named; an input that breaks a promise is left as crash-*.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
TARGETS = ("packets", "frames")
SECONDS = int(os.environ.get("FUZZ_SECONDS", "1800"))


def fuzz(target: str, arguments: list[str]) -> None:
    """Fuzz one target; ends the process."""
    with atheris.instrument_imports(include=["sidecar.signaling", "sidecar.transport", "websockets"]):
        check = importlib.import_module(f"fuzz.{target}").check
    atheris.Setup([sys.argv[0], *arguments], check)
    atheris.Fuzz()


def fuzz_all() -> None:
    """Fuzz each target in a process of its own. Raises CalledProcessError where one breaks a promise."""
    for target in TARGETS:
        options = [
            f"-max_total_time={SECONDS}",
            f"-dict={HERE}/packets.dict",
            "-max_len=70000",
        ]
        command = [sys.executable, "-m", "fuzz.run", target, *options, str(HERE / "corpus" / target)]
        subprocess.run(command, cwd=HERE.parent, check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        fuzz(sys.argv[1], sys.argv[2:])
    else:
        fuzz_all()
