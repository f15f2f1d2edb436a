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
import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from websockets.exceptions import WebSocketException

from observability import dashboard
from sidecar.dev.issuer import Issuer
from tests.authority import Authority
from tests.chat_service import ChatServiceDouble
from tests.client.desk import run_browser
from tests.harness import ROOT, Sidecar, auth_settings, run_sidecar
from tests.observe.load import Load
from tests.observe.prometheus import Prometheus, run_prometheus

DOCS = ROOT / "docs"
SECONDS = 100
OUTAGE = range(60, 75)
VARIABLES = {"$job": ".*", "$instance": ".*", "$room": ".*", "$__rate_interval": "10s", "$__range": "2m"}
PALETTE = ("#1f6feb", "#c2570c", "#1a7f37", "#8250df", "#bf3989", "#57606a", "#9a6700", "#0a7ea4")


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
                    await run_load(Load(sidecar, chat, issuer), credentials)
                    await live_page(sidecar)
                    await panels(prometheus, begun + 8, time.time())
        finally:
            await chat.stop()


async def run_load(load: Load, credentials: grpc.ServerCredentials) -> None:
    """Rooms fill and empty, people signal, some are refused; for a while the chat service is away."""
    rng = random.Random(7)
    await load.fill(2, 2, 3, 4, 6, 8)
    for second in range(SECONDS):
        if second == OUTAGE.start:
            await load.chat.stop()
        if second == OUTAGE.stop:
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


async def live_page(sidecar: Sidecar) -> None:
    async with run_browser(camera=False) as browser:
        for scheme in ("light", "dark"):
            context = await browser.new_context(color_scheme=scheme, viewport={"width": 1120, "height": 740})
            page = await context.new_page()
            await page.goto(f"http://127.0.0.1:{sidecar.ops_port}")
            await page.locator("svg polyline").first.wait_for()
            await page.screenshot(path=DOCS / f"live-page-{scheme}.png")
            await context.close()


async def panels(prometheus: Prometheus, start: float, end: float) -> None:
    mpl.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    rows: dict[str, list[dict]] = {}
    for panel in json.loads(dashboard.FILE.read_text())["panels"]:
        if panel["type"] == "row":
            rows[panel["title"]] = []
        else:
            rows[list(rows)[-1]].append(panel)
    for title, shown in rows.items():
        if title == "Bus":
            continue  # one replica alone has none
        plots = [panel for panel in shown if panel["type"] == "timeseries"]
        numbers = [panel for panel in shown if panel["type"] == "stat"]
        lines = -(-len(plots) // 3)
        figure = plt.figure(figsize=(11, 2.6 * lines + bool(numbers)), dpi=80, layout="constrained")
        below = figure
        if numbers:
            above, below = figure.subfigures(2, 1, height_ratios=(1, 2.6 * lines))
            for axes, panel in zip(above.subplots(1, len(numbers)), numbers, strict=True):
                await draw_number(axes, prometheus, panel, start, end)
        for axes, panel in zip(below.subplots(lines, 3).flat, plots, strict=True):
            await draw_plot(axes, prometheus, panel, start, end)
        name = title.lower().replace(" and ", " ").replace(" ", "-")
        figure.savefig(DOCS / f"dashboard-{name}.png")
        plt.close(figure)


async def ask(prometheus: Prometheus, target: dict, start: float, end: float):
    expression = target["expr"]
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return await prometheus.query_range(expression, start=start, end=end, step=1)


async def draw_number(axes: Axes, prometheus: Prometheus, panel: dict, start: float, end: float) -> None:
    series = await ask(prometheus, panel["targets"][0], start, end)
    value = series[0][1][-1][1] if series else float("nan")
    axes.axis("off")
    axes.set_title(panel["title"], fontsize=7, color="#57606a")
    color = "#1b2430"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = {"green": "#1a7f37", "orange": "#9a6700", "red": "#c62828"}.get(step["color"], "#1b2430")
    axes.text(0.5, 0.4, shown_as(value, panel), ha="center", va="center", fontsize=15, color=color)


def shown_as(value: float, panel: dict) -> str:
    match panel["fieldConfig"]["defaults"]["unit"]:
        case "percentunit":
            return f"{value:.1%}"
        case "s":
            return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"
        case _:
            return f"{value:g}"


async def draw_plot(axes: Axes, prometheus: Prometheus, panel: dict, start: float, end: float) -> None:
    number = 0
    for target in panel["targets"]:
        for labels, points in await ask(prometheus, target, start, end):
            legend = target["legendFormat"]
            shown = labels | {"instance": "replica-0", "room": labels.get("room", "")[:8]}
            for name, value in shown.items():
                legend = legend.replace(f"{{{{{name}}}}}", value)
            times, values = with_gaps(points, start)
            axes.plot(times, values, color=PALETTE[number % len(PALETTE)], lw=1, label=legend)
            number += 1
    axes.set_title(panel["title"], fontsize=9, loc="left")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, end - start)
    axes.grid(visible=True, axis="y", color="#dfe3e8", lw=0.5)
    unit = {"s": "seconds", "ops": "per second", "Bps": "bytes per second", "bytes": "bytes"}
    axes.set_ylabel(unit.get(panel["fieldConfig"]["defaults"]["unit"], ""), fontsize=7)
    if number:
        axes.legend(
            fontsize=6,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.1),
            ncols=2 if "{{method}}" in panel["targets"][0]["legendFormat"] else 3,
        )


def with_gaps(points: list[tuple[float, float]], start: float) -> tuple[list[float], list[float]]:
    """Seconds since `start` and values; nothing is drawn where a series had no value."""
    times: list[float] = []
    values: list[float] = []
    for at, value in points:
        if times and at - start - times[-1] > 1.5:
            times.append(times[-1] + 1)
            values.append(float("nan"))
        times.append(at - start)
        values.append(value)
    return times, values


if __name__ == "__main__":
    asyncio.run(main())
