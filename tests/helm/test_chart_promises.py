"""What the chart promises of a pod, whatever the values."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.helm.rendering import CASES, CHART, NAMESPACE, Case, case_named, merged, objects, render, the

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
MINIMAL = case_named("standalone").values
GATEWAY = case_named("gateway-native")


def pod(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    return the("Deployment", rendered)["spec"]["template"]["spec"]


def sidecar(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    spec = pod(rendered)
    [found] = [
        one for one in spec["containers"] + spec.get("initContainers", []) if one["name"] == "sphere-sidecar"
    ]
    return found


def gateway_hook_seconds(hook: dict[str, Any]) -> int:
    if "sleep" in hook:
        return hook["sleep"]["seconds"]
    return sum(int(seconds) for seconds in re.findall(r"sleep (\d+)", hook["exec"]["command"][-1]))


@every_case
def test_the_pod_is_given_the_time_its_drain_takes(case: Case) -> None:
    rendered = objects(case)
    drain = float(the("ConfigMap", rendered[:1])["data"]["SIDECAR_DRAIN_SECONDS"])
    grace = pod(rendered)["terminationGracePeriodSeconds"]
    delay = int(sidecar(rendered)["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert grace >= delay + drain + 10
    for one in pod(rendered)["containers"]:
        if one["name"] == "gateway":
            held = gateway_hook_seconds(one["lifecycle"]["preStop"])
            assert delay + drain < held < grace


@pytest.mark.parametrize(("drain", "grace"), [(0, 15), (20, 35), (120, 135), (0.5, 16)])
def test_grace_follows_the_drain(drain: float, grace: int) -> None:
    rendered = render(merged(MINIMAL, {"settings": {"drain_seconds": drain}}))
    assert pod(rendered)["terminationGracePeriodSeconds"] == grace


@every_case
def test_a_mesh_proxy_outlives_the_drain(case: Case) -> None:
    template = the("Deployment", objects(case))["spec"]["template"]
    annotations, grace = (
        template["metadata"]["annotations"],
        template["spec"]["terminationGracePeriodSeconds"],
    )
    drain = float(objects(case)[0]["data"]["SIDECAR_DRAIN_SECONDS"])
    seconds = re.findall(
        r"terminationDrainDuration: (\d+)s|^(\d+)$",
        annotations.get("proxy.istio.io/config", "")
        or annotations.get("config.alpha.linkerd.io/proxy-wait-before-exit-seconds", ""),
    )
    for alternatives in seconds:
        assert drain + 5 < int("".join(alternatives)) <= grace


@every_case
def test_the_container_fits_the_restricted_standard(case: Case) -> None:
    rendered = objects(case)
    context = sidecar(rendered)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == 65532
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(rendered)["automountServiceAccountToken"] is False
    assert pod(rendered)["enableServiceLinks"] is False


@every_case
def test_probes_ask_the_ops_port_and_a_start_needs_no_network(case: Case) -> None:
    container = sidecar(objects(case))
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {probe["port"] for probe in asked.values()} == {"sidecar-metrics"}
    assert asked["startupProbe"]["path"] == asked["livenessProbe"]["path"] == "/livez"
    assert asked["readinessProbe"]["path"] == "/readyz"


def test_a_change_of_settings_restarts_the_pods_and_nothing_else_does() -> None:
    def checksum(over: dict[str, Any]) -> str:
        template = the("Deployment", render(merged(MINIMAL, over)))["spec"]["template"]
        return template["metadata"]["annotations"]["sphere-sidecar/settings"]

    assert checksum({"settings": {"log_level": "debug"}}) != checksum({})
    assert checksum({"service": {"port": 81}}) == checksum({})


def test_in_a_gateways_pod_only_loopback_reaches_the_signaling_port() -> None:
    data = the("ConfigMap", objects(GATEWAY))["data"]
    assert data["SIDECAR_HOST"] == "127.0.0.1"
    assert {data["SIDECAR_PORT"], data["SIDECAR_OPS_PORT"]}.isdisjoint({"80", "8080", "9090", "9464"})


def test_in_a_gateways_pod_nothing_of_a_deployment_of_its_own_is_rendered() -> None:
    kinds = [one["kind"] for one in objects(GATEWAY)]
    assert sorted(kinds) == ["ConfigMap", "Deployment", "PodMonitor"]


def test_a_native_container_starts_before_the_gateway_and_a_plain_one_beside_it() -> None:
    native = pod(objects(GATEWAY))
    assert [one["name"] for one in native["containers"]] == ["gateway"]
    assert [(one["name"], one["restartPolicy"]) for one in native["initContainers"]] == [
        ("sphere-sidecar", "Always")
    ]
    plain = pod(objects(case_named("gateway-plain")))
    assert [one["name"] for one in plain["containers"]] == ["gateway", "sphere-sidecar"]
    assert "initContainers" not in plain


@every_case
def test_port_names_are_unique_in_the_pod_and_found_by_the_monitor(case: Case) -> None:
    spec = pod(objects(case))
    names = [
        port["name"] for one in spec["containers"] + spec.get("initContainers", []) for port in one["ports"]
    ]
    assert len(names) == len(set(names))
    for monitor in (one for one in objects(case) if one["kind"] == "PodMonitor"):
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in names
        labels = the("Deployment", objects(case))["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_only_named_flows_pass_the_network_policy() -> None:
    policy = the("NetworkPolicy", objects(case_named("httproute")))["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    inward = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    assert set(inward) == {8080, 9464}
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [
        [53, 53],
        [5001],
        [443],
        [4222],
    ]
    assert all(rule["to"] for rule in policy["egress"])


@pytest.mark.parametrize(
    ("settings", "port"),
    [
        ({"membership_target": "dns:///chat"}, 443),
        ({"membership_target": "chat:5001"}, 5001),
        ({"membership_target": "dns:///[fd00::1]:7000"}, 7000),
        ({"bus_url": "nats://nats"}, 4222),
        ({"bus_url": "nats://a:4333,nats://b:4333"}, 4333),
        ({"jwt_jwks_url": "http://auth/jwks"}, 80),
        ({"jwt_jwks_url": "https://auth:8443/a:1/jwks"}, 8443),
    ],
    ids=str,
)
def test_egress_ports_follow_the_settings(settings: dict[str, Any], port: int) -> None:
    files = {} if "jwt_jwks_url" in settings else MINIMAL["files"]
    rendered = render(merged({**MINIMAL, "files": files}, {"settings": settings}))
    egress = the("NetworkPolicy", rendered)["spec"]["egress"]
    assert port in [port["port"] for rule in egress for port in rule["ports"]]


def test_memory_limits_stand_above_what_buffers_may_take() -> None:
    limit = yaml.safe_load((CHART / "values.yaml").read_text())["resources"]["limits"]["memory"]
    buffers = 268435456
    assert int(limit.removesuffix("Mi")) * 2**20 >= buffers + 128 * 2**20


def test_rules_and_dashboard_come_from_the_one_source() -> None:
    rendered = objects(case_named("istio"))
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    assert the("PrometheusRule", rendered)["spec"] == rules
    [dashboard] = [one for one in rendered if one["metadata"]["name"].endswith("-dashboard")]
    assert json.loads(dashboard["data"]["sphere-sidecar.json"]) == json.loads(
        (CHART / "files" / "dashboard.json").read_text()
    )


@every_case
def test_whatever_selects_pods_selects_these(case: Case) -> None:
    rendered = objects(case)
    labels = the("Deployment", rendered)["spec"]["template"]["metadata"]["labels"].items()
    for one in rendered:
        spec = one.get("spec", {})
        match one["kind"]:
            case "Service":
                assert spec["selector"].items() <= labels
            case "NetworkPolicy":
                assert spec["podSelector"]["matchLabels"].items() <= labels
            case "Deployment" | "PodDisruptionBudget":
                assert spec["selector"]["matchLabels"].items() <= labels
            case "HorizontalPodAutoscaler":
                assert spec["scaleTargetRef"]["name"] == the("Deployment", rendered)["metadata"]["name"]
            case _:
                pass


def test_a_service_monitor_finds_the_ops_service_alone() -> None:
    rendered = objects(case_named("istio"))
    selector = the("ServiceMonitor", rendered)["spec"]["selector"]["matchLabels"].items()
    found = [
        one for one in rendered if one["kind"] == "Service" and selector <= one["metadata"]["labels"].items()
    ]
    assert [[port["name"] for port in one["spec"]["ports"]] for one in found] == [["sidecar-metrics"]]


@pytest.mark.parametrize("name", ["httproute", "istio", "ingress"])
def test_a_route_leads_to_the_service(name: str) -> None:
    rendered = objects(case_named(name))
    [service] = [
        one
        for one in rendered
        if one["kind"] == "Service" and one["metadata"]["labels"].get("app.kubernetes.io/component") != "ops"
    ]
    [port] = service["spec"]["ports"]
    names = {one["kind"]: one["spec"] for one in rendered if "spec" in one}
    match name:
        case "httproute":
            [backend] = names["HTTPRoute"]["rules"][0]["backendRefs"]
            assert (backend["name"], backend["port"]) == (service["metadata"]["name"], port["port"])
        case "istio":
            [destination] = [one["destination"] for one in names["VirtualService"]["http"][0]["route"]]
            assert destination["host"] == names["DestinationRule"]["host"]
            assert destination["host"] == f"{service['metadata']['name']}.{NAMESPACE}.svc.cluster.local"
            assert destination["port"]["number"] == port["port"]
        case _:
            backend = names["Ingress"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
            assert (backend["name"], backend["port"]["name"]) == (service["metadata"]["name"], port["name"])
