"""The access log formats that docs/deploy.md gives keep tokens out of gateways' logs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.gateway.conftest import HOST, Network
from tests.gateway.gateway_envoy import TYPES, Routing, run_envoy
from tests.gateway.gateway_nginx import run_nginx
from tests.gateway.test_through_nginx import ingress
from tests.harness import ROOT, guid, until

DOCS = (ROOT / "docs" / "deploy.md").read_text()
EVERYTHING = Routing(({"match": {"prefix": "/"}, "route": {"cluster": "sidecar", "timeout": "0s"}},), {})


async def logged_call(network: Network, port: int, log: Path) -> tuple[str, str]:
    """The line a call with a token in its query leaves in `log`, and the room."""
    room = guid()
    client = await network.call(port, room, network.member(room), query=True)
    await client.close()

    def written() -> str:
        text = log.read_text() if log.exists() else ""
        return text if room in text else ""

    return await until(written, "a line in the access log"), room


async def test_envoys_format_keeps_the_path_and_drops_the_token(network: Network, tmp_path: Path) -> None:
    [line] = re.findall(r"^\[?%START_TIME%.*$", DOCS, re.MULTILINE)
    log = tmp_path / "access.log"
    writer: dict[str, Any] = {
        "@type": f"{TYPES}extensions.access_loggers.file.v3.FileAccessLog",
        "path": str(log),
        "log_format": {"text_format_source": {"inline_string": line + "\n"}},
    }
    async with (
        network.sidecar() as sidecar,
        run_envoy(
            tmp_path / "envoy",
            routing=EVERYTHING,
            hosts=[HOST],
            endpoints=[sidecar.port],
            manager={"access_log": [{"name": "file", "typed_config": writer}]},
        ) as envoy,
    ):
        written, room = await logged_call(network, envoy.port, log)
        assert f"/sphere/chat/realtime/{room} 101" in written
        assert "tk=" not in written


async def test_nginxs_format_keeps_the_path_and_drops_the_token(network: Network, tmp_path: Path) -> None:
    [statement] = re.findall(r"^log_format .*;$", DOCS, re.MULTILINE)
    log = tmp_path / "access.log"
    name = statement.split()[1]
    async with (
        network.sidecar() as sidecar,
        run_nginx(
            tmp_path / "nginx",
            ingress=ingress(),
            endpoints=[sidecar.port],
            logging=f"{statement}\naccess_log {log} {name};",
        ) as nginx,
    ):
        written, room = await logged_call(network, nginx.port, log)
        assert f"/sphere/chat/realtime/{room} 101" in written
        assert "tk=" not in written
