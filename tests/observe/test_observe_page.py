"""The metrics page: every series as docs/metrics.md has it, in both formats, and to promtool's liking."""

from __future__ import annotations

import asyncio
import gzip
import re
from dataclasses import dataclass

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.observe.certificates import Life
from sidecar.observe.refusals import Refusals, RefusedHandshake
from tests.chat_service import ChatServiceDouble
from tests.harness import ROOT, Answer, auth_settings, guid, run_sidecar
from tests.observe.prometheus import promtool
from tests.observe.rooms import Clock, hub_of, join, metrics_of, samples

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
TEXT = "text/plain;version=0.0.4"
COMPRESSED = {"gzip": True, "deflate, GZIP;q=0.5": True, "gzip;q=0": False, "br": False, "": False}
NAMESPACE = "sphere_sidecar_"
WITHOUT_SAMPLES = {
    "certificate_start_timestamp_seconds": ["certificate"],
    "certificate_expiry_timestamp_seconds": ["certificate"],
}
"""The labels of what this sidecar has none of."""


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of docs/metrics.md, without the table's head."""
    section = (ROOT / "docs" / "metrics.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def families(answer: Answer):
    page = answer.body.decode()
    parse = parse_openmetrics if page.endswith("# EOF\n") else parse_text
    return {family.name: family for family in parse(page)}


@dataclass
class Pages:
    """What one sidecar answered: before anything happened, and with someone in a room."""

    fresh: Answer
    text: Answer
    openmetrics: Answer
    by_encoding: dict[str, Answer]


@pytest.fixture(scope="module")
def pages(issuer) -> Pages:
    return asyncio.run(look(issuer))


async def look(issuer) -> Pages:
    room, account = guid(), guid()
    async with ChatServiceDouble() as chat:
        chat.allow(room, account)
        async with run_sidecar(**auth_settings(issuer), membership_target=chat.target) as sidecar:
            fresh = await sidecar.ops("/metrics")
            await sidecar.connect(room, issuer.token(account))
            return Pages(
                fresh=fresh,
                text=await sidecar.ops("/metrics", headers={"Accept": TEXT}),
                openmetrics=await sidecar.ops("/metrics", headers={"Accept": OPENMETRICS}),
                by_encoding={
                    accepted: await sidecar.ops("/metrics", headers={"Accept-Encoding": accepted})
                    for accepted in COMPRESSED
                },
            )


def test_the_documentation_has_every_series_with_its_type_labels_and_help(pages):
    documented = {
        words(name)[0].removesuffix("_total"): (kind, sorted(words(labels)), text)
        for name, kind, labels, text in rows_under("Series")
    }
    found = {}
    for name, family in families(pages.text).items():
        if name.startswith(NAMESPACE):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            labels = sorted(labels) if family.samples else WITHOUT_SAMPLES[name.removeprefix(NAMESPACE)]
            found[name] = (family.type, labels, family.documentation)
    assert found == documented


def test_counters_end_in_total_and_nothing_else_does():
    documented = {words(name)[0]: kind for name, kind, _, _ in rows_under("Series")}
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in documented.items())


def test_the_documentation_has_every_value_of_the_closed_labels(pages):
    page = families(pages.text)
    for series, label, values in rows_under("Values of the labels"):
        name = words(series)[0].removesuffix("_total")
        found = {sample.labels[words(label)[0]] for sample in page[name].samples}
        assert found == set(words(values)) - {"code"}, name


def test_every_series_stands_at_zero_from_the_start(pages):
    not_zero = {"build_info", "connections_limit", "jwks_refreshes"}
    for name, family in families(pages.fresh).items():
        if not name.startswith(NAMESPACE) or name.startswith(NAMESPACE + "room_"):
            continue
        if name.removeprefix(NAMESPACE) in not_zero or "membership_request" in name:
            continue  # the keys were looked at, and changes of memberships were asked for
        assert all(sample.value == 0 for sample in family.samples), name
        assert family.samples or name.removeprefix(NAMESPACE) in WITHOUT_SAMPLES, name


def test_both_formats_say_the_same(pages):
    text, openmetrics = families(pages.text), families(pages.openmetrics)
    assert text.keys() == openmetrics.keys()
    for name, family in text.items():
        if name.startswith(NAMESPACE):
            assert [s[:3] for s in family.samples] == [s[:3] for s in openmetrics[name].samples]
            assert family.type == openmetrics[name].type


def test_the_format_is_the_one_asked_for(pages):
    openmetrics = pages.openmetrics
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.body.endswith(b"\n# EOF\n")
    assert openmetrics.body.count(b"# EOF") == 1
    assert pages.fresh.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in pages.fresh.body


