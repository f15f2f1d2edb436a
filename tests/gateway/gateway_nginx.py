"""nginx, configured from the Ingress the chart renders as ingress-nginx would translate it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.gateway.gateway_process import GatewayProcess, run_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PREFIX = "nginx.ingress.kubernetes.io/"


@dataclass
class Nginx:
    process: GatewayProcess
    port: int
    directory: Path

    def workers(self) -> set[int]:
        parent = (self.directory / "nginx.pid").read_text().strip()
        children = f"/proc/{parent}/task/{parent}/children"
        with open(children) as file:  # noqa: PTH123 - of the kernel
            return {int(pid) for pid in file.read().split()}

    async def reload(self) -> None:
        """As ingress-nginx does for every change: new workers, the old ones stay until their connections end."""
        before = self.workers()
        self.process.send(signal.SIGHUP)
        await self.process.until_it_runs(lambda: self.workers() - before)


def _server(ingress: dict[str, Any], port: int, endpoints: list[int]) -> str:
    annotations = ingress["metadata"]["annotations"]
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    hashed = annotations.get(f"{PREFIX}upstream-hash-by")
    target = annotations.get(f"{PREFIX}rewrite-target")
    assert annotations[f"{PREFIX}use-regex"] == "true"
    return f"""
upstream sidecar {{
  {f"hash {hashed} consistent;" if hashed else ""}
  {" ".join(f"server 127.0.0.1:{endpoint};" for endpoint in endpoints)}
}}
server {{
  listen 127.0.0.1:{port};
  server_name {rule["host"]};
  location ~* "^{path["path"]}" {{
    {f'rewrite "(?i){path["path"]}" {target} break;' if target else ""}
    proxy_pass http://sidecar;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_read_timeout {annotations[f"{PREFIX}proxy-read-timeout"]}s;
    proxy_send_timeout {annotations[f"{PREFIX}proxy-send-timeout"]}s;
    proxy_next_upstream {annotations[f"{PREFIX}proxy-next-upstream"]};
  }}
}}
"""


@contextlib.asynccontextmanager
async def run_nginx(
    directory: Path, *, ingress: dict[str, Any], endpoints: list[int], logging: str = "access_log off;"
) -> AsyncIterator[Nginx]:
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert binary, "nginx is not installed: apt-get install nginx-light"
    directory.mkdir(parents=True)  # noqa: ASYNC240 - one system call
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = "\n".join(
        f"{kind}_temp_path {directory / kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"""
daemon off;
worker_processes 1;
{"user root;" if os.geteuid() == 0 else ""}
pid {directory / "nginx.pid"};
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
{logging}
{temporary}
map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
{_server(ingress, port, endpoints)}
}}
"""
    )
    command = (binary, "-c", str(configuration), "-e", "stderr")
    async with run_gateway(*command, log=directory / "nginx.log") as process:
        nginx = Nginx(process, port, directory)
        await process.until_it_runs(lambda: _accepts(port) and (directory / "nginx.pid").exists())
        yield nginx


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
