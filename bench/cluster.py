"""What rooms over several replicas cost, on a real nats-server: `make bench-cluster`, about seven minutes.

    python -m bench.cluster               everything, into docs/performance/cluster.md
    python -m bench.cluster relay waves   only these; nothing is written

The first are replicas without WebSockets (`bench.cluster_replica`), `waves` are whole sidecars. Load, NATS and all
replicas share the machine: other load changes latencies more than costs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import cluster_waves
from bench.cluster_replica import NODE_TIMEOUT_SECONDS, Remote
from bench.world import ROOT

OUTPUT = ROOT / "docs" / "performance" / "cluster.md"
RATES = (4000, 8000, 16000, 24000, 32000, 48000)


class Nats:
    """A nats-server on loopback, which can be killed and started again at the same port."""

    def __init__(self) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self._port = sock.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self._port}"
        self.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        program = Path(sys.executable).parent / "nats-server"
        command = [program, "-a", "127.0.0.1", "-p", str(self._port)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self._port)) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> float:
    """How long it took. Raises: TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError
        time.sleep(0.01)
    return time.monotonic() - began


def rooms(number: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(number)]


@contextlib.contextmanager
def replicas(nats: Nats, number: int) -> Iterator[list[Remote]]:
    remotes = [Remote(nats.url) for _ in range(number)]
    try:
        yield remotes
    finally:
        for remote in remotes:
            remote.process.kill()
            remote.process.join()


def everywhere(remotes: list[Remote], ids: list[str], each: int) -> None:
    for remote in remotes:
        remote.ask("join", ids, each)
    others = len(ids) * each * (len(remotes) - 1)
    wait_for(lambda: all(remote.ask("state")["remotes"] == others for remote in remotes))


def relay(nats: Nats) -> Iterator[str]:
    """CPU per message on who publishes and who receives."""
    for number in (1, 2, 3):
        with replicas(nats, number) as remotes:
            ids = rooms(20)
            everywhere(remotes, ids, 2)
            before = [remote.ask("state") for remote in remotes]
            count, used = remotes[0].ask("say", ids, 3.0, 2000, "sdp")
            wait_for(
                lambda r=remotes, b=before, c=count: all(
                    x.ask("state")["taken"] - y["taken"] >= c for x, y in zip(r[1:], b[1:], strict=True)
                )
            )
            after = [remote.ask("state") for remote in remotes]
        received = [(a["cpu"] - b["cpu"]) / count * 1e6 for a, b in zip(after[1:], before[1:], strict=True)]
        yield (
            f"| a 1 KB broadcast at 2,000/s in rooms on {number} replica(s), 2 people on each | "
            f"sender's {used / count * 1e6:.1f} µs"
            + "".join(f", receiver's {value:.1f} µs" for value in received)
            + " of CPU |"
        )


def latency(nats: Nats) -> Iterator[str]:
    with replicas(nats, 2) as remotes:
        (room,) = rooms(1)
        everywhere(remotes, [room], 2)
        for remote in remotes:
            remote.ask("stamped")
        remotes[0].ask("say", [room], 5.0, 200, "stamp")
        wait_for(lambda: remotes[1].ask("state")["latencies"])
        for name, remote in zip(("on the same replica", "across NATS"), remotes, strict=True):
            values = sorted(remote.ask("state")["latencies"])
            yield (
                f"| latency {name}, 200/s | p50 {statistics.median(values) * 1e3:.2f} ms, "
                f"p99 {values[len(values) * 99 // 100] * 1e3:.2f} ms |"
            )


