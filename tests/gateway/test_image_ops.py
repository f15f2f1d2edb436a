"""What the container asks its own ops listener."""

from __future__ import annotations

import asyncio
import os
import sys

from tests.gateway.conftest import Network
from tests.harness import ROOT, guid, until


async def ops(*arguments: str, port: int) -> tuple[int, str]:
    """`image/ops.py` as the image runs it; its exit status and complaint."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "image" / "ops.py"),
        *arguments,
        env=os.environ | {"SIDECAR_OPS_PORT": str(port), "SIDECAR_DRAIN_SECONDS": "0"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    return process.returncode or 0, complaint.decode()


async def test_the_health_check_passes_while_the_sidecar_lives_and_fails_after(network: Network) -> None:
    async with network.sidecar() as sidecar:
        assert await ops("health", port=sidecar.ops_port) == (0, "")
        sidecar.terminate()
        await sidecar.exit_status()
        status, complaint = await ops("health", port=sidecar.ops_port)
        assert status == 1
        assert complaint.startswith("health: ")


async def test_the_hook_drains_a_sidecar_that_then_still_serves_its_probes(network: Network) -> None:
    async with network.sidecar(drain_seconds=0) as sidecar:
        assert await ops("drain", "0", port=sidecar.ops_port) == (0, "")

        async def unready() -> bool:
            return (await sidecar.ops("/readyz")).status == 503

        await until(unready, "not ready")
        assert await ops("health", port=sidecar.ops_port) == (0, "")
        assert sidecar.process.returncode is None


async def test_the_log_level_is_changed_without_curl(network: Network) -> None:
    async with network.sidecar() as sidecar:
        assert await ops("log-level", "warning", port=sidecar.ops_port) == (0, "")
        unsaid, said = guid(), guid()
        await sidecar.probe(unsaid)
        assert await ops("log-level", "info", port=sidecar.ops_port) == (0, "")
        await sidecar.probe(said)
        await sidecar.logged("handshake refused", room=said)
        assert unsaid not in "".join(sidecar.raw_log)
        status, complaint = await ops("log-level", "loud", port=sidecar.ops_port)
        assert status == 1
        assert complaint.startswith("log-level: HTTP Error 400")
