"""Bounds on the work of one message and one handshake, in instructions: valgrind counts them, no clock is asked."""

from __future__ import annotations

import tomllib

import pytest

from bench import instructions
from bench.check import BOUNDS


# Another build of Python or another processor counts otherwise, whatever our code does: a bound there would judge them.
@pytest.mark.skipif(
    not instructions.COMPARABLE,
    reason="bounds.toml counts CPython 3.11 on x86-64; test_bench_work bounds calls on all others",
)
def test_no_message_and_no_accept_takes_more_instructions_than_its_bound(tmp_path):
    bounds = tomllib.loads(BOUNDS.read_text())["instructions"]
    counted = instructions.count(tmp_path)
    assert counted.keys() == bounds.keys()
    assert {what: number for what, number in counted.items() if number > bounds[what]} == {}
