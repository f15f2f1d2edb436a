"""A real Prometheus, and its tool. On Debian: apt-get install prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from tests.harness import ROOT, http, until

RULES = ROOT / "helm" / "sphere-sidecar" / "files" / "rules.yaml"


def program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is missing; on Debian: apt-get install prometheus"
    return path


def promtool(
    *arguments: str, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it; what it says to standard error comes with its output."""
    done = subprocess.run(
        [program("promtool"), *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        check=False,
        timeout=60,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode())


class Prometheus:
    """A running one, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def _get(self, path: str, **parameters: str):
        answer = await http(f"{self._url}{path}?{urllib.parse.urlencode(parameters)}")
        assert answer.status == 200, answer.body.decode()
        return answer.json["data"]

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant query."""
        result = (await self._get("/api/v1/query", query=expression))["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    async def value(self, expression: str) -> float | None:
        """The only value of a query; None if there is none."""
        found = await self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    async def query_range(self, expression: str, *, start: float, end: float, step: float):
        """Labels and (time, value) pairs of each series of a range query."""
        result = (
            await self._get(
                "/api/v1/query_range", query=expression, start=str(start), end=str(end), step=str(step)
            )
        )["result"]
        return [(one["metric"], [(at, float(value)) for at, value in one["values"]]) for one in result]

    async def alerts(self) -> dict[str, str]:
        """The state, `pending` or `firing`, of each alert that is not inactive."""
        return {
            one["labels"]["alertname"]: one["state"] for one in (await self._get("/api/v1/alerts"))["alerts"]
        }

    async def targets_up(self) -> bool:
        if (await http(f"{self._url}/-/ready")).status != 200:
            return False
        targets = (await self._get("/api/v1/targets", state="active"))["activeTargets"]
        return bool(targets) and all(target["health"] == "up" for target in targets)

    async def rule_problems(self) -> list[str]:
        """What went wrong at the last evaluation of each rule; rules not evaluated yet count as problems."""
        groups = (await self._get("/api/v1/rules"))["groups"]
        return [
            f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}"
            for group in groups
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]


@contextlib.asynccontextmanager
async def run_prometheus(
    targets: Mapping[str, Sequence[str]], *, interval_ms: int = 250
) -> AsyncIterator[Prometheus]:
    """One that scrapes `targets` (addresses by job) and evaluates the rules as shipped, both every `interval_ms`."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "prometheus.json"
        config.write_text(
            json.dumps(  # YAML is a superset of JSON
                {
                    "global": {
                        "scrape_interval": f"{interval_ms}ms",
                        "scrape_timeout": f"{interval_ms}ms",
                        "evaluation_interval": f"{interval_ms}ms",
                    },
                    "rule_files": [str(RULES)],
                    "scrape_configs": [
                        {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                        for job, addresses in targets.items()
                    ],
                }
            )
        )
        port = _free_port()
        with (Path(directory) / "log").open("wb+") as log:
            process = await asyncio.create_subprocess_exec(
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--query.lookback-delta=5s",
                stdout=log,
                stderr=log,
            )
            prometheus = Prometheus(f"http://127.0.0.1:{port}")

            def said() -> str:
                log.seek(0)
                return log.read().decode()

            async def ready() -> bool:
                assert process.returncode is None, said()
                with contextlib.suppress(OSError):
                    return await prometheus.targets_up()
                return False

            try:
                await until(ready, "Prometheus scrapes its targets")
                yield prometheus
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
