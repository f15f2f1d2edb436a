"""Settings: environment variables `SIDECAR_*` over one TOML file, parsed once into a frozen `Settings`.

Every problem is found in one go and told in words an operator can act on; see docs/configuration.md.
"""

from __future__ import annotations

import difflib
import re
import resource
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from sidecar.auth.keyset import BadKeys, parse_jwks, parse_pem
from sidecar.bus.ports import subjects_of
from sidecar.setting_values import (
    Algorithms,
    BusUrls,
    Count,
    GrpcTarget,
    MountPrefixes,
    Networks,
    OptionalCertificates,
    OptionalFile,
    OptionalPrivateKey,
    OptionalText,
    OptionalUrl,
    Origins,
    PerSecond,
    Port,
    PositiveCount,
    PositiveSeconds,
    Seconds,
    SomeWords,
    StreamOrOff,
    StunUrls,
    Subject,
    SubjectOrOff,
    Word,
)

PREFIX = "SIDECAR_"
CONFIG_FILE = "SIDECAR_CONFIG_FILE"

# What Kubernetes injects for a Service named "sidecar" or "sidecar-…": never ours.
_SERVICE_LINK = re.compile(
    r"SIDECAR_(SERVICE|PORT)_.+|SIDECAR_\w+_(SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_\w+)"
)
_SECRET_FILES = frozenset(
    {"bus_credentials_file", "bus_nkey_file", "bus_password_file", "membership_tls_key_file"}
)
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_DESCRIPTORS_BESIDE_CONNECTIONS = 192
"""64 each for files of our own, sockets that wait for their upgrade, and those that wait to be accepted."""


