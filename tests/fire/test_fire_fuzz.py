"""Fuzzing for a few seconds over the corpus; `make fuzz` goes on for as long as one likes."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys

import pytest

import fuzz.frames
import fuzz.packets
from tests.harness import ROOT

SECONDS = int(os.environ.get("FUZZ_SECONDS", "10"))
CORPUS = ROOT / "fuzz" / "corpus"


@pytest.mark.parametrize("target", [fuzz.packets, fuzz.frames], ids=["packets", "frames"])
def test_what_fuzzing_found_before_keeps_every_promise(target):
    inputs = sorted((CORPUS / target.__name__.rpartition(".")[2]).iterdir())
    assert len(inputs) > 20
    for file in inputs:
        target.check(file.read_bytes())


@pytest.mark.parametrize("target", ["packets", "frames"])
async def test_fuzzing_finds_nothing_new_in_its_time(target, tmp_path):
    shutil.copytree(CORPUS / target, tmp_path / "corpus")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fuzz.run", target,
        f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/", "-max_len=4000",
        f"-dict={ROOT}/fuzz/packets.dict", str(tmp_path / "corpus"),
        cwd=ROOT, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, report = await process.communicate()
    assert process.returncode == 0, report[-4000:].decode(errors="replace")
    assert b"Done " in report
