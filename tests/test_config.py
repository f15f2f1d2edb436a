import pytest

from sidecar import config

GOOD = {
    "SIDECAR_JWT_AUDIENCES": "api",
    "SIDECAR_MEMBERSHIP_TARGET": "dns:///chat:5001",
    "SIDECAR_JWT_JWKS_URL": "https://auth.example.org/jwks",
}


def problems(environ):
    with pytest.raises(config.BadSettings) as caught:
        config.load(environ)
    return caught.value.problems


def test_the_required_settings_alone_are_enough():
    settings, warnings = config.load(GOOD)
    assert settings.port == 8080
    assert settings.jwt_audiences == ("api",)
    assert warnings == []


def test_all_problems_are_told_at_once():
    found = problems({"SIDECAR_PORT": "x", "SIDECAR_DRAIN_SECONDS": "-1", "SIDECAR_MAX_CONECTIONS": "5"})
    text = "\n".join(found)
    for name in (
        "PORT",
        "DRAIN_SECONDS",
        "MAX_CONECTIONS",
        "JWT_AUDIENCES",
        "MEMBERSHIP_TARGET",
        "JWT_JWKS_URL",
    ):
        assert f"SIDECAR_{name}" in text
    assert "did you mean SIDECAR_MAX_CONNECTIONS?" in text