class Settings(BaseModel):
    """Every setting the sidecar knows. A limit of 0 means none; durations are seconds unless the name says else."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: Word = "0.0.0.0"  # noqa: S104 - a server; sidecar mode sets 127.0.0.1
    port: Port = 8080
    ops_host: Word = "0.0.0.0"  # noqa: S104
    ops_port: Port = 9464
    ops_page: bool = False
    mount_prefixes: MountPrefixes = ("/sphere", "/api")

    jwt_public_key_file: OptionalFile = None
    jwt_jwks_url: OptionalUrl = None
    jwt_jwks_file: OptionalFile = None
    jwt_algorithms: Algorithms = ("RS256",)
    jwt_issuers: SomeWords = ("solar-network",)
    jwt_audiences: SomeWords
    jwt_leeway_seconds: Seconds = 60
    jwt_jwks_refresh_seconds: PositiveSeconds = 300
    on_token_expiry: Literal["keep", "close"] = "keep"
    max_connection_seconds: Seconds = 14400

    allowed_origins: Origins = ()
    trusted_proxies: Networks = ("127.0.0.0/8", "::1/128")

    membership_target: GrpcTarget
    membership_tls_ca_file: OptionalCertificates = None
    membership_tls_cert_file: OptionalCertificates = None
    membership_tls_key_file: OptionalPrivateKey = None
    membership_tls_server_name: OptionalText = None
    membership_timeout_ms: PositiveCount = 1500
    membership_cache_seconds: Seconds = 30
    membership_deny_seconds: Seconds = 3
    membership_recheck_seconds: PositiveSeconds = 15
    membership_stale_seconds: Seconds = 300

    bus_url: BusUrls = ()
    bus_credentials_file: OptionalFile = None
    bus_nkey_file: OptionalFile = None
    bus_user: OptionalText = None
    bus_password_file: OptionalFile = None
    bus_tls_ca_file: OptionalCertificates = None
    bus_prefix: Subject = "sphere"
    bus_node_timeout_seconds: PositiveSeconds = 6
    session_events_subject: SubjectOrOff = "auth.session.revoked"
    session_events_stream: StreamOrOff = "auth_session_events"
    member_events_subject: SubjectOrOff = "chat.member.changed"

    max_message_bytes: Count = 65536
    max_connections: Count = 10000
    max_room_connections: Count = 100
    max_connections_per_account: Count = 16
    max_profile_bytes: Count = 2048
    message_rate: PerSecond = 50
    message_burst: PositiveCount = 200
    handshake_rate: PerSecond = 5
    handshake_burst: PositiveCount = 20
    address_handshake_rate: PerSecond = 50
    address_handshake_burst: PositiveCount = 200
    auth_failures_per_minute: Count = 60
    send_buffer_bytes: Count = 1048576
    total_buffer_bytes: Count = 268435456

    heartbeat_seconds: Seconds = 20
    pong_timeout_seconds: Seconds = 20
    drain_seconds: Seconds = 20

    stun_urls: StunUrls = ()
    metrics_room_label: Literal["on", "off"] = "on"
    metrics_max_rooms: Count = 200
    wire_dialect: Literal["guide", "guide-client", "dyson"] = "guide"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"


class BadSettings(Exception):
    """The settings cannot be used; `problems` holds one line each: name, value, what is expected."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Parse the environment, and the TOML file it names, into `Settings` and warnings for the log.

    Raises:
        BadSettings: with every problem found, not only the first.
    """
    problems: list[str] = []
    warnings: list[str] = []
    table = _from_file(environ.get(CONFIG_FILE, ""), problems)
    from_environment = _from_environment(environ, problems, warnings)
    # What a file that cannot be read would have said is not known: only what is there is judged beside it.
    settings, bad_fields = _validate((table or {}) | from_environment, problems, partial=table is None)
    if table is not None:
        problems += [text for fields, text in _conflicts(settings) if not bad_fields.intersection(fields)]
    if problems:
        raise BadSettings(problems)
    warnings += _doubts(settings)
    return settings, warnings


def _from_file(name: str, problems: list[str]) -> dict[str, Any] | None:
    """What the file says; None: it could not be read."""
    if not name:
        return {}
    try:
        with Path(name).open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        problems.append(f"{CONFIG_FILE}: {name!r}: expected a TOML file that can be read ({error.strerror})")
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{CONFIG_FILE}: {name!r}: expected TOML ({error})")
        return None
    for key in [key for key in table if key not in Settings.model_fields]:
        del table[key]
        problems.append(f"{key} (in {name}): unknown setting{_did_you_mean(key, '')}")
    return table


def _from_environment(environ: Mapping[str, str], problems: list[str], warnings: list[str]) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_FILE:
            continue
        field = variable.removeprefix(PREFIX).lower()
        linked = variable.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", value)
        if linked or (field not in Settings.model_fields and _SERVICE_LINK.fullmatch(variable)):
            warnings.append(
                f"{variable} comes from a Kubernetes Service and is ignored; set enableServiceLinks: false"
            )
        elif variable != variable.upper() or field not in Settings.model_fields:
            problems.append(f"{variable}: unknown setting{_did_you_mean(field, PREFIX)}")
        else:
            raw[field] = value
    return raw


def _did_you_mean(field: str, prefix: str) -> str:
    close = difflib.get_close_matches(field, Settings.model_fields, n=1)
    if not close:
        return ""
    return f"; did you mean {(prefix + close[0]).upper() if prefix else close[0]}?"


def _validate(raw: dict[str, Any], problems: list[str], *, partial: bool) -> tuple[Settings, set[str]]:
    """`raw` as Settings, the fields that were bad or missing set aside so that the rest can be looked at too.

    `partial`: what is missing is no problem.
    """
    bad: set[str] = set()
    try:
        return Settings.model_validate(raw), bad
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            field = str(problem["loc"][0])
            if field in bad:
                continue  # a second problem of the same value is a consequence of the first
            bad.add(field)
            expected = str(problem["msg"]).removeprefix("Value error, ")
            name = (PREFIX + field).upper()
            if problem["type"] == "missing":
                if not partial:
                    problems.append(f"{name}: required, but not set")
            else:
                problems.append(f"{name}: {_shown(field, raw[field])}: expected {_lower_first(expected)}")
    rest = {field: value for field, value in raw.items() if field not in bad}
    return Settings.model_validate({"jwt_audiences": "unset", "membership_target": "unset"} | rest), bad


def _shown(field: str, value: object) -> str:
    """A value as the operator wrote it, but for a URL that may hold a password, or a secret where its file belongs."""
    shown = repr(value)
    secret = field in _SECRET_FILES and not re.fullmatch(r"'(\.?/)?[\w./-]*[./][\w./-]*'", shown)
    return "(not shown)" if "@" in shown or secret else shown


def _lower_first(text: str) -> str:
    if text.startswith("Tuple should have at least 1 item"):
        return "at least one"
    if text.startswith("Input should be a valid boolean"):
        return "true or false"
    text = text.removeprefix("Input should be ")
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _conflicts(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong between settings that are each right: the fields concerned, and the problem."""
    sources = ("jwt_public_key_file", "jwt_jwks_url", "jwt_jwks_file")
    given = [name for name in sources if getattr(settings, name)]
    if len(given) != 1:
        names = ", ".join((PREFIX + name).upper() for name in sources)
        yield sources, f"{names}: expected exactly one of them, {len(given)} are set"
    pair = ("membership_tls_cert_file", "membership_tls_key_file")
    if (settings.membership_tls_cert_file is None) != (settings.membership_tls_key_file is None):
        yield (
            pair,
            "SIDECAR_MEMBERSHIP_TLS_CERT_FILE, SIDECAR_MEMBERSHIP_TLS_KEY_FILE: expected both or neither",
        )
    for name, parse in (("jwt_public_key_file", parse_pem), ("jwt_jwks_file", parse_jwks)):
        yield from _no_keys(settings, name, parse)
    yield from _bus_conflicts(settings)
    if settings.port and settings.port == settings.ops_port and _overlap(settings.host, settings.ops_host):
        yield (
            ("port", "ops_port"),
            f"SIDECAR_OPS_PORT: {settings.ops_port}: expected another port than SIDECAR_PORT",
        )
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    allowed = descriptors - _DESCRIPTORS_BESIDE_CONNECTIONS
    if descriptors != resource.RLIM_INFINITY and settings.max_connections > allowed:
        yield (
            ("max_connections",),
            f"SIDECAR_MAX_CONNECTIONS: {settings.max_connections}: expected at most {allowed}, "
            f"because at most {descriptors} files may be open (ulimit -Hn)",
        )


