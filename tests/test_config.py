"""Settings: from the environment and a file, every problem told at once."""

from __future__ import annotations

import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import config

GOOD = {
    "SIDECAR_JWT_AUDIENCES": "api",
    "SIDECAR_MEMBERSHIP_TARGET": "dns:///chat:5001",
    "SIDECAR_JWT_JWKS_URL": "https://auth.example.org/jwks",
}


def problems(environ) -> str:
    with pytest.raises(config.BadSettings) as caught:
        config.load(environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return str(caught.value)


def test_the_required_settings_alone_are_enough():
    settings, warnings = config.load(GOOD | {"PATH": "/bin", "OTHER_PORT": "x"})
    assert settings.port == 8080
    assert settings.jwt_audiences == ("api",)
    assert warnings == []


def test_settings_are_frozen():
    settings, _ = config.load(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_all_problems_are_told_at_once_each_on_one_line(issuer):
    found = problems(
        {
            "SIDECAR_PORT": "x",
            "SIDECAR_DRAIN_SECONDS": "-1",
            "SIDECAR_MAX_CONECTIONS": "5",
            "SIDECAR_MEMBERSHIP_TLS_KEY_FILE": str(issuer.public_file.with_name("jwt-private.pem")),
            "SIDECAR_JWT_ALGORITHMS": "RS256,HS256",
        }
    ).splitlines()
    names = [line.partition(":")[0] for line in found]
    assert sorted(names) == sorted(
        [
            "SIDECAR_PORT",
            "SIDECAR_DRAIN_SECONDS",
            "SIDECAR_MAX_CONECTIONS",
            "SIDECAR_JWT_ALGORITHMS",
            "SIDECAR_JWT_AUDIENCES",
            "SIDECAR_MEMBERSHIP_TARGET",
            "SIDECAR_JWT_PUBLIC_KEY_FILE, SIDECAR_JWT_JWKS_URL, SIDECAR_JWT_JWKS_FILE",
            "SIDECAR_MEMBERSHIP_TLS_CERT_FILE, SIDECAR_MEMBERSHIP_TLS_KEY_FILE",
        ]
    )
    assert "did you mean SIDECAR_MAX_CONNECTIONS?" in "\n".join(found)
    assert "'x'" in "\n".join(found)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "65536", "65535"),
        ("JWT_ALGORITHMS", "none", "asymmetric"),
        ("JWT_ALGORITHMS", "hs256", "asymmetric"),
        ("JWT_AUDIENCES", " , ", "at least one"),
        ("JWT_JWKS_URL", "ftp://x/y", "http or https URL"),
        ("JWT_JWKS_URL", "http://a:99999/", "http or https URL"),
        ("JWT_PUBLIC_KEY_FILE", "/nonexistent/key.pem", "No such file"),
        ("MOUNT_PREFIXES", "sphere/", "/sphere"),
        ("ALLOWED_ORIGINS", "app.example.org", "https://app.example.org"),
        ("ALLOWED_ORIGINS", "*", "https://app.example.org"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,proxy", "CIDR"),
        ("MEMBERSHIP_TARGET", "http://chat:5001", "gRPC target"),
        ("ON_TOKEN_EXPIRY", "later", "'keep' or 'close'"),
        ("HEARTBEAT_SECONDS", "nan", "finite"),
        ("WIRE_DIALECT", "Guide", "'guide'"),
        ("MOUNT_PREFIXES", "/a,/b,/a", "each of them once"),
        ("STUN_URLS", "stun:a.example,http://b.example", "stun:stun.example.org:3478"),
        ("OPS_PAGE", "maybe", "true or false"),
        ("MEMBERSHIP_TLS_CA_FILE", __file__, "certificates in PEM"),
        ("MEMBERSHIP_TLS_KEY_FILE", __file__, "private key in PEM"),
        ("MEMBERSHIP_TIMEOUT_MS", "1" + "0" * 400, "less than or equal"),
        ("MESSAGE_RATE", "1e-320", "0 or at least 0.001"),
        ("BUS_URL", "nats://a:99999", "nats://"),
        ("BUS_URL", "nats://[::1", "nats://"),
        ("STUN_URLS", "stun.example.org", "expected STUN URLs"),
        ("LOG_LEVEL", "loud", "'debug'"),
    ],
)
def test_a_bad_value_is_shown_with_what_is_expected(name, value, expected):
    found = problems(GOOD | {f"SIDECAR_{name}": value})
    assert f"SIDECAR_{name}" in found
    assert expected in found


