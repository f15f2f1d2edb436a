"""What real Helm makes of the chart, against what was reviewed and against published schemas."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from typing import Any

import helm_python
import kubernetes_validate
import pytest

from tests.helm.rendering import CASES, CHART, HERE, Case, gateway_with_the_chart, manifest, merged, objects

OLDEST = 28
NEWEST = int(kubernetes_validate.latest_version().split(".")[1])
CUSTOM = ("gateway.networking.k8s.io", "monitoring.coreos.com", "networking.istio.io")

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def is_custom(one: dict[str, Any]) -> bool:
    return one["apiVersion"].split("/")[0] in CUSTOM


@cache
def problems_of_custom_resources(written: str) -> str:
    npm = shutil.which("npm")
    assert npm, "custom resources are checked with Node: apt-get install nodejs npm"
    crds = HERE / "crds"
    if not (crds / "node_modules" / ".package-lock.json").exists():
        subprocess.run([npm, "ci", "--silent"], cwd=crds, check=True, timeout=300)
    checked = subprocess.run(
        ["node", "check.mjs"],
        cwd=crds,
        input=written,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    return checked.stdout.strip()


@every_case
def test_the_chart_renders_what_was_reviewed(case: Case) -> None:
    assert manifest(case) == case.golden.read_text(), (
        "the chart renders something else now; `python -m tests.helm.rendering` writes it down"
    )


def test_every_golden_file_belongs_to_a_case() -> None:
    assert {path.stem for path in (HERE / "golden").iterdir()} == {case.name for case in CASES}


@every_case
def test_strict_lint_has_nothing_to_say(case: Case) -> None:
    values = case.values
    if case.in_a_gateway:
        defaults = helm_python.Chart.load(gateway_with_the_chart()).values["sphere-sidecar"]
        values = merged(defaults, values.get("sphere-sidecar", {}))
    report = helm_python.lint(CHART, values, strict=True, kube_version=f"v1.{case.oldest_kubernetes}.0")
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@every_case
def test_every_object_is_valid_on_every_supported_kubernetes(case: Case) -> None:
    for minor in range(case.oldest_kubernetes, NEWEST + 1):
        for one in objects(case):
            if not is_custom(one):
                kubernetes_validate.validate(one, f"1.{minor}", strict=True)


def test_the_cases_reach_back_to_the_oldest_supported_kubernetes() -> None:
    assert min(case.oldest_kubernetes for case in CASES) == OLDEST


def test_custom_resources_fit_their_published_types() -> None:
    custom = [one for case in CASES for one in objects(case) if is_custom(one)]
    assert {one["kind"] for one in custom} == {
        "HTTPRoute", "VirtualService", "DestinationRule", "EnvoyFilter",
        "ServiceMonitor", "PodMonitor", "PrometheusRule",
    }  # fmt: skip
    assert problems_of_custom_resources(json.dumps(custom)) == ""


def test_the_check_of_custom_resources_sees_unknown_fields_and_wrong_values() -> None:
    monitor = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "wrong"},
        "spec": {"selector": {}, "podMetricsEndpoints": [{"interval": "often"}], "misspelt": True},
    }
    problems = problems_of_custom_resources(json.dumps([monitor]))
    assert "interval" in problems
    assert "misspelt" in problems
