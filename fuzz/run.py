"""Coverage-guided fuzzing: `python -m fuzz.run packets|frames [libFuzzer options] [corpus folders]`.

New inputs that reach new code go into the first folder named; an input that breaks a promise is left as crash-*.
"""

from __future__ import annotations

import importlib
import sys

import atheris

with atheris.instrument_imports(include=["sidecar.signaling", "sidecar.transport", "websockets"]):
    targets = {name: importlib.import_module(f"fuzz.{name}") for name in ("packets", "frames")}

if __name__ == "__main__":
    target = targets[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()
