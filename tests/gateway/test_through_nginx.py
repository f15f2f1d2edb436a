"""The sidecar behind a real nginx, configured from the Ingress the chart renders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import websockets
from conftest import HOST, World, offer_and_answer
from gateway_nginx import run_nginx
from harness import guid
from rendering import CASES, merged, render, the

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL = next(case for case in CASES if case.name == "standalone").values


def ingress(**route: Any) -> dict[str, Any]:
    return the("Ingress", render(merged(MINIMAL, {"route": {"kind": "Ingress", "hosts": [HOST], **route}})))


@pytest.mark.parametrize("rewrite", ["", "/api"], ids=["kept", "rewritten"])
async def test_a_call_is_set_up_with_the_prefix(rewrite: str, world: World, tmp_path: Path) -> None:
    room = guid()
    async with (
        world.sidecar(mount_prefixes=rewrite or "/sphere", trusted_proxies="127.0.0.1/32") as sidecar,
        run_nginx(
            tmp_path / "nginx", ingress=ingress(rewritePrefix=rewrite), endpoints=[sidecar.port]
        ) as nginx,
    ):
        spoofed = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.10"}
        caller = await world.call(
            nginx.port, room, world.member(room), headers=spoofed, local_addr=("127.0.0.2", 0)
        )
        callee = await world.call(nginx.port, room, world.member(room), query=True)
        await offer_and_answer(caller, callee)
        await caller.close()
        await sidecar.logged("connection ended", address="127.0.0.2")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await world.call(nginx.port, room, guid())
        assert refused.value.response.status_code == 403


async def test_calls_run_on_while_nginx_reloads(world: World, tmp_path: Path) -> None:
    room = guid()
    async with (
        world.sidecar() as sidecar,
        run_nginx(tmp_path / "nginx", ingress=ingress(), endpoints=[sidecar.port]) as nginx,
    ):
        caller = await world.call(nginx.port, room, world.member(room))
        callee = await world.call(nginx.port, room, world.member(room))
        await nginx.reload()
        await offer_and_answer(caller, callee)
        late = await world.call(nginx.port, room, world.member(room))
        await offer_and_answer(late, caller)


async def test_everyone_of_a_room_lands_on_one_sidecar_whatever_the_token(
    world: World, tmp_path: Path
) -> None:
    rooms = [guid() for _ in range(12)]
    async with (
        world.sidecar() as one,
        world.sidecar() as other,
        run_nginx(
            tmp_path / "nginx", ingress=ingress(roomAffinity=True), endpoints=[one.port, other.port]
        ) as nginx,
    ):
        for room in rooms:
            await world.call(nginx.port, room, world.member(room), query=True)
            second = await world.call(nginx.port, room, world.member(room), query=True)
            assert len(second.welcome["participants"]) == 1, "the room is split"
        held = [(await sidecar.metrics())["sphere_sidecar_rooms"] for sidecar in (one, other)]
        assert sum(held) == len(rooms)
        assert min(held) > 0, "every room on one side hashes nothing"
