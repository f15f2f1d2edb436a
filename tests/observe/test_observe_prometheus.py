"""A real Prometheus scrapes a real sidecar under a known load, with the rules and the dashboard as they are shipped."""

from __future__ import annotations

import contextlib
import json
import math
import time

import grpc
from websockets.exceptions import InvalidStatus

from observability import dashboard
from tests.authority import Authority
from tests.chat_service import ChatServiceDouble
from tests.harness import auth_settings, guid, run_sidecar, until
from tests.observe.load import Load
from tests.observe.prometheus import run_prometheus

VARIABLES = {
    "$job": ".*",
    "$instance": ".*",
    "$room": ".*",
    "$__rate_interval": "10s",
    "$__range": "1m",
}


async def in_rooms(prometheus, series: str) -> dict[str, float]:
    return {labels["room"]: value for labels, value in await prometheus.query(f"sum by (room) ({series})")}


async def test_what_prometheus_counts_is_what_the_clients_sent_and_received(start, chat, issuer):
    async with start(metrics_max_rooms=2) as sidecar:
        load = Load(sidecar, chat, issuer)
        await load.fill(2, 3, 4)
        async with run_prometheus({"sphere": [f"127.0.0.1:{sidecar.ops_port}"]}) as prometheus:
            await load.talk(rounds=3)
            await load.be_refused()
            first, second, third = load.counted
            here = {room: room for room in (first, second)} | {third: "other"}

            async def caught_up() -> bool:
                judged = await prometheus.value("sum(sphere_sidecar_handshakes_total)")
                signals = await prometheus.value("sum(sphere_sidecar_room_messages_received_total)")
                sent = sum(sum(counted.sent.values()) for counted in load.counted.values())
                return judged == 9 + load.refused.total() and signals == sent

            await until(caught_up, "the last scrape")
            by_type = {
                (labels["room"], labels["type"]): value
                for labels, value in await prometheus.query("sphere_sidecar_room_messages_received_total")
            }
            connections = await in_rooms(prometheus, "sphere_sidecar_room_connections")
            delivered = await in_rooms(prometheus, "sphere_sidecar_room_messages_delivered_total")
            bytes_in = await in_rooms(prometheus, "sphere_sidecar_room_bytes_received_total")
            bytes_out = await in_rooms(prometheus, "sphere_sidecar_room_bytes_delivered_total")
            for room, counted in load.counted.items():
                label = here[room]
                assert connections[label] == len(load.people[room])
                for kind, count in counted.sent.items():
                    assert by_type[label, kind] == count
                assert delivered[label] == counted.received
                assert bytes_in[label] == counted.sent_bytes
                assert bytes_out[label] == counted.received_bytes
            outcomes = {
                labels["outcome"]: value
                for labels, value in await prometheus.query("sphere_sidecar_handshakes_total > 0")
            }
            assert outcomes == load.refused | {"accepted": 9}
            assert await prometheus.value("sphere_sidecar_relay_duration_seconds_count") == 3 * 9 * 4
            assert await prometheus.value("sphere_sidecar_offer_answer_seconds_count > 0")
            await load.leave()
            ended = 'sphere_sidecar_disconnects_total{code="1000"} == 9'
            await until(lambda: prometheus.value(ended), "everybody's leave")


async def test_an_outage_of_the_chat_service_raises_alerts_and_recovery_resolves_them(start, chat, issuer):
    async with start(membership_recheck_seconds=1, membership_cache_seconds=0) as sidecar:
        load = Load(sidecar, chat, issuer)
        await load.fill(2)
        room = next(iter(load.people))
        async with run_prometheus({"sphere": [f"127.0.0.1:{sidecar.ops_port}"]}) as prometheus:
            await until(lambda: no_problems(prometheus), "all rules evaluated")
            await until(lambda: nothing_wrong(prometheus), "no alert")
            await chat.stop()
            token = issuer.token(guid())

            async def firing() -> bool:
                await load.try_to_enter(room, token, "membership_unavailable")
                alerts = await prometheus.alerts()
                # The one that waits for a minute is on its way; that it fires then is in rules.test.yaml.
                return (
                    alerts.get("SphereSidecarMembershipErrors") == "firing"
                    and alerts.get("SphereSidecarMembershipStale") == "pending"
                )

            await until(firing, "the alerts of an outage", seconds=30)
            await chat.start()

            async def resolved() -> bool:
                with contextlib.suppress(InvalidStatus):  # the first ones come while the breaker is open
                    await load.enter(room)
                return (
                    not {"SphereSidecarMembershipErrors", "SphereSidecarMembershipStale"}
                    & (await prometheus.alerts()).keys()
                )

            await until(resolved, "recovery", seconds=30)


async def nothing_wrong(prometheus) -> bool:
    return not await prometheus.alerts()


async def no_problems(prometheus) -> bool:
    return not await prometheus.rule_problems()


def test_the_dashboard_of_the_chart_is_the_one_its_source_makes():
    assert dashboard.FILE.read_text() == dashboard.as_json()
    panels = json.loads(dashboard.as_json())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)


def queries() -> dict[str, str]:
    """Every query of the dashboard, its variables filled in, by panel and number."""
    found = {}
    for panel in json.loads(dashboard.FILE.read_text())["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression, expression
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


async def test_every_query_of_the_dashboard_returns_data_and_every_rule_evaluates(issuer, tmp_path):
    authority = Authority(days=30)
    pair = authority.issue("chat")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    chat = ChatServiceDouble()
    await chat.start("127.0.0.1:0", credentials=grpc.ssl_server_credentials([(pair.key, pair.cert)]))
    settings = auth_settings(issuer) | {
        "membership_target": chat.target,
        "membership_tls_ca_file": tmp_path / "ca.pem",
        "heartbeat_seconds": 0.5,
    }
    try:
        async with run_sidecar(**settings) as sidecar:
            load = Load(sidecar, chat, issuer)
            await load.fill(3)
            async with run_prometheus({"sphere": [f"127.0.0.1:{sidecar.ops_port}"]}) as prometheus:
                pending = queries()

                async def all_answered() -> bool:
                    await load.talk()
                    await load.be_refused()
                    client = load.people[next(iter(load.people))].pop()
                    await client.close()
                    load.people[next(iter(load.people))].append(await load.enter(next(iter(load.people))))
                    now = time.time()
                    for name, expression in list(pending.items()):
                        series = await prometheus.query_range(expression, start=now - 5, end=now, step=1)
                        if any(not math.isnan(value) for _, points in series for _, value in points):
                            del pending[name]
                    return not pending

                try:
                    await until(all_answered, "data for every panel", seconds=40)
                except AssertionError:
                    raise AssertionError(f"no data for {sorted(pending)}") from None
                await until(lambda: no_problems(prometheus), "all rules evaluated")
    finally:
        await chat.stop()
