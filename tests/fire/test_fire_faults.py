"""A bug of ours ends one connection or one handshake, and is told in the log; `faults.py` throws them."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.fire.faults import BOOKS
from tests.harness import ROOT

TOLD = {"nothing", "cut", "closed 1011", "refused 500", "refused 503"}
"""What people may see of a bug; 503 where it was in asking the chat service."""


async def test_a_bug_at_the_head_of_any_function_or_at_any_await_ends_no_more_than_its_connection():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fire.faults", cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, problems = await process.communicate()
    assert process.returncode == 0, problems[-3000:].decode(errors="replace")
    outcomes = [json.loads(line) for line in out.splitlines()]
    assert len(outcomes) > 120
    assert {"closed 1011", "refused 500"} <= {told for _, told, _, _ in outcomes}
    wrong = []
    for where, told, traces, left in outcomes:
        function = where.rpartition(" ")[2]
        whole = not left and (told in TOLD or function in BOOKS)
        if not whole or not traces:
            wrong.append((where, told, traces, left))
    assert not wrong, wrong
