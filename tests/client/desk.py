"""`python -m sidecar dev` as a person starts it, in a directory of the test's own, and Chromium to look at its page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from tests.harness import DEADLINE_SECONDS, ROOT, http, until

# A browser under load on a small machine needs longer than a socket does.
BROWSER_SECONDS = 60
FLAGS = (
    "--no-sandbox",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--disable-background-networking",
)
# Few frames a second: encoding them is most of what these tests cost.
FAKE_CAMERA = ("--use-fake-device-for-media-stream=fps=8", "--use-fake-ui-for-media-stream")


@dataclass
class Desk:
    """A running `dev`: where it answers, and its sample file."""

    process: asyncio.subprocess.Process
    origin: str
    rooms_file: Path
    world: dict

    def person(self, name: str) -> str:
        return next(person["id"] for person in self.world["people"] if person["name"] == name)

    def room(self, name: str) -> str:
        return next(room["id"] for room in self.world["rooms"] if room["name"] == name)

    def link(self, name: str, room: str, *, join: bool = True) -> str:
        return f"{self.origin}/?room={self.room(room)}&as={self.person(name)}{'&join=1' if join else ''}"

    async def token(self, name: str) -> str:
        def ask() -> str:
            body = json.dumps({"account": self.person(name)}).encode()
            request = urllib.request.Request(f"{self.origin}/demo/token", data=body)
            with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:
                return json.loads(response.read())["token"]

        return await asyncio.to_thread(ask)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def run_desk(directory: Path, port: int = 0, **settings: str) -> AsyncIterator[Desk]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    environ |= {
        "PYTHONPATH": str(ROOT),
        "SIDECAR_PORT": str(port),
        "SIDECAR_OPS_PORT": "0",
        "SIDECAR_LOG_FORMAT": "json",
    } | {f"SIDECAR_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "dev", cwd=directory, env=environ,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    lines: list[str] = []
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            origin = await _origin(process, lines)
        draining = asyncio.create_task(_read_on(process))
        try:
            world = (await http(f"{origin}/demo/people.json")).json
            yield Desk(process, origin, directory / world["sampleFile"], world)
        finally:
            if process.returncode is None:
                process.kill()
            await draining
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _origin(process: asyncio.subprocess.Process, lines: list[str]) -> str:
    while line := await process.stderr.readline():
        lines.append(line.decode())
        with contextlib.suppress(json.JSONDecodeError):
            told = json.loads(line)
            if told.get("event") == "started":
                return f"http://{told['signaling'].removeprefix('http://')}"
    raise AssertionError("dev did not start:\n" + "".join(lines))


async def _read_on(process: asyncio.subprocess.Process) -> None:
    while await process.stderr.readline():
        pass


@contextlib.asynccontextmanager
async def run_browser(*, camera: bool = True) -> AsyncIterator[Browser]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    assert executable, "Chromium is needed for the demo's tests; on Debian: apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=[*FLAGS, *(FAKE_CAMERA if camera else ())]
        )
        try:
            yield browser
        finally:
            await browser.close()


async def open_page(browser: Browser, url: str, **options: object) -> Page:
    """A page of its own context, as another machine's would be; an uncaught error in it fails what waits for it."""
    context = await browser.new_context(**options)
    page = await context.new_page()
    page.set_default_timeout(BROWSER_SECONDS * 1000)
    await page.goto(url)
    return page


_FRAMES = """async () => {
  const frames = [];
  for (const remote of window.demo?.call?.remotes ?? []) {
    let decoded = 0;
    for (const report of (await remote.peerConnection.getStats()).values()) {
      if (report.type === "inbound-rtp" && report.kind === "video") decoded += report.framesDecoded ?? 0;
    }
    frames.push(decoded);
  }
  return frames;
}"""


_STATE = """() => [
  document.getElementById("status").innerText,
  document.getElementById("over-title").innerText,
  (window.demo?.call?.remotes ?? []).map(({ accountId, state, peerConnection }) =>
    [accountId, state, peerConnection.signalingState, peerConnection.iceGatheringState]),
  [...document.querySelectorAll("#events li")].map((line) => line.textContent),
]"""


async def frames_decoded(page: Page) -> list[int]:
    """Of each other device's video, so far."""
    return await page.evaluate(_FRAMES)


async def sees(page: Page, others: int, *, more_than: int = 10) -> None:
    """Wait until exactly so many devices' videos run here, each with more frames decoded than that."""

    async def runs() -> bool:
        frames = await frames_decoded(page)
        return len(frames) == others and all(decoded > more_than for decoded in frames)

    try:
        await until(runs, seconds=BROWSER_SECONDS)
    except TimeoutError:
        told = await page.evaluate(_STATE)
        raise AssertionError(
            f"not the pictures of {others} others: {await frames_decoded(page)} {told}"
        ) from None
