"""Gateway and sidecar in one pod, stopped with the hooks the chart renders, in the order a kubelet keeps."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import websockets

from tests.gateway.conftest import Network, offer_and_answer
from tests.gateway.gateway_envoy import Routing, run_envoy
from tests.harness import ROOT, Client, Sidecar, guid
from tests.helm.rendering import gateway_with_the_chart, render, the

if TYPE_CHECKING:
    from pathlib import Path

DRAIN_SECONDS = 1
EVERYTHING = Routing(({"match": {"prefix": "/"}, "route": {"cluster": "sidecar", "timeout": "0s"}},), {})


def pod(*, native: bool) -> dict[str, Any]:
    values = {
        "sidecar": {"native": native},
        "settings": {"drain_seconds": DRAIN_SECONDS},
        "preStopDelaySeconds": 0,
    }
    rendered = render({"sphere-sidecar": values}, gateway_with_the_chart())
    return the("Deployment", rendered)["spec"]["template"]["spec"]


async def sidecar_hook(spec: dict[str, Any], sidecar: Sidecar) -> None:
    """The container's preStop command, with this Python and this tree for the image's."""
    [container] = [
        one for one in spec.get("initContainers", []) + spec["containers"] if one["name"] == "sphere-sidecar"
    ]
    program, script, *arguments = container["lifecycle"]["preStop"]["exec"]["command"]
    assert (program, script) == ("python", "/app/image/ops.py")
    hook = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "image" / "ops.py"),
        *arguments,
        env=os.environ
        | {"SIDECAR_OPS_PORT": str(sidecar.ops_port), "SIDECAR_DRAIN_SECONDS": str(DRAIN_SECONDS)},
    )
    assert await hook.wait() == 0


async def goodbye(client: Client) -> tuple[dict[str, Any], int]:
    """The last packet, and the close code."""
    last: dict[str, Any] = {}
    try:
        while True:
            last = json.loads(await client.ws.recv())
    except websockets.ConnectionClosed:
        return last, client.ws.close_code


@pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])
async def test_calls_are_told_to_come_back_before_the_gateway_goes(
    native: bool, network: Network, tmp_path: Path
) -> None:
    spec = pod(native=native)
    [gateway] = [one for one in spec["containers"] if one["name"] == "gateway"]
    held_seconds = gateway["lifecycle"]["preStop"]["sleep"]["seconds"]
    room = guid()
    async with (
        network.sidecar(drain_seconds=DRAIN_SECONDS) as sidecar,
        run_envoy(tmp_path / "envoy", routing=EVERYTHING, hosts=["*"], endpoints=[sidecar.port]) as envoy,
    ):
        clients = [await network.call(envoy.port, room, network.member(room)) for _ in range(8)]
        await offer_and_answer(clients[0], clients[1])

        async def stop_gateway() -> None:
            await asyncio.sleep(held_seconds)  # its hook
            await envoy.process.terminated()

        async def stop_sidecar(gateway_gone: asyncio.Task[None]) -> None:
            await sidecar_hook(spec, sidecar)
            if native:
                await gateway_gone  # a native sidecar gets SIGTERM after the main containers
            sidecar.terminate()

        async with asyncio.timeout(spec["terminationGracePeriodSeconds"]), asyncio.TaskGroup() as stopping:
            gone = stopping.create_task(stop_gateway())
            stopping.create_task(stop_sidecar(gone))
            told = await asyncio.gather(*(goodbye(client) for client in clients))
        assert [code for _, code in told] == [1012] * len(clients)
        assert all(packet["data"]["reconnectAfterMs"] >= 0 for packet, _ in told)
        assert await sidecar.exit_status() == 0
