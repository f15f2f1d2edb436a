"""The live page: on where asked for, right about what it shows, and nothing on it that should not be."""

from __future__ import annotations

import contextlib

import pytest
from websockets.exceptions import InvalidStatus

from sidecar.observe.history import History
from sidecar.observe.metrics import Metrics
from sidecar.observe.refusals import Refusals
from tests.client.desk import run_browser
from tests.harness import guid, until
from tests.observe.load import Load
from tests.observe.rooms import hub_of, join, metrics_of

PAGE_FILES = ("/", "/state", "/live.js", "/live.css")

CUT = """[...document.querySelectorAll("main section *")]
  .filter((one) => one.getBoundingClientRect().right > one.closest("section").getBoundingClientRect().right)
  .map((one) => one.outerHTML)"""
"""What reaches beyond its card."""
FILTER = "getComputedStyle(document.querySelector('main')).filter"


async def test_the_page_is_off_unless_asked_for(world):
    for path in PAGE_FILES:
        assert (await world.sidecar.ops(path)).status == 404


async def test_what_the_page_shows_is_what_happened(start, chat, issuer):
    async with start(ops_page=True, ops_host="127.0.0.1") as sidecar:
        load = Load(sidecar, chat, issuer)
        await load.fill(2, 3)
        await load.talk()
        await load.be_refused()

        sent = sum(counted.sent.total() for counted in load.counted.values())
        received = sum(counted.received for counted in load.counted.values())

        async def sampled():
            state = (await sidecar.ops("/state")).json
            seen = sum(sample["received"] for sample in state["samples"]) * state["sampleSeconds"]
            return state if seen >= sent - 0.01 else None

        state = await until(sampled, "samples of all that was sent")
        answer = await sidecar.ops("/state")
        accounts = [client.welcome["userId"] for people in load.people.values() for client in people]
    last = state["samples"][-1]
    assert (last["connections"], last["rooms"]) == (5, 2)
    seconds = state["sampleSeconds"]
    assert sum(sample["received"] for sample in state["samples"]) * seconds == pytest.approx(sent)
    assert sum(sample["delivered"] for sample in state["samples"]) * seconds == pytest.approx(received)
    sizes = [(room["connections"], room["participants"]) for room in state["largestRooms"]]
    assert sizes == [(3, 3), (2, 2)]
    assert {room["room"] for room in state["largestRooms"]} == set(load.people)
    assert [refusal["code"] for refusal in state["refusals"]] == [
        "NOT_A_MEMBER",
        "TOKEN_EXPIRED",
        "UNAUTHORIZED",
    ]
    assert state["ready"] == "ok"
    assert state["membership"]["chatService"] == "answers"
    assert not state["membership"]["stale"]
    assert state["membership"]["answered"] >= 6
    assert b"127.0.0.1" not in answer.body
    assert not [account for account in accounts if account.encode() in answer.body]
    assert "default-src 'self'" in answer.headers["content-security-policy"]


async def test_people_can_read_it_by_day_by_night_and_on_a_phone(start, chat, issuer):
    async with start(ops_page=True) as sidecar, run_browser(camera=False) as browser:
        load = Load(sidecar, chat, issuer)
        await load.fill(2)
        await load.be_refused()
        await chat.stop()
        with contextlib.suppress(InvalidStatus):  # the longest code there is
            await sidecar.connect(guid(), issuer.token(guid()))
        address = f"http://127.0.0.1:{sidecar.ops_port}"
        backgrounds = set()
        for scheme, width in (("light", 1280), ("dark", 1280), ("light", 820), ("light", 360)):
            context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
            page = await context.new_page()
            problems, asked = [], []
            page.on("console", lambda message, to=problems: to.append(message.text))
            page.on("pageerror", lambda error, to=problems: to.append(str(error)))
            page.on("request", lambda request, to=asked: to.append(request.url))
            await page.goto(address)
            await page.get_by_text("2 of 10,000 connections").wait_for()
            text = await page.inner_text("body")
            for shown in (
                "Signals a second",
                "The last five minutes",
                "MEMBERSHIP_UNAVAILABLE",
                next(iter(load.people)),
            ):
                assert shown in text
            assert "127.0.0.1" not in text
            assert await page.locator("svg polyline").count() == 6
            backgrounds.add(await page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
            assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert await page.evaluate(CUT) == []
            trace = page.locator("#refusals tr:first-child td.id").last
            assert len(await trace.inner_text()) == 32
            assert problems == []
            assert {url for url in asked if not url.startswith(("data:", address))} == set()
            await context.close()
        assert len(backgrounds) == 2


async def test_a_chat_service_that_is_away_is_said_to_be_whether_or_not_somebody_asks(start, chat, issuer):
    async with start(ops_page=True) as sidecar, run_browser(camera=False) as browser:
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{sidecar.ops_port}")
        says = page.locator("dt:text-is('Chat service') + dd")
        await says.filter(has_text="not asked yet").wait_for()
        load = Load(sidecar, chat, issuer)
        await load.fill(1)
        await says.filter(has_text="answers asked").wait_for()
        assert await says.get_attribute("class") == "good"
        for client in load.people.popitem()[1]:
            await client.close()
        await chat.stop()  # nobody asks any more: the broken stream tells
        await says.filter(has_text="does not answer").wait_for()
        assert await says.get_attribute("class") == "bad"
        await chat.start()

        async def entered():
            with contextlib.suppress(InvalidStatus):
                return await load.enter(guid())

        await until(entered, "the chat service to be found again")
        await says.filter(has_text="answers asked").wait_for()


async def test_when_the_sidecar_is_gone_the_page_says_so_and_nothing_on_it_is_green(start):
    async with run_browser(camera=False) as browser:
        async with start(ops_page=True) as sidecar:
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{sidecar.ops_port}")
            await page.get_by_text("0 of 10,000 connections").wait_for()
            assert await page.evaluate(FILTER) == "none"
        await page.get_by_text("The sidecar does not answer").wait_for()
        assert await page.evaluate(FILTER) == "grayscale(1)"


def history_of(metrics: Metrics) -> History:
    return History(metrics=metrics, refusals=Refusals(), why_not_ready=lambda: "draining")


async def test_a_fresh_page_has_a_sample_before_the_first_interval():
    metrics = metrics_of()
    hub = hub_of(metrics)
    join(hub, guid())
    state = history_of(metrics).state()
    assert [(sample.rooms, sample.received) for sample in state.samples] == [(1, 0.0)]
    assert state.relay_seconds is None
    assert state.ready == "draining"


@pytest.mark.parametrize("connected", [None, False, True])
async def test_the_bus_is_on_the_page_where_there_is_one(connected):
    metrics = metrics_of()
    hub_of(metrics, bus_connected=connected)
    assert history_of(metrics).state().bus_connected is connected


@pytest.mark.parametrize(("stale", "breaker_open"), [(True, False), (False, True)])
async def test_a_chat_service_is_silent_while_connections_rest_on_old_answers_or_it_is_seldom_asked(
    stale, breaker_open
):
    metrics = metrics_of()
    hub_of(metrics, stale=stale, breaker_open=breaker_open)
    assert history_of(metrics).state().membership.chat_service == "silent"


async def test_keys_that_cannot_be_refreshed_are_on_the_page():
    metrics = metrics_of()
    hub_of(metrics)
    history = history_of(metrics)
    assert not history.state().keys_failing
    metrics.jwks_refresh("unreachable")
    assert history.state().keys_failing