def test_a_password_in_a_url_is_refused_and_not_shown():
    found = problems(GOOD | {"SIDECAR_JWT_JWKS_URL": "https://user:hunter2@auth.example.org/"})
    assert "without a password" in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "setting",
    [
        'bus_url = ["nats://user:hunter2@a"]',
        'bus_password_file = "hunter2"',
        'membership_tls_key_file = "-----BEGIN PRIVATE KEY-----hunter2"',
    ],
)
def test_a_secret_where_none_belongs_is_not_shown(tmp_path, setting):
    file = tmp_path / "sidecar.toml"
    file.write_text(setting)
    found = problems(GOOD | {"SIDECAR_CONFIG_FILE": str(file)})
    assert setting.partition(" ")[0].upper() in found
    assert "hunter2" not in found


def test_the_name_of_a_secrets_file_is_shown():
    assert "'/run/nowhere/key.pem'" in problems(GOOD | {"SIDECAR_BUS_NKEY_FILE": "/run/nowhere/key.pem"})


@pytest.mark.parametrize(
    "setting", ["max_connections = true", "drain_seconds = false", 'jwt_jwks_file = "a\\u0000b"']
)
def test_what_toml_has_beside_text_and_numbers_is_told(tmp_path, setting):
    file = tmp_path / "sidecar.toml"
    file.write_text(setting)
    found = problems(GOOD | {"SIDECAR_CONFIG_FILE": str(file)})
    assert f"SIDECAR_{setting.partition(' ')[0].upper()}: " in found
    assert "expected" in found


def test_a_file_without_keys_is_told_with_the_other_problems(tmp_path):
    file = tmp_path / "jwt.pem"
    file.write_text("nothing")
    found = problems(
        GOOD | {"SIDECAR_JWT_JWKS_URL": "", "SIDECAR_JWT_PUBLIC_KEY_FILE": str(file), "SIDECAR_PORT": "x"}
    )
    assert "SIDECAR_PORT" in found
    assert "expected keys" in found


@pytest.mark.parametrize(
    ("prefix", "subject", "good"),
    [("auth", "auth.session.revoked", True), ("chat", "chat.room.x", False), ("chat", "chat.beat", False)],
)
def test_events_and_rooms_may_share_the_beginning_of_their_subjects_and_no_more(prefix, subject, good):
    environ = GOOD | {"SIDECAR_BUS_PREFIX": prefix, "SIDECAR_SESSION_EVENTS_SUBJECT": subject}
    if good:
        config.load(environ)
    else:
        assert "SIDECAR_SESSION_EVENTS_SUBJECT" in problems(environ)


def test_the_scheme_of_a_bus_is_in_lower_case():
    settings, _ = config.load(GOOD | {"SIDECAR_BUS_URL": "TLS://a:4222"})
    assert settings.bus_url == ("tls://a:4222",)


def test_two_listeners_may_have_one_port_on_two_hosts():
    ports = {"SIDECAR_PORT": "9000", "SIDECAR_OPS_PORT": "9000", "SIDECAR_HOST": "127.0.0.1"}
    config.load(GOOD | ports | {"SIDECAR_OPS_HOST": "127.0.0.2"})
    assert "SIDECAR_OPS_PORT" in problems(GOOD | ports | {"SIDECAR_OPS_HOST": "0.0.0.0"})


def test_the_value_of_an_unknown_setting_is_not_shown():
    assert "hunter2" not in problems(GOOD | {"SIDECAR_JWT_SECRET": "hunter2"})


