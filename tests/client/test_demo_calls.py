"""People call each other on the demo page: Chromium, a real sidecar, real media."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlencode

import pytest
from playwright.async_api import expect

from tests.client.desk import BROWSER_SECONDS, frames_decoded, open_page, run_browser, run_desk, sees

expect.set_options(timeout=BROWSER_SECONDS * 1000)


@pytest.fixture
async def desk(tmp_path):
    async with run_desk(tmp_path) as running:
        yield running


@pytest.fixture
async def browser():
    async with run_browser() as running:
        yield running


SHOWN = """[...document.querySelectorAll(".tile video")].map((video) => {
  const shape = video.clientWidth / video.clientHeight / (video.videoWidth / video.videoHeight);
  return Math.min(shape, 1 / shape);
})"""
"""Of each picture, the share that is not cut off."""


async def test_two_people_who_call_at_once_see_each_other(desk, browser):
    alice, bob = await asyncio.gather(
        open_page(browser, desk.link("alice", "lobby")), open_page(browser, desk.link("bob", "lobby"))
    )
    await asyncio.gather(sees(alice, 1), sees(bob, 1))
    await expect(alice.locator("#status")).to_have_text("In the room")
    await expect(alice.locator(".tile figcaption").filter(has_text="Bobby")).to_contain_text(
        re.compile(r"\d+ ms")
    )
    await expect(alice.locator(".tile figcaption").filter(has_text="Bobby")).not_to_contain_text(".")
    await expect(bob.locator(".tile[data-key=self] figcaption")).to_contain_text("Bobby (you)")
    await expect(bob.locator("#where")).to_have_text("Bobby in lobby")
    assert min(await alice.evaluate(SHOWN)) > 2 / 3
    await expect(alice.locator("#roster")).to_contain_text(re.compile(r"Bobby.*moderator"))

    await alice.click("#tab-packets")
    await alice.fill("#packet-filter", "answer")
    row = alice.locator("#packets li:not([hidden])").first
    await expect(row).to_contain_text("Bobby")
    await row.locator("summary").click()
    await expect(row.locator("pre")).to_contain_text("a=ice-ufrag:")

    await bob.click("#cam")
    await expect(alice.locator(".tile.no-picture figcaption")).to_contain_text("Bobby")
    await bob.click("#mic")
    await expect(alice.locator(".tile", has_text="Bobby").locator(".tile-muted")).to_be_hidden()


async def test_a_third_joins_late_and_hangs_up_and_the_others_see_it(desk, browser):
    alice, bob = await asyncio.gather(
        open_page(browser, desk.link("alice", "lobby")), open_page(browser, desk.link("bob", "lobby"))
    )
    await asyncio.gather(sees(alice, 1), sees(bob, 1))
    carol = await open_page(browser, desk.link("carol", "lobby"))
    await asyncio.gather(sees(alice, 2), sees(bob, 2), sees(carol, 2))

    await carol.click("#hang-up")
    await expect(carol.locator("#over-title")).to_have_text("You hung up")
    await expect(carol.locator("#where")).to_be_empty()
    for page in (alice, bob):
        await expect(page.locator(".tile")).to_have_count(2)
        await expect(page.locator("#roster")).not_to_contain_text("Carol")
        await page.click("#tab-events")
        await expect(page.locator("#events li", has_text="Carol").first).to_contain_text("Carol hung up")
        await expect(page.locator("#events li", has_text="Carol left")).to_have_count(0)
    await sees(alice, 1, more_than=max(await frames_decoded(alice)))

    await carol.click("#rejoin")
    await asyncio.gather(sees(alice, 2), sees(bob, 2), sees(carol, 2))


async def test_two_tabs_of_one_person_are_two_devices(desk, browser):
    first = await open_page(browser, desk.link("alice", "lobby"))
    second = await open_page(browser, desk.link("alice", "lobby"))
    await asyncio.gather(sees(first, 1), sees(second, 1))
    await expect(first.locator("#roster > li")).to_have_count(1)
    await expect(first.locator("#roster .device")).to_have_count(2)
    await expect(first.locator(".tile figcaption").filter(has_text="another tab")).to_be_visible()


async def test_a_call_outlives_the_sidecar_and_its_signaling_comes_back_by_itself(tmp_path, browser):
    async with run_desk(tmp_path) as desk:
        alice, bob = await asyncio.gather(
            open_page(browser, desk.link("alice", "lobby")), open_page(browser, desk.link("bob", "lobby"))
        )
        await asyncio.gather(sees(alice, 1), sees(bob, 1))
        before = await alice.evaluate("demo.signaling.connectionId")
        kept = await alice.evaluate_handle("demo.call.remotes[0].peerConnection")
        await desk.kill()
    await expect(alice.locator("#status")).to_contain_text("Trying again")
    await sees(alice, 1, more_than=max(await frames_decoded(alice)) + 10)

    async with run_desk(tmp_path, port=int(desk.origin.rpartition(":")[2])):
        for page in (alice, bob):
            await expect(page.locator("#status")).to_have_text("In the room")
        assert await alice.evaluate("demo.signaling.connectionId") != before
        # Signals reach the other side under its new connection id, and the media path was never torn down.
        await alice.wait_for_function("demo.signaling.peerOfConnection(demo.call.remotes[0].connectionId)")
        await bob.click("#cam")
        await expect(alice.locator(".tile.no-picture figcaption")).to_contain_text("Bobby")
        assert await alice.evaluate("(kept) => demo.call.remotes[0].peerConnection === kept", kept)
        await sees(alice, 1, more_than=max(await frames_decoded(alice)))
        carol = await open_page(browser, desk.link("carol", "lobby"))
        await asyncio.gather(sees(alice, 2), sees(bob, 2), sees(carol, 2))


async def test_a_restart_is_told_once_and_the_wait_is_counted_down(desk, browser):
    page = await open_page(browser, desk.link("alice", "lobby", join=False))
    await page.evaluate("Math.random = () => 0.999")  # so the waits are of 0.5, 1, 2, 4, 8 seconds
    await page.click("#join")
    await expect(page.locator("#status")).to_have_text("In the room")
    desk.process.terminate()
    await page.click("#tab-events")
    lost = page.locator("#events li", has_text="Connection lost: 1012")
    await expect(lost.locator("p").last).to_have_text("This sidecar is restarting.")
    for seconds in (8, 7, 6):  # no wait is of 6 or 7
        await expect(page.locator("#status")).to_have_text(f"Trying again in {seconds} s")


COMINGS = """async () => {
  const { Comings } = await import("/demo/comings.js");
  const said = [];
  const add = (_, title) => {
    said.push(title);
    return { remove: () => said.splice(said.indexOf(title), 1) };
  };
  let now = 0;
  const comings = new Comings({ add }, () => now);
  const tell = (type, connectionId, afterReconnect = false) =>
    comings.presence(type, { accountId: "b", connectionId, info: { nick: "Bobby" }, afterReconnect });
  const remote = (connectionId) => ({ accountId: "b", connectionId, account: { nick: "Bobby" } });
  const days = [];
  const done = () => days.push(said.splice(0));

  tell("user-left", "b1", true), now += 14_000, tell("user-joined", "b2"), done();
  tell("user-left", "b2"), now += 15_000, comings.outOfCall(remote("b2"), "left", "is gone"), done();
  tell("user-joined", "b3"), done();
  comings.outOfCall(remote("b3"), "hung-up", "hung up"), tell("user-left", "b3"), tell("user-joined", "b4"), done();
  comings.outOfCall(remote("b4"), "left", "is gone"), now += 5_000;
  tell("connection-left", "b4", true), tell("connection-joined", "b5", true), done();
  tell("connection-joined", "b6"), done();
  tell("connection-left", "b5", true), tell("user-left", "b6", true);
  tell("user-joined", "b7"), tell("connection-joined", "b8"), done();
  return days;
}"""


async def test_who_is_soon_back_after_a_broken_connection_did_not_leave_and_a_going_is_said_once(
    desk, browser
):
    page = await open_page(browser, desk.link("alice", "lobby", join=False))
    assert await page.evaluate(COMINGS) == [
        ["Bobby's signaling came back"],
        ["Bobby left the room"],
        ["Bobby came in"],
        ["Bobby hung up", "Bobby came in"],
        ["Bobby's signaling came back"],
        ["Bobby came in with another device"],
        ["Bobby's signaling came back"],
    ]


async def test_a_kicked_person_is_told_so_and_stays_out_and_the_others_see_them_go(desk, browser):
    alice, bob = await asyncio.gather(
        open_page(browser, desk.link("alice", "lobby")), open_page(browser, desk.link("bob", "lobby"))
    )
    await asyncio.gather(sees(alice, 1), sees(bob, 1))
    sockets = []
    bob.on("websocket", lambda socket: sockets.append(socket.url))

    rooms = desk.rooms_file.read_text("utf-8")
    kicked = re.sub(r"(?ms)(^\[rooms\.lobby\.members\].*?)^bob = .*?\n", r"\1", rooms)
    assert kicked != rooms
    desk.rooms_file.write_text(kicked, "utf-8")

    await expect(bob.locator("#over-title")).to_have_text("You were removed from this room")
    await expect(bob.locator("#over-code")).to_contain_text("4403")
    await expect(alice.locator(".tile")).to_have_count(1)
    assert await bob.evaluate("window.demo") is None
    await bob.click("#ask")
    await expect(bob.locator("#asked")).to_contain_text("403 NOT_A_MEMBER")
    assert sockets == []


async def test_who_may_not_join_is_told_why_before_any_camera_is_asked_for(desk, browser):
    watch = "() => { navigator.mediaDevices.getUserMedia = () => (window.cameraAskedFor = true); }"
    for name, code, title in (
        ("dave", "403 NOT_A_MEMBER", "not an active member"),
        ("erin", "403 MEMBER_TIMED_OUT", "timed out"),
    ):
        page = await open_page(browser, desk.link(name, "lobby", join=False))
        await page.evaluate(watch)
        await expect(page.locator("#outlook")).to_contain_text("the sidecar will refuse")
        await page.click("#join")
        await expect(page.locator("#over-code")).to_contain_text(code)
        await expect(page.locator("#over-title")).to_be_focused()
        await expect(page.locator("#over-title")).to_contain_text(title)
        assert await page.evaluate("window.cameraAskedFor") is None


async def test_who_finds_the_room_full_is_told_that_it_may_be(tmp_path, browser):
    async with run_desk(tmp_path, max_room_connections="1") as desk:
        alice = await open_page(browser, desk.link("alice", "lobby"))
        await expect(alice.locator("#status")).to_have_text("In the room")
        bob = await open_page(browser, desk.link("bob", "lobby"))
        await expect(bob.locator("#notice")).to_contain_text("the room may be full")
        await bob.click("#tab-events")
        await expect(bob.locator("#events")).to_contain_text("the room may be full")
        await alice.click("#hang-up")
        await expect(bob.locator("#status")).to_have_text("In the room")


@pytest.mark.parametrize("wrong", ["as", "room"])
async def test_a_link_that_names_nobody_or_nowhere_is_explained_and_joins_nothing(desk, browser, wrong):
    right = {"as": desk.person("alice"), "room": desk.room("lobby")}
    stranger = "00000000-0000-4000-8000-00000000dead"
    page = await open_page(browser, f"{desk.origin}/?{urlencode(right | {wrong: stranger})}&join=1")
    await expect(page.locator("#bad-link")).to_contain_text(stranger)
    await expect(page.locator("#join")).to_be_disabled()
    assert await page.evaluate("window.demo") is None
    await page.check(f"input[name={wrong}] >> nth=0")
    await page.click("#join")
    await expect(page.locator("#status")).to_have_text("In the room")


async def test_without_a_camera_a_drawn_picture_is_sent(desk):
    async with run_browser(camera=False) as browser:
        alice, bob = await asyncio.gather(
            open_page(browser, desk.link("alice", "lobby")), open_page(browser, desk.link("bob", "lobby"))
        )
        await asyncio.gather(sees(alice, 1), sees(bob, 1))
        await expect(alice.locator("#notice")).to_contain_text("drawn picture")


async def test_a_token_is_renewed_during_the_call(desk, browser):
    alice = await open_page(browser, desk.link("alice", "lobby"))
    await expect(alice.locator("#status")).to_have_text("In the room")
    await alice.evaluate("demo.signaling.refreshToken()")
    await alice.click("#tab-events")
    await expect(alice.locator("#events")).to_contain_text("Token renewed")


@pytest.mark.parametrize("width", [360, 1280])
async def test_every_view_fits_the_window_and_names_its_controls(desk, browser, width):
    page = await open_page(
        browser, desk.link("alice", "lobby", join=False), viewport={"width": width, "height": 720}
    )
    await expect(page.locator(".card").first).to_be_visible()
    await expect(page.locator("#bad-link")).to_be_hidden()
    await expect(page.locator("#join")).to_be_in_viewport(ratio=1)
    await fits_and_is_named(page)
    await page.click("#join")
    await expect(page.locator(".tile")).to_be_visible()
    for tab in ("packets", "events", "people"):
        await page.click(f"#tab-{tab}")
        await fits_and_is_named(page)
    await page.click("#invite summary")
    await fits_and_is_named(page)
    await page.keyboard.press("Escape")
    await expect(page.locator("#invitees")).to_be_hidden()
    await page.click("#hang-up")
    await expect(page.locator("#over-title")).to_be_visible()
    await fits_and_is_named(page)


async def fits_and_is_named(page):
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    nameless = """() => [...document.querySelectorAll("button, a, input, select, summary")]
      .filter((control) => control.checkVisibility())
      .filter((control) => !(control.innerText || control.ariaLabel || control.labels?.[0]?.innerText)?.trim())
      .map((control) => control.outerHTML)"""
    assert await page.evaluate(nameless) == []