def _no_keys(
    settings: Settings, name: str, parse: Callable[[bytes, Sequence[str]], object]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """A file without a key that could verify a token."""
    file: Path | None = getattr(settings, name)
    if file is not None:
        try:
            parse(file.read_bytes(), settings.jwt_algorithms)
        except BadKeys as problem:
            variable = (PREFIX + name).upper()
            yield (name, "jwt_algorithms"), f"{variable}: {str(file)!r}: expected keys ({problem})"


def _overlap(host: str, other: str) -> bool:
    """Whether one port on both is one place."""
    return host == other or not _EVERYWHERE.isdisjoint({host, other})


def _bus_conflicts(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    pair = ("bus_user", "bus_password_file")
    if (settings.bus_user is None) != (settings.bus_password_file is None):
        yield pair, "SIDECAR_BUS_USER, SIDECAR_BUS_PASSWORD_FILE: expected both or neither"
    ways = ("bus_credentials_file", "bus_nkey_file", "bus_user")
    given = [name for name in ways if getattr(settings, name)]
    if len(given) > 1:
        names = ", ".join((PREFIX + name).upper() for name in ways)
        yield ways, f"{names}: expected at most one of them, {len(given)} are set"
    others = [name for name in (*ways, "bus_tls_ca_file") if getattr(settings, name)]
    if others and not settings.bus_url:
        names = ", ".join((PREFIX + name).upper() for name in others)
        yield (*others, "bus_url"), f"SIDECAR_BUS_URL: expected to be set, because {names} is"

    for name in ("session_events_subject", "member_events_subject"):
        subject: str = getattr(settings, name)
        if subject.startswith(subjects_of(settings.bus_prefix)):
            yield (
                (name, "bus_prefix"),
                f"{(PREFIX + name).upper()}: {subject!r}: expected no subject that rooms use, under SIDECAR_BUS_PREFIX",
            )


def _doubts(settings: Settings) -> Iterator[str]:
    """What is allowed, but worth a warning."""
    if settings.jwt_jwks_url:
        url = urlsplit(settings.jwt_jwks_url)
        if url.scheme == "http" and url.hostname not in _LOOPBACK_HOSTS:
            yield "SIDECAR_JWT_JWKS_URL is plain http to another host: whoever is on the way can mint tokens"
    target = settings.membership_target
    if not target.startswith("unix:") and not re.search(r":\d+$", target):
        yield f"SIDECAR_MEMBERSHIP_TARGET {target!r} names no port: gRPC takes 443"
    clear = [url for url in settings.bus_url if url.startswith("nats:")]
    others = any(urlsplit(url).hostname not in _LOOPBACK_HOSTS for url in clear)
    if others and settings.bus_tls_ca_file is None:
        yield "SIDECAR_BUS_URL is plain nats to another host: TLS is used only if that server insists on it"