@pytest.mark.parametrize("accepted", COMPRESSED)
def test_the_page_is_compressed_for_those_who_take_it(pages, accepted):
    answer = pages.by_encoding[accepted]
    compressed = answer.headers.get("content-encoding") == "gzip"
    assert compressed is COMPRESSED[accepted]
    body = gzip.decompress(answer.body) if compressed else answer.body
    assert b"\nsphere_sidecar_connections 1" in body


@pytest.mark.parametrize("page", ["fresh", "text"])
def test_promtool_has_nothing_to_say(pages, page):
    checked = promtool("check", "metrics", stdin=getattr(pages, page).body)
    assert (checked.returncode, checked.stdout) == (0, "")


async def test_a_certificate_in_use_has_its_life_on_the_page():
    metrics = metrics_of()
    hub_of(metrics)
    metrics.certificates({"membership_ca": Life(1e9, 2e9)})
    metrics.certificates({"membership_ca": Life(1.5e9, 3e9), "membership_client": Life(1e9, 4e9)})
    found = await samples(metrics)
    assert found['certificate_start_timestamp_seconds{certificate="membership_ca"}'] == 1.5e9
    assert found['certificate_expiry_timestamp_seconds{certificate="membership_ca"}'] == 3e9
    assert found['certificate_expiry_timestamp_seconds{certificate="membership_client"}'] == 4e9


async def test_what_crosses_the_bus_is_counted_and_whether_it_can():
    metrics = metrics_of()
    metrics.expect(methods=(), codes=(), cache=(), refreshes=(), bus_drops=("full", "unreadable"))
    hub_of(metrics, bus_connected=True)
    metrics.bus.published()
    metrics.bus.received()
    metrics.bus.received()
    metrics.bus.dropped("full")
    metrics.bus.gap()
    found = await samples(metrics)
    assert (found["bus_configured"], found["bus_connected"]) == (1, 1)
    assert (found["bus_published_total"], found["bus_received_total"], found["bus_gaps_total"]) == (1, 2, 1)
    assert found['bus_dropped_total{reason="full"}'] == 1
    assert found['bus_dropped_total{reason="unreadable"}'] == 0


async def test_key_refreshes_fail_until_one_succeeds():
    metrics = metrics_of()
    hub_of(metrics)
    for result, failing in (("unreachable", 1), ("unusable", 1), ("unchanged", 0), ("changed", 0)):
        metrics.jwks_refresh(result)
        assert (await samples(metrics))["jwks_failing"] == failing


async def test_a_token_from_the_future_counts_below_zero_and_takes_nothing_from_the_sum():
    metrics = metrics_of()
    hub_of(metrics)
    for skew in (-30.0, 2.0, 40.0):
        metrics.token_skew(skew)
    found = await samples(metrics)
    assert found['token_clock_skew_seconds_bucket{le="0.0"}'] == 1
    assert found["token_clock_skew_seconds_count"] == 3
    assert found["token_clock_skew_seconds_sum"] == 42.0


async def test_a_close_code_of_the_clients_own_making_counts_as_other():
    metrics = metrics_of()
    hub_of(metrics)
    for code in (1000, 3999, 4999):
        metrics.disconnected(code, 1.0)
    found = await samples(metrics)
    assert found['disconnects_total{code="1000"}'] == 1
    assert found['disconnects_total{code="other"}'] == 2


def refused(address: str) -> RefusedHandshake:
    return RefusedHandshake(
        at=0.0, status=401, code="UNAUTHORIZED", reason="", room_id=None, trace_id="", address=address
    )


def test_the_share_of_one_address_in_the_refusals_is_known_among_any_number_of_others():
    refusals = Refusals(clock=Clock())
    assert refusals.top_address_ratio() == 0
    for number in range(10_000):
        refusals.note(refused(f"10.0.{number // 256}.{number % 256}"))
        refusals.note(refused("192.0.2.1"))
    assert 0.48 <= refusals.top_address_ratio() <= 0.5


def test_refusals_of_more_than_ten_minutes_ago_count_no_more():
    clock = Clock()
    refusals = Refusals(clock=clock)
    refusals.note(refused("192.0.2.1"))
    assert refusals.top_address_ratio() == 1
    clock.now += 299
    refusals.note(refused("192.0.2.2"))
    assert refusals.top_address_ratio() == 0.5
    clock.now += 600
    assert refusals.top_address_ratio() == 0
    assert len(list(refusals.recent())) == 2


async def test_pages_asked_for_at_once_are_whole():
    metrics = metrics_of()
    hub = hub_of(metrics)
    for _ in range(300):
        join(hub, guid())
    first, second = metrics.page(TEXT), metrics.page(OPENMETRICS)
    for page, _ in [await first, await second]:
        assert page.count(b"room_connections{") == 300
