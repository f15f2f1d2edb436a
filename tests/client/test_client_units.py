"""The client's own unit tests, under Node's test runner."""

from __future__ import annotations

import subprocess

from tests.client.node import node_command
from tests.harness import ROOT


def test_the_clients_unit_tests_pass():
    files = sorted(str(file) for file in (ROOT / "client" / "tests").glob("*.test.js"))
    assert files
    run = subprocess.run(
        [*node_command(), "--test", "--test-reporter=tap", *files],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "# pass 0" not in run.stdout
