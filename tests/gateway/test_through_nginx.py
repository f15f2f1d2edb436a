"""The sidecar behind a real nginx, configured from the Ingress the chart renders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import websockets

from tests.gateway.conftest import HOST, Network, offer_and_answer
from tests.gateway.gateway_nginx import run_nginx
from tests.harness import guid
from tests.helm.rendering import case_named, merged, render, the

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL = case_named("standalone").values


def ingress(**route: Any) -> dict[str, Any]:
    return the("Ingress", render(merged(MINIMAL, {"route": {"kind": "Ingress", "hosts": [HOST], **route}})))


@pytest.mark.parametrize("rewrite", ["", "/api"], ids=["kept", "rewritten"])
async def test_a_call_is_set_up_with_the_prefix(rewrite: str, network: Network, tmp_path: Path) -> None:
    room = guid()
    async with (
        network.sidecar(mount_prefixes=rewrite or "/sphere", trusted_proxies="127.0.0.1/32") as sidecar,
        run_nginx(
            tmp_path / "nginx", ingress=ingress(rewritePrefix=rewrite), endpoints=[sidecar.port]
        ) as nginx,
    ):
        spoofed = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.10"}
        caller = await network.call(
            nginx.port, room, network.member(room), headers=spoofed, local_addr=("127.0.0.2", 0)
        )
        callee = await network.call(nginx.port, room, network.member(room), query=True)
        await offer_and_answer(caller, callee)
        await caller.close()
        await sidecar.logged("connection ended", address="127.0.0.2")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await network.call(nginx.port, room, guid())
        assert refused.value.response.status_code == 403


async def test_calls_run_on_while_nginx_reloads(network: Network, tmp_path: Path) -> None:
    room = guid()
    async with (
        network.sidecar() as sidecar,
        run_nginx(tmp_path / "nginx", ingress=ingress(), endpoints=[sidecar.port]) as nginx,
    ):
        caller = await network.call(nginx.port, room, network.member(room))
        callee = await network.call(nginx.port, room, network.member(room))
        await nginx.reload()
        await offer_and_answer(caller, callee)
        late = await network.call(nginx.port, room, network.member(room))
        await offer_and_answer(late, caller)


async def test_everyone_of_a_room_lands_on_one_sidecar_whatever_the_token(
    network: Network, tmp_path: Path
) -> None:
    rooms = [guid() for _ in range(20)]
    async with (
        network.sidecar() as one,
        network.sidecar() as other,
        run_nginx(
            tmp_path / "nginx", ingress=ingress(roomAffinity=True), endpoints=[one.port, other.port]
        ) as nginx,
    ):
        for room in rooms:
            await network.call(nginx.port, room, network.member(room), query=True)
            second = await network.call(nginx.port, room, network.member(room), query=True)
            assert len(second.welcome["participants"]) == 1, "the room is split"
        held = [(await sidecar.metrics())["sphere_sidecar_rooms"] for sidecar in (one, other)]
        assert sum(held) == len(rooms)
        assert min(held) > 0, "every room on one side hashes nothing"
