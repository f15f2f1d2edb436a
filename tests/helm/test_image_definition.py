"""The Dockerfile and the workflow: what can be said of them without building anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.helm.rendering import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    checked = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, "")


def test_every_stage_stands_on_the_one_pinned_base() -> None:
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert re.search(
        r"^ARG BASE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE
    )


def test_the_tools_of_the_build_are_pinned_by_hash_and_uv_is_the_makefiles() -> None:
    [version] = re.findall(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name, first in (("uv", f"uv=={version} "), ("setuptools", "setuptools==")):
        pinned = (ROOT / "image" / f"{name}.txt").read_text()
        assert pinned.startswith(first)
        assert pinned.count("==") == 1
        assert "--hash=sha256:" in pinned


def test_the_chart_runs_the_images_user_and_version() -> None:
    values = yaml.safe_load((ROOT / "helm" / "sphere-sidecar" / "values.yaml").read_text())
    user = f"{values['securityContext']['runAsUser']}:{values['securityContext']['runAsGroup']}"
    assert f"USER {user}" in DOCKERFILE
    chart = yaml.safe_load((ROOT / "helm" / "sphere-sidecar" / "Chart.yaml").read_text())
    assert f"ARG VERSION={chart['appVersion']}\n" in DOCKERFILE
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()


def test_the_workflow_runs_the_makefiles_targets_with_pinned_parts() -> None:
    used = re.findall(r"(?:uses|image): (\S+)", WORKFLOW)
    assert used
    assert all(re.search(r"@([0-9a-f]{40}|sha256:[0-9a-f]{64})$", one) for one in used)
    steps = [
        step.get("run", "") for job in yaml.safe_load(WORKFLOW)["jobs"].values() for step in job["steps"]
    ]
    assert "bash .ci/run" in steps
    assert "sudo make image-check" in steps
    [base] = re.findall(r"^ARG BASE=(\S+)", DOCKERFILE, re.MULTILINE)
    assert base in used
