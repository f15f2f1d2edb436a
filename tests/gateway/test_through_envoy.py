"""The sidecar behind a real Envoy, configured from what the chart renders."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import websockets
from cryptography import x509

from tests.gateway.conftest import HOST, Network, offer_and_answer
from tests.gateway.gateway_envoy import Routing, client_tls, routing, run_envoy, server_tls
from tests.gateway.pki import Authority, spiffe
from tests.harness import guid, http, until
from tests.helm.rendering import case_named, merged, render

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL = case_named("standalone").values
GATEWAY_API = {"kind": "HTTPRoute", "hosts": [HOST], "parentRefs": [{"name": "public"}]}
ISTIO = {"kind": "VirtualService", "hosts": [HOST], "gateways": ["istio-system/public"]}
AFFINITY = {**ISTIO, "roomAffinity": True, "gatewaySelector": {"labels": {"istio": "ingressgateway"}}}
ONLY_THE_GATEWAY = "127.0.0.1/32"
BALANCER = ("127.0.0.2", 0)  # not 127.0.0.1: Envoy writes its own address for that one


def chart_routing(route: dict[str, Any]) -> Routing:
    return routing(render(merged(MINIMAL, {"route": route})))


@pytest.mark.parametrize("rewrite", ["", "/api"], ids=["kept", "rewritten"])
@pytest.mark.parametrize("route", [GATEWAY_API, ISTIO], ids=["HTTPRoute", "VirtualService"])
async def test_a_call_is_set_up_over_tls_with_the_prefix(
    route: dict[str, Any], rewrite: str, network: Network, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue(HOST, x509.DNSName(HOST))
    trust = ssl.create_default_context(cafile=str(authority.file))
    room = guid()
    one_prefix = (
        rewrite or "/sphere"
    )  # the sidecar serves no other, so a request that kept its prefix is a 404
    async with (
        network.sidecar(mount_prefixes=one_prefix) as sidecar,
        run_envoy(
            tmp_path / "envoy",
            routing=chart_routing({**route, "rewritePrefix": rewrite}),
            hosts=[HOST],
            endpoints=[sidecar.port],
            tls=server_tls(pair),
        ) as envoy,
    ):
        caller = await network.call(envoy.port, room, network.member(room), tls=trust)
        callee = await network.call(envoy.port, room, network.member(room), tls=trust)
        await offer_and_answer(caller, callee)
        with pytest.raises(websockets.InvalidStatus) as refused:
            await network.call(envoy.port, room, guid(), tls=trust)
        assert refused.value.response.status_code == 403
        assert b"NOT_A_MEMBER" in refused.value.response.body


async def test_a_route_for_upgrades_only_leaves_plain_requests_to_others(
    network: Network, tmp_path: Path
) -> None:
    room = guid()
    for number, route in enumerate((GATEWAY_API, ISTIO)):
        async with (
            network.sidecar() as sidecar,
            run_envoy(
                tmp_path / f"envoy-{number}",
                routing=chart_routing({**route, "upgradesOnly": True}),
                hosts=[HOST],
                endpoints=[sidecar.port],
            ) as envoy,
        ):
            await network.call(envoy.port, room, network.member(room))
            plain = await http(
                f"http://127.0.0.1:{envoy.port}/sphere/chat/realtime/{room}", headers={"Host": HOST}
            )
            assert (plain.status, plain.body) == (404, b"")  # Envoy's own


async def test_the_client_address_is_the_last_one_no_trusted_hop_wrote(
    network: Network, tmp_path: Path
) -> None:
    room = guid()
    async with (
        network.sidecar(trusted_proxies=ONLY_THE_GATEWAY) as sidecar,
        run_envoy(
            tmp_path / "envoy", routing=chart_routing(ISTIO), hosts=[HOST], endpoints=[sidecar.port]
        ) as envoy,
    ):
        for spoofed in (
            {},
            {"X-Forwarded-For": "203.0.113.9"},
            {"X-Forwarded-For": "203.0.113.9, 127.0.0.1"},
        ):
            client = await network.call(
                envoy.port, room, network.member(room), headers=spoofed, local_addr=("127.0.0.2", 0)
            )
            await client.close()
            await sidecar.logged("connection ended", address="127.0.0.2", account=client.welcome["userId"])


async def test_a_load_balancer_before_the_gateway_is_passed_over(network: Network, tmp_path: Path) -> None:
    room = guid()
    async with (
        network.sidecar(trusted_proxies="127.0.0.0/8") as sidecar,
        run_envoy(
            tmp_path / "envoy", routing=chart_routing(ISTIO), hosts=[HOST], endpoints=[sidecar.port]
        ) as envoy,
    ):
        client = await network.call(
            envoy.port,
            room,
            network.member(room),
            headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.7"},
            local_addr=BALANCER,
        )
        await client.close()
        await sidecar.logged("connection ended", address="198.51.100.7")


async def test_limits_per_address_hold_whatever_is_spoofed(network: Network, tmp_path: Path) -> None:
    room = guid()
    async with (
        network.sidecar(
            trusted_proxies=ONLY_THE_GATEWAY, address_handshake_rate=0.001, address_handshake_burst=2
        ) as sidecar,
        run_envoy(
            tmp_path / "envoy", routing=chart_routing(ISTIO), hosts=[HOST], endpoints=[sidecar.port]
        ) as envoy,
    ):

        async def join(last_byte: int, spoofed: str) -> None:
            await network.call(
                envoy.port,
                room,
                network.member(room),
                headers={"X-Forwarded-For": spoofed},
                local_addr=(f"127.0.0.{last_byte}", 0),
            )

        await join(2, "203.0.113.1")
        await join(2, "203.0.113.2")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await join(2, "203.0.113.3")
        assert refused.value.response.status_code == 429
        await join(3, "203.0.113.1")


async def test_identities_of_a_mesh_carry_a_call_and_others_are_kept_out(
    network: Network, tmp_path: Path
) -> None:
    authority, stranger = Authority(tmp_path, "mesh"), Authority(tmp_path, "stranger")
    gateway_id, sidecar_id = "ns/edge/sa/gateway", "ns/dyson/sa/sidecar"
    gateway_pair = authority.issue("gateway", spiffe(gateway_id))
    others = [
        authority.issue("other", spiffe("ns/edge/sa/other")),
        stranger.issue("fake", spiffe(gateway_id)),
    ]
    plain = Routing(({"match": {"prefix": "/"}, "route": {"cluster": "sidecar", "timeout": "0s"}},), {})
    # The sidecar's proxy is transparent: it keeps the path and adds no hop, as Istio's inbound listener does.
    transparent = {"use_remote_address": False}
    room = guid()
    [proxies] = [
        one["data"]["SIDECAR_TRUSTED_PROXIES"]
        for one in render(merged(MINIMAL, {"mesh": {"kind": "istio"}}))
        if one["kind"] == "ConfigMap"
    ]
    async with (
        network.sidecar(trusted_proxies=proxies) as sidecar,
        run_envoy(
            tmp_path / "inner",
            routing=plain,
            hosts=["*"],
            endpoints=[sidecar.port],
            tls=server_tls(
                authority.issue("sidecar", spiffe(sidecar_id)),
                clients=authority,
                identity=f"spiffe://cluster.local/{gateway_id}",
            ),
            manager=transparent,
        ) as inner,
    ):
        expected = f"spiffe://cluster.local/{sidecar_id}"

        async def through(number: int, pair: Any) -> Any:
            async with run_envoy(
                tmp_path / f"outer-{number}",
                routing=chart_routing(ISTIO),
                hosts=[HOST],
                endpoints=[inner.port],
                upstream_tls=client_tls(pair, servers=authority, identity=expected),
            ) as outer:
                caller = await network.call(
                    outer.port,
                    room,
                    network.member(room),
                    headers={"X-Forwarded-For": "203.0.113.5"},
                    local_addr=BALANCER,
                )
                callee = await network.call(outer.port, room, network.member(room))
                await offer_and_answer(caller, callee)
                await caller.close()

        await through(0, gateway_pair)
        await sidecar.logged("connection ended", address="203.0.113.5")
        for number, pair in enumerate(others, start=1):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await through(number, pair)
            assert refused.value.response.status_code == 503


@pytest.mark.parametrize("heartbeat", [0.2, 0], ids=["with heartbeats", "without"])
async def test_heartbeats_outlast_a_gateways_idle_timeout(
    heartbeat: float, network: Network, tmp_path: Path
) -> None:
    room, idle_seconds = guid(), 2
    async with (
        network.sidecar(heartbeat_seconds=heartbeat) as sidecar,
        run_envoy(
            tmp_path / "envoy",
            routing=chart_routing(GATEWAY_API),
            hosts=[HOST],
            endpoints=[sidecar.port],
            manager={"stream_idle_timeout": f"{idle_seconds}s"},
        ) as envoy,
    ):
        client = await network.call(envoy.port, room, network.member(room), ping_interval=None)
        if not heartbeat:
            code, _ = await client.closed()
            assert code == 1006  # cut by the gateway
            return
        beats = 1.5 * idle_seconds / heartbeat

        async def enough() -> bool:
            return (await sidecar.metrics())["sphere_sidecar_heartbeat_rtt_seconds_count"] >= beats

        await until(enough, "heartbeats for longer than the idle timeout")
        await client.nothing_more()


async def test_calls_run_on_while_the_gateway_takes_new_routes(network: Network, tmp_path: Path) -> None:
    room = guid()
    async with (
        network.sidecar() as sidecar,
        run_envoy(
            tmp_path / "envoy", routing=chart_routing(ISTIO), hosts=[HOST], endpoints=[sidecar.port]
        ) as envoy,
    ):
        caller = await network.call(envoy.port, room, network.member(room))
        callee = await network.call(envoy.port, room, network.member(room))
        moved = chart_routing({**ISTIO, "prefix": "/calls", "rewritePrefix": "/api"})
        await envoy.replace_routes(moved.routes, [HOST])
        await offer_and_answer(caller, callee)
        late = await network.call(envoy.port, room, network.member(room), prefix="/calls")
        await offer_and_answer(late, caller)
        with pytest.raises(websockets.InvalidStatus):
            await network.call(envoy.port, room, network.member(room), prefix="/sphere")


async def test_everyone_of_a_room_lands_on_one_sidecar_whatever_the_token(
    network: Network, tmp_path: Path
) -> None:
    rooms = [guid() for _ in range(20)]
    async with (
        network.sidecar() as one,
        network.sidecar() as other,
        run_envoy(
            tmp_path / "envoy",
            routing=chart_routing(AFFINITY),
            hosts=[HOST],
            endpoints=[one.port, other.port],
        ) as envoy,
    ):
        for room in rooms:
            first = await network.call(envoy.port, room, network.member(room), query=True)
            second = await network.call(envoy.port, room, network.member(room), query=True)
            assert len(second.welcome["participants"]) == 1, "the room is split"
            await offer_and_answer(second, first)
        here, there = [(await sidecar.metrics())["sphere_sidecar_rooms"] for sidecar in (one, other)]
        assert here + there == len(rooms)
        assert here > 0, "every room on one side hashes nothing"
        assert there > 0, "every room on one side hashes nothing"


async def test_without_the_filter_the_token_in_the_query_would_split_rooms(
    network: Network, tmp_path: Path
) -> None:
    """What the EnvoyFilter is for: the same hash over the whole path."""
    whole_path = chart_routing(AFFINITY)
    del whole_path.routes[0]["route"]["hash_policy"][-1]["header"]["regex_rewrite"]
    room = guid()
    async with (
        network.sidecar() as one,
        network.sidecar() as other,
        run_envoy(
            tmp_path / "envoy", routing=whole_path, hosts=[HOST], endpoints=[one.port, other.port]
        ) as envoy,
    ):
        joining = [network.call(envoy.port, room, network.member(room), query=True) for _ in range(24)]
        await asyncio.gather(*joining)
        connections = [(await sidecar.metrics())["sphere_sidecar_connections"] for sidecar in (one, other)]
        assert min(connections) > 0