def throughput(nats: Nats) -> Iterator[str]:
    """Every replica publishes and receives."""
    for number in (1, 2, 3):
        best = 0
        for rate in RATES:
            with replicas(nats, number) as remotes:
                ids = rooms(20)
                everywhere(remotes, ids, 2)
                before = sum(remote.ask("state")["taken"] for remote in remotes)
                for remote in remotes:
                    remote.begin("say", ids, 2.0, rate / number, "sdp")
                said = sum(remote.end()[0] for remote in remotes)
                time.sleep(0.3)
                taken = sum(remote.ask("state")["taken"] for remote in remotes) - before
            if said < 1.9 * rate or taken < said * (number - 1):
                break
            best = rate
        yield (
            f"| highest of {', '.join(map(str, RATES))} signals/s that {number} replica(s) said and took in in time | "
            f"{best:,}/s, each taken in {number - 1} times |"
        )


def joins(nats: Nats) -> Iterator[str]:
    with replicas(nats, 2) as (one, other):
        ids = rooms(1000)
        for name, remote in (("nowhere else", one), ("on another replica", other)):
            seconds, used = remote.ask("join", ids, 2)
            yield f"| joins into rooms open {name} | {2000 / seconds:,.0f}/s, {used / 2000 * 1e6:.0f} µs of CPU each |"


def death(nats: Nats) -> Iterator[str]:
    """A replica with 10,000 connections is killed: when the others have told all of it."""
    with replicas(nats, 3) as remotes:
        ids = rooms(1250)
        remotes[0].ask("join", ids, 8)
        for remote in remotes[1:]:
            remote.ask("join", ids, 1)
        wait_for(lambda: all(remote.ask("state")["remotes"] == 11250 for remote in remotes[1:]))
        before = [remote.ask("state")["cpu"] for remote in remotes[1:]]
        remotes[0].process.kill()
        seconds = wait_for(lambda: all(remote.ask("state")["remotes"] == 1250 for remote in remotes[1:]))
        used = [remote.ask("state")["cpu"] - was for remote, was in zip(remotes[1:], before, strict=True)]
    yield (
        f"| a replica with 10,000 connections in 1,250 rooms is killed | all told after {seconds:.1f} s, of which "
        f"{NODE_TIMEOUT_SECONDS:g} s are the timeout; {max(used):.2f} s of CPU on each other |"
    )


def outage(nats: Nats) -> Iterator[str]:
    """The server is gone for 10 s under 10,000 connections and 500 messages a second."""
    with replicas(nats, 2) as remotes:
        ids = rooms(1000)
        everywhere(remotes, ids, 5)
        before = remotes[1].ask("state")["taken"]
        remotes[0].begin("say", ids, 14.0, 500, "sdp")
        time.sleep(1)
        nats.kill()
        time.sleep(10)
        nats.start()
        began = time.monotonic()
        count, _ = remotes[0].end()
        wait_for(lambda: remotes[1].ask("state")["taken"] - before >= count)
        state = remotes[1].ask("state")
        yield (
            f"| NATS is killed for 10 s under 500 signals/s, 1,000 rooms | {state['taken'] - before:,} of {count:,} "
            f"arrive, {state['gaps']} gaps, all there {time.monotonic() - began:.1f} s after it is back, of which 3 s "
            "more is said |"
        )


MEASUREMENTS: dict[str, Callable[[Nats], Iterator[str]]] = {
    one.__name__: one for one in (relay, latency, throughput, joins, death, outage)
}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    chosen = sys.argv[1:] or [*MEASUREMENTS, "waves"]
    written: list[str] = []

    def say(line: str) -> None:
        written.append(line)
        print(line, flush=True)

    say("Written by `make bench-cluster`; do not edit.\n")
    say(
        f"- {os.cpu_count()} CPUs for everything, Linux {platform.release()}, Python {platform.python_version()}"
    )
    say(f"- load average before: {os.getloadavg()[0]:.1f}")
    say("\n## Replicas without WebSockets\n\n| | |\n|---|---|")
    nats = Nats()
    try:
        for name in chosen:
            for line in MEASUREMENTS[name](nats) if name in MEASUREMENTS else cluster_waves.measure(nats):
                say(line)
    finally:
        nats.kill()
    if not sys.argv[1:]:
        OUTPUT.write_text("\n".join(written) + "\n")


if __name__ == "__main__":
    main()
