"""The settings the chart offers are the program's, and what it renders is accepted by the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import jwt
import pytest

from sidecar.config import Settings
from sidecar.dev.issuer import Issuer
from tests.authority import Authority
from tests.helm.rendering import CASES, CHART, ROOT, Case, case_named, merged, objects, render, the

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OFFERED = set(SCHEMA["properties"]["settings"]["properties"]) | set(
    SCHEMA["properties"]["files"]["properties"]
)
# These have values of their own: ports, trustedProxies.
ELSEWHERE = {"port", "ops_port", "trusted_proxies"}
MOUNT = "/etc/sphere-sidecar/files"


def contents(file: str, issuer: Issuer) -> bytes:
    """What stands in the Secret: keys and PEM files are looked into, the others only opened."""
    if file == "jwt_jwks":
        key = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).prepare_key(
            issuer.public_file.read_bytes()
        )
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True)
        return json.dumps({"keys": [{**jwk, "alg": "RS256", "use": "sig", "kid": "1"}]}).encode()
    if "_tls_" in file:
        authority = Authority()
        return authority.issue("sidecar").key if file.endswith("_key") else authority.pem
    return issuer.public_file.read_bytes() if file == "jwt_public_key" else b""


def test_the_chart_offers_every_setting_of_the_program() -> None:
    assert set(Settings.model_fields) - OFFERED == ELSEWHERE


def test_the_chart_offers_nothing_the_program_would_refuse() -> None:
    assert set(Settings.model_fields) >= OFFERED


def test_mount_prefixes_may_be_written_with_commas() -> None:
    route = {"kind": "HTTPRoute", "hosts": ["a"], "parentRefs": [{"name": "g"}], "prefix": "/messager"}
    values = case_named("standalone").values
    assert render(merged(values, {"route": route, "settings": {"mount_prefixes": "/sphere, /messager"}}))


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_every_default_of_the_program_passes_the_schema(name: str) -> None:
    field = Settings.model_fields[name]
    if field.is_required() or field.default is None:
        return
    default: Any = list(field.default) if isinstance(field.default, tuple) else field.default
    schema = SCHEMA["properties"]["settings"]["properties"][name] | {"$defs": SCHEMA["$defs"]}
    jsonschema.validate(default, schema)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check_config_accepts_the_rendered_settings_with_their_files(
    case: Case, issuer: Issuer, tmp_path: Path
) -> None:
    rendered = objects(case)
    data = the("ConfigMap", [one for one in rendered if "SIDECAR_PORT" in one.get("data", {})])["data"]
    [mounted] = [
        volume["projected"]
        for volume in the("Deployment", rendered)["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "sphere-sidecar-files"
    ]
    for source in mounted["sources"]:
        for item in next(iter(source.values()))["items"]:
            (tmp_path / item["path"]).write_bytes(contents(item["path"], issuer))
    environment = {name: text.replace(MOUNT, str(tmp_path)) for name, text in data.items()}
    checked = subprocess.run(
        [sys.executable, "-m", "sidecar", "check-config"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
