"""gRPC's threads beside the loop: whichever of our channels is opened first."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from sidecar import grpc_threads
from tests.harness import guid

OF_GRPC = ("event_engine", "grpc_global_tim", "lifeguard")


def policies(pid: int) -> dict[str, set[int]]:
    """How the threads of a process are scheduled, by their names."""
    found: dict[str, set[int]] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            name = "the loop" if thread.name == str(pid) else (thread / "comm").read_text().strip()
            found.setdefault(name, set()).add(os.sched_getscheduler(int(thread.name)))
    return found


@pytest.mark.parametrize("traced", [False, True], ids=["without tracing", "with tracing"])
async def test_threads_of_grpc_do_not_interrupt_the_loop(start, chat, issuer, monkeypatch, traced):
    if traced:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    async with start() as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        client = await sidecar.connect(room, issuer.token(account))
        found = policies(sidecar.process.pid)
        await client.close()
    assert found.pop("the loop") == {os.SCHED_OTHER}
    assert [found.pop(name) for name in OF_GRPC] == [{os.SCHED_BATCH}] * len(OF_GRPC)
    # One more of gRPC's has the name of the program, and so have those that are not gRPC's.
    assert os.SCHED_BATCH in set().union(*found.values())


@pytest.mark.parametrize(
    ("before", "inside"),
    [(os.SCHED_OTHER, os.SCHED_BATCH), (os.SCHED_BATCH, os.SCHED_BATCH), (os.SCHED_IDLE, os.SCHED_IDLE)],
)
def test_whoever_begins_them_is_scheduled_as_before(before, inside):
    seen = []

    def begin() -> None:
        os.sched_setscheduler(0, before, os.sched_param(0))
        with grpc_threads.patient():
            seen.append(os.sched_getscheduler(0))
        seen.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert seen == [inside, before]
