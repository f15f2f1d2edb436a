"""The chart as real Helm renders it, and the matrix of values it is reviewed with.

`python -m tests.helm.rendering` writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "sphere-sidecar"
HERE = Path(__file__).parent
RELEASE, NAMESPACE = "calls", "dyson"


@dataclass(frozen=True)
class Case:
    """One file of values; those named gateway-* are for the example gateway."""

    name: str

    @property
    def in_a_gateway(self) -> bool:
        return self.name.startswith("gateway-")

    @property
    def chart(self) -> Path:
        return gateway_with_the_chart() if self.in_a_gateway else CHART

    @property
    def values(self) -> dict[str, Any]:
        return yaml.safe_load((HERE / "values" / f"{self.name}.yaml").read_text()) or {}

    @property
    def golden(self) -> Path:
        return HERE / "golden" / f"{self.name}.yaml"

    @property
    def oldest_kubernetes(self) -> int:
        """The minor version of Kubernetes 1 these values are for."""
        first_line = (HERE / "values" / f"{self.name}.yaml").read_text().partition("\n")[0]
        return int(first_line.removeprefix("# Kubernetes 1.").removesuffix(" and newer"))


CASES = [Case(path.stem) for path in sorted((HERE / "values").glob("*.yaml"))]


def case_named(name: str) -> Case:
    [found] = [case for case in CASES if case.name == name]
    return found


@cache
def gateway_with_the_chart() -> Path:
    """A copy of the example gateway with its dependency built in, as `helm dependency build` does."""
    copy = Path(tempfile.mkdtemp(prefix="sphere-helm-"))
    atexit.register(shutil.rmtree, copy)
    shutil.copytree(ROOT / "helm", copy / "helm")
    gateway = copy / "helm" / "examples" / "gateway"
    helm_python.dependency_update(gateway)
    return gateway


def manifest(case: Case) -> str:
    """Everything rendered for `case`, each template under its path."""
    rendered = helm_python.Chart.load(case.chart).render(case.values, name=RELEASE, namespace=NAMESPACE)
    return "".join(
        f"# {path}\n{text.strip()}\n---\n" for path, text in sorted(rendered.items()) if text.strip()
    )


def render(values: dict[str, Any], chart: Path = CHART) -> list[dict[str, Any]]:
    rendered = helm_python.Chart.load(chart).render(values, name=RELEASE, namespace=NAMESPACE)
    return [
        found
        for path, text in sorted(rendered.items())
        if path.endswith(".yaml")
        for found in yaml.safe_load_all(text)
        if found
    ]


@cache
def objects(case: Case) -> list[dict[str, Any]]:
    return render(case.values, case.chart)


def the(kind: str, rendered: list[dict[str, Any]]) -> dict[str, Any]:
    [found] = [one for one in rendered if one["kind"] == kind]
    return found


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, maps merged key by key as Helm merges values."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


if __name__ == "__main__":
    for one in CASES:
        one.golden.write_text(manifest(one))
        sys.stdout.write(f"{one.golden.relative_to(ROOT)}\n")
