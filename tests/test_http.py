"""The signaling listener as plain HTTP, through Sanic's own test client."""

from __future__ import annotations

import pytest
import structlog
from sanic_testing.testing import SanicTestClient

from sidecar import config
from sidecar.app import Sidecar
from sidecar.dev.issuer import AUDIENCE
from tests.harness import guid


@pytest.fixture
def client(issuer):
    settings, _ = config.load(
        {
            "SIDECAR_JWT_PUBLIC_KEY_FILE": str(issuer.public_file),
            "SIDECAR_JWT_AUDIENCES": AUDIENCE,
            "SIDECAR_MEMBERSHIP_TARGET": "127.0.0.1:1",
            "SIDECAR_MOUNT_PREFIXES": "/one,/two/three",
        }
    )
    sidecar = Sidecar(settings, structlog.stdlib.get_logger("sidecar"))
    return SanicTestClient(sidecar.signaling)


def test_every_error_is_one_json_object_with_a_reason_and_a_trace(client):
    for path, method, status in (
        ("/", "get", 404),
        ("/one/chat/realtime/x", "get", 404),
        (f"/one/chat/realtime/{guid()}", "post", 405),
        (f"/two/three/chat/realtime/{guid()}", "get", 401),
        (f"/sphere/chat/realtime/{guid()}", "get", 404),
    ):
        _, response = getattr(client, method)(path)
        assert response.status == status
        assert response.headers["content-type"] == "application/json"
        assert set(response.json) == {"code", "message", "status", "traceId"}
        assert response.json["status"] == status
        assert response.json["message"]


def test_a_request_body_is_not_read_into_memory(client):
    _, response = client.post(f"/one/chat/realtime/{guid()}", content=b"x" * 100_000)
    assert response.status == 405


def test_a_preflight_says_what_is_allowed(client):
    _, response = client.options(f"/one/chat/realtime/{guid()}")
    assert response.status == 204
    assert response.headers["allow"] == "GET, OPTIONS"
