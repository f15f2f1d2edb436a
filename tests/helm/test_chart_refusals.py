"""Values that cannot work are refused before anything reaches a cluster, in words."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest

from tests.helm.rendering import CHART, case_named, merged, render

MINIMAL = case_named("standalone").values
SPLIT = "people of one room on different pods do not see each other"
BUS = {"settings": {"bus_url": "nats://nats:4222"}}
VIRTUAL_SERVICE = {
    "route": {"kind": "VirtualService", "hosts": ["a"], "gateways": ["g"], "roomAffinity": True}
}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    return str(refused.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "both"}, "at '/mode': value must be one of 'standalone', 'sidecar'"),
        ({"replicas": "three"}, "at '/replicas': got string, want integer"),
        ({"settings": {"drain_secs": 3}}, "at '/settings': additional properties 'drain_secs' not allowed"),
        ({"settings": {"log_level": "loud"}}, "at '/settings/log_level': value must be one of"),
        ({"settings": {"port": 1}}, "at '/settings': additional properties 'port' not allowed"),
        (
            {"settings": {"jwt_public_key_file": "/k"}},
            "additional properties 'jwt_public_key_file' not allowed",
        ),
        ({"settings": {"bus_url": "nats://user:word@nats"}}, "at '/settings/bus_url'"),
        (
            {"files": {"key": {"secret": "a", "key": "b"}}},
            "at '/files': additional properties 'key' not allowed",
        ),
        ({"files": {"membership_tls_ca_file": {"secret": "a"}}}, "missing property 'key'"),
        ({"trustedProxies": ["the gateway"]}, "at '/trustedProxies/0'"),
        ({"route": {"prefix": "/sphere/"}}, "at '/route/prefix'"),
        ({"image": {"digest": "latest"}}, "at '/image/digest'"),
        ({"podAnnotations": {"a": 1}}, "at '/podAnnotations/a': got number, want string"),
        ({"secrets": {}}, "at '': additional properties 'secrets' not allowed"),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_form_is_refused_with_its_place(values: dict[str, Any], words: str) -> None:
    assert words in refusal(merged(MINIMAL, values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image": {"repository": ""}}, "image.repository: required"),
        ({"settings": {"jwt_audiences": []}}, "settings.jwt_audiences: required"),
        ({"settings": {"membership_target": ""}}, "settings.membership_target: required"),
        ({"trustedProxies": []}, "trustedProxies: required in standalone mode"),
        ({"settings": {"jwt_jwks_url": "https://auth/jwks"}}, "exactly one is required, 2 are set"),
        ({"files": {"membership_tls_cert_file": {"secret": "s", "key": "k"}}}, "both or neither"),
        (
            {"files": {"jwt_public_key_file": {"configMap": "c"}}},
            "exactly one of secret and configMap is required",
        ),
        ({"replicas": 2}, SPLIT),
        ({"autoscaling": {"enabled": True}}, SPLIT),
        ({"mode": "sidecar"}, SPLIT),
        (BUS | {"autoscaling": {"enabled": True, "maxReplicas": 1}}, "maxReplicas: less than minReplicas"),
        (BUS | {"autoscaling": {"enabled": True, "cpuPercent": 0}}, "cpuPercent or connections"),
        ({"ports": {"signaling": 9464}}, "signaling and ops must differ"),
        ({"extraEnv": [{"name": "SIDECAR_PORT", "value": "1"}]}, "extraEnv: SIDECAR_PORT"),
        (
            BUS | {"mode": "sidecar", "route": {"kind": "Ingress", "hosts": ["a"]}},
            "the gateway itself routes to",
        ),
        (BUS | {"mode": "sidecar", "monitoring": {"monitor": "ServiceMonitor"}}, "use PodMonitor"),
        (BUS | {"mode": "sidecar", "monitoring": {"monitor": "PodMonitor"}}, "gateway.podLabels: required"),
        ({"route": {"kind": "Ingress"}}, "route.hosts: required"),
        ({"route": {"kind": "HTTPRoute", "hosts": ["a"]}}, "route.parentRefs: required"),
        ({"route": {"kind": "VirtualService", "hosts": ["a"]}}, "route.gateways: required"),
        (VIRTUAL_SERVICE, "route.gatewaySelector.labels: required"),
        ({"route": {"kind": "HTTPRoute", "roomAffinity": True}}, "nothing in HTTPRoute hashes the path"),
        ({"route": {"kind": "Ingress", "upgradesOnly": True}}, "cannot tell upgrades"),
        ({"route": {"kind": "Ingress", "hosts": ["a"], "prefix": "/calls"}}, "would answer 404"),
        ({"route": {"kind": "Ingress", "hosts": ["a"], "rewritePrefix": "/v2"}}, "would answer 404"),
    ],
    ids=str,
)
def test_values_that_render_but_cannot_work_are_refused(values: dict[str, Any], words: str) -> None:
    assert words in refusal(merged(MINIMAL, values))


@pytest.mark.parametrize(
    "values", [{"replicas": 2}, {"autoscaling": {"enabled": True}}, {"mode": "sidecar"}], ids=str
)
def test_split_rooms_can_be_accepted_by_name(values: dict[str, Any]) -> None:
    assert render(merged(MINIMAL, values | {"allowSplitRooms": True}))


def test_every_problem_is_told_at_once() -> None:
    told = refusal({"replicas": 2})
    for name in ("image.repository", "jwt_audiences", "membership_target", "trustedProxies", "replicas: 2"):
        assert name in told


@pytest.mark.parametrize(
    ("kubernetes", "values", "words"),
    [
        ("v1.28.3", {"gateway": {"preStop": "wget"}}, "need Kubernetes 1.29 or newer, this is v1.28.3"),
        ("v1.29.9", {}, "sleep needs Kubernetes 1.30 or newer, this is v1.29.9"),
    ],
    ids=str,
)
def test_what_a_cluster_is_too_old_for_is_refused(
    kubernetes: str, values: dict[str, Any], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    told = merged(MINIMAL, merged(BUS | {"mode": "sidecar"}, values))
    helm_python.lint(CHART, told, kube_version=kubernetes)
    assert words in capfd.readouterr().err  # a lint passes over `fail`, and prints it
