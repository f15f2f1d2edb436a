"""The pictures of docs/observability.md: `python -m tests.observe.pictures` makes them anew.

A real sidecar under a small load, with an outage of the chat service in it; the dashboard's own queries, answered by a
real Prometheus; Chromium for the live page. Takes about two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tempfile
import time
from pathlib import Path

import grpc
from websockets.exceptions import WebSocketException

from observability import dashboard
from sidecar.dev.issuer import Issuer
from tests.authority import Authority
from tests.chat_service import ChatServiceDouble
from tests.client.desk import run_browser
from tests.harness import ROOT, Sidecar, auth_settings, run_sidecar
from tests.observe import panels
from tests.observe.load import Load
from tests.observe.panels import Number, Panel, Series
from tests.observe.prometheus import Prometheus, run_prometheus

DOCS = ROOT / "docs"
SECONDS = 100
OUTAGE = range(60, 75)
VARIABLES = {"$job": ".*", "$instance": ".*", "$room": ".*", "$__rate_interval": "10s", "$__range": "2m"}


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        issuer = Issuer(Path(directory))
        authority = Authority(days=30)
        pair = authority.issue("chat")
        ca = Path(directory) / "ca.pem"
        ca.write_bytes(authority.pem)
        chat = ChatServiceDouble()
        credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)])
        await chat.start("127.0.0.1:0", credentials=credentials)
        try:
            settings = auth_settings(issuer) | {
                "membership_target": chat.target,
                "membership_tls_ca_file": ca,
                "membership_recheck_seconds": 2,
                "membership_cache_seconds": 1,
                "heartbeat_seconds": 2,
                "ops_page": True,
            }
            async with run_sidecar(**settings) as sidecar:
                targets = {"sphere-sidecar": [f"127.0.0.1:{sidecar.ops_port}"]}
                async with run_prometheus(targets, interval_ms=1000) as prometheus:
                    begun = time.time()
                    away = await run_load(Load(sidecar, chat, issuer), credentials)
                    end = time.time()
                    await live_page(sidecar)
                    await dashboard_pictures(prometheus, begun + 8, end, away)
        finally:
            await chat.stop()


async def run_load(load: Load, credentials: grpc.ServerCredentials) -> tuple[float, float]:
    """Rooms fill and empty, people signal, some are refused; the time when the chat service was away."""
    rng = random.Random(7)
    await load.fill(2, 2, 3, 4, 6, 8)
    for second in range(SECONDS):
        if second == OUTAGE.start:
            left = time.time()
            await load.chat.stop()
        if second == OUTAGE.stop:
            back = time.time()
            await load.chat.start(credentials=credentials)
        async with asyncio.timeout(20):
            await load.talk()
            if second % 3 == 0:
                with contextlib.suppress(AssertionError, WebSocketException):
                    await load.be_refused()
            room = rng.choice(list(load.people))
            with contextlib.suppress(WebSocketException, AssertionError):
                if len(load.people[room]) > 2 and rng.random() < 0.4:
                    await load.people[room].pop().close()
                else:
                    load.people[room].append(await load.enter(room))
        await asyncio.sleep(0.7)
    return left, back


async def live_page(sidecar: Sidecar) -> None:
    async with run_browser(camera=False) as browser:
        for scheme in ("light", "dark"):
            context = await browser.new_context(color_scheme=scheme, viewport={"width": 1120, "height": 740})
            page = await context.new_page()
            await page.goto(f"http://127.0.0.1:{sidecar.ops_port}")
            await page.locator("svg polyline").first.wait_for()
            await page.screenshot(path=DOCS / f"live-page-{scheme}.png")
            await context.close()


async def dashboard_pictures(
    prometheus: Prometheus, start: float, end: float, away: tuple[float, float]
) -> None:
    rows: dict[str, list[dict]] = {}
    for panel in json.loads(dashboard.FILE.read_text())["panels"]:
        if panel["type"] == "row":
            rows[panel["title"]] = []
        else:
            rows[list(rows)[-1]].append(panel)
    for title, shown in rows.items():
        if title == "Bus":
            continue  # one replica alone has none
        panels.draw(
            DOCS / f"dashboard-{title.lower().replace(' and ', ' ').replace(' ', '-')}.png",
            [await number(prometheus, panel, start, end) for panel in shown if panel["type"] == "stat"],
            [await plot(prometheus, panel, start, end) for panel in shown if panel["type"] == "timeseries"],
            begin=start - end,
            away=(away[0] - end, away[1] - end),
        )


async def ask(prometheus: Prometheus, target: dict, start: float, end: float):
    expression = target["expr"]
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return await prometheus.query_range(expression, start=start, end=end, step=1)


async def number(prometheus: Prometheus, panel: dict, start: float, end: float) -> Number:
    series = await ask(prometheus, panel["targets"][0], start, end)
    value = series[0][1][-1][1] if series else float("nan")
    defaults = panel["fieldConfig"]["defaults"]
    level = ""
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            level = step["color"]
    size, unit = panels.scaled(defaults["unit"], value)
    return Number(panel["title"], f"{round(value / size, 1):,g}{unit}" if series else "–", level)


async def plot(prometheus: Prometheus, panel: dict, start: float, end: float) -> Panel:
    found = []
    for target in panel["targets"]:
        for labels, points in await ask(prometheus, target, start, end):
            legend = target["legendFormat"]
            shown = labels | {
                "instance": "replica-0",
                "room": labels.get("room", "")[:8],
                "method": labels.get("method", "").replace("Memberships", "").replace("Membership", ""),
            }
            for name, value in shown.items():
                legend = legend.replace(f"{{{{{name}}}}}", value)
            found.append(Series(legend, *with_gaps(points, end)))
    return Panel(panel["title"], panel["fieldConfig"]["defaults"]["unit"], found)


def with_gaps(points: list[tuple[float, float]], end: float) -> tuple[list[float], list[float]]:
    """Seconds to `end`, below zero, and values; nothing is drawn where a series had no value."""
    times: list[float] = []
    values: list[float] = []
    for at, value in points:
        if times and at - end - times[-1] > 1.5:
            times.append(times[-1] + 1)
            values.append(float("nan"))
        times.append(at - end)
        values.append(value)
    return times, values


if __name__ == "__main__":
    asyncio.run(main())
