"""Bounds on the work of one message and one handshake, in instructions: valgrind counts them, no clock is asked."""

from __future__ import annotations

import tomllib

from bench import instructions
from bench.check import BOUNDS

SLACK = 1 if instructions.COMPARABLE else 2
"""Later Pythons take up to 61 % more for the same work (docs/performance.md); twice as much is a mistake of ours."""


def test_no_message_and_no_accept_takes_more_instructions_than_its_bound(tmp_path):
    bounds = tomllib.loads(BOUNDS.read_text())["instructions"]
    counted = instructions.count(tmp_path)
    assert counted.keys() == bounds.keys()
    assert {what: number for what, number in counted.items() if number > bounds[what] * SLACK} == {}