def test_a_file_holds_the_same_settings_and_the_environment_wins(tmp_path):
    file = tmp_path / "sidecar.toml"
    file.write_text(
        'port = 1234\nops_port = 1235\njwt_audiences = ["a", "b"]\nmount_prefixes = "/x,/y"\n'
        'membership_target = "unix:/run/chat.sock"\njwt_jwks_url = "https://auth.example.org/jwks"\n'
    )
    settings, _ = config.load({"SIDECAR_CONFIG_FILE": str(file), "SIDECAR_PORT": "4321"})
    assert (settings.port, settings.ops_port) == (4321, 1235)
    assert settings.jwt_audiences == ("a", "b")
    assert settings.mount_prefixes == ("/x", "/y")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port = ", "TOML"),
        ("prot = 1", "did you mean port?"),
        ("[port]\nx = 1", "SIDECAR_PORT"),
        ("SIDECAR_PORT = 1", "unknown"),
    ],
)
def test_a_bad_file_is_told_like_a_bad_variable(tmp_path, text, expected):
    file = tmp_path / "sidecar.toml"
    file.write_text(text)
    assert expected in problems(GOOD | {"SIDECAR_CONFIG_FILE": str(file)})
    assert "can be read" in problems(GOOD | {"SIDECAR_CONFIG_FILE": str(tmp_path / "missing.toml")})


@pytest.mark.parametrize("text", [None, "port = "])
def test_a_file_that_cannot_be_read_is_not_blamed_for_what_it_may_have_said(tmp_path, text):
    file = tmp_path / "sidecar.toml"
    if text is not None:
        file.write_text(text)
    environ = {"SIDECAR_CONFIG_FILE": str(file)}
    (only,) = problems(environ).splitlines()
    assert only.startswith(f"SIDECAR_CONFIG_FILE: {str(file)!r}")
    beside = problems(environ | {"SIDECAR_PORT": "x", "SIDECAR_HOTS": "x"}).splitlines()
    assert {line.partition(":")[0] for line in beside} == {
        "SIDECAR_CONFIG_FILE",
        "SIDECAR_PORT",
        "SIDECAR_HOTS",
    }


def test_what_kubernetes_injects_for_a_service_is_ignored_with_a_warning():
    injected = {
        "SIDECAR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_SERVICE_PORT": "80",
        "SIDECAR_SERVICE_PORT_HTTP": "80",
        "SIDECAR_PORT": "tcp://10.0.0.1:80",
        "SIDECAR_PORT_80_TCP": "tcp://10.0.0.1:80",
        "SIDECAR_PORT_80_TCP_ADDR": "10.0.0.1",
        "SIDECAR_OPS_PORT": "tcp://10.0.0.2:9464",
    }
    settings, warnings = config.load(GOOD | injected)
    assert (settings.port, settings.ops_port) == (8080, 9464)
    assert len(warnings) == len(injected)
    assert all("enableServiceLinks" in warning for warning in warnings)


def test_origins_and_proxies_are_read_as_requests_write_them():
    settings, _ = config.load(
        GOOD
        | {
            "SIDECAR_ALLOWED_ORIGINS": "https://A.example:443,http://b.example:8080",
            "SIDECAR_TRUSTED_PROXIES": "::ffff:10.0.0.0/104,fd00::/8",
        }
    )
    assert settings.allowed_origins == ("https://a.example", "http://b.example:8080")
    assert settings.trusted_proxies == ("10.0.0.0/8", "fd00::/8")


def test_plain_http_to_another_host_warns():
    assert config.load(GOOD | {"SIDECAR_JWT_JWKS_URL": "http://auth.example.org/jwks"})[1]
    assert not config.load(GOOD | {"SIDECAR_JWT_JWKS_URL": "http://127.0.0.1:8000/jwks"})[1]


def test_a_target_without_a_port_warns():
    for target, doubtful in (
        ("dns:///chat", True),
        ("chat", True),
        ("chat:5001", False),
        ("unix:/run/chat", False),
    ):
        _, warnings = config.load(GOOD | {"SIDECAR_MEMBERSHIP_TARGET": target})
        assert any("names no port" in warning for warning in warnings) == doubtful


def test_more_connections_than_files_may_be_open_are_refused():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most == resource.RLIM_INFINITY:
        most = 2**40
        config.load(GOOD | {"SIDECAR_MAX_CONNECTIONS": str(most)})
        return
    assert str(most) in problems(GOOD | {"SIDECAR_MAX_CONNECTIONS": str(most)})


@given(
    st.sampled_from(sorted(config.Settings.model_fields)),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)
def test_no_value_is_anything_but_good_or_told(name, value):
    variable = f"SIDECAR_{name.upper()}"
    try:
        config.load(GOOD | {variable: value})
    except config.BadSettings as bad:
        assert all("SIDECAR_" in problem for problem in bad.problems)
