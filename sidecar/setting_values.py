"""What the value of a setting may be, and what is said where it is something else: "expected …"."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import AfterValidator, BeforeValidator, Field

MOST = 10**12
"""Of anything: beyond it a number is a mistake."""
LEAST_RATE = 0.001
ASYMMETRIC_ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _empty_is_unset(value: object) -> object:
    return None if value == "" else value


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")  # noqa: TRY004 - pydantic's way to say so
    return value


def _rate(value: float) -> float:
    if 0 < value < LEAST_RATE:
        raise ValueError(f"0 or at least {LEAST_RATE:g}")
    return value


def _mount_prefix(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
        raise ValueError("paths such as /sphere, without a slash at the end")
    return value


def _no_two_alike(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each of them once")
    return values


def _origin(value: str) -> str:
    origin = value.lower()
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://(\*\.)?[^/*?#@\s]+", origin):
        raise ValueError("origins such as https://app.example.org or https://*.example.org")
    default_port = {"http": ":80", "https": ":443"}.get(origin.partition(":")[0], "")
    return origin.removesuffix(default_port)  # browsers leave it out


def _stun_url(value: str) -> str:
    if not re.fullmatch(r"stuns?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?", value):
        raise ValueError("STUN URLs such as stun:stun.example.org:3478 (RFC 7064)")
    return value


def _certificates(value: Path | None) -> Path | None:
    if _readable_file(value) is not None and value is not None:
        try:
            x509.load_pem_x509_certificates(value.read_bytes())
        except (ValueError, x509.InvalidVersion):
            raise ValueError("a file with certificates in PEM format") from None
    return value


def _private_key(value: Path | None) -> Path | None:
    if _readable_file(value) is not None and value is not None:
        try:
            load_pem_private_key(value.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError("a file with a private key in PEM format, without a password") from None
    return value


def _algorithm(value: str) -> str:
    if value not in ASYMMETRIC_ALGORITHMS:
        raise ValueError("asymmetric algorithms: " + ", ".join(ASYMMETRIC_ALGORITHMS))
    return value


def _readable_file(value: Path | None) -> Path | None:
    if value is None:
        return None
    try:
        with value.open("rb"):
            return value
    except OSError as error:
        raise ValueError(f"a file that can be read ({error.strerror})") from None
    except ValueError:  # a NUL
        raise ValueError("the name of a file") from None


def _http_url(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        good = (
            parts.scheme in {"http", "https"} and parts.hostname and not parts.username and not parts.password
        )
        _ = parts.port, (parts.hostname or "").encode("idna")  # raise where they are none
    except ValueError:
        good = False
    if not good:
        raise ValueError("an http or https URL without a password in it")
    return value


def _grpc_target(value: str) -> str:
    if not value or re.search(r"\s", value) or re.match(r"(?!dns:)\w+://", value.removeprefix("unix:")):
        raise ValueError("a gRPC target such as dns:///chat:5001 or unix:/run/chat.sock")
    return value


def _bus_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = (
            parts.scheme in {"nats", "tls"} and parts.hostname and not parts.username and not parts.password
        )
        _ = parts.port  # raises where it is none
    except ValueError:
        good = False
    if not good:
        raise ValueError("nats:// or tls:// URLs without a password in them")
    return parts.geturl()  # its scheme in lower case


def _subject(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", value):
        raise ValueError("a NATS subject without wildcards, such as auth.session.revoked")
    return value


def _subject_or_off(value: str) -> str:
    return _subject(value) if value else value


def _stream(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ValueError("the name of a JetStream stream")
    return value


def _network(value: str) -> str:
    try:
        network = ipaddress.ip_network(value, strict=False)
        mapped = network.network_address.ipv4_mapped if network.version == 6 else None  # noqa: PLR2004
        if mapped is not None:  # addresses of that form count as IPv4
            return str(ipaddress.ip_network((mapped, max(network.prefixlen - 96, 0)), strict=False))
        return str(network)
    except ValueError:
        raise ValueError("addresses or CIDRs such as 10.0.0.0/8") from None


_Whole = Annotated[int, Field(le=MOST), BeforeValidator(_no_truth)]
_Real = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False), BeforeValidator(_no_truth)]
Port = Annotated[_Whole, Field(ge=0, le=65535)]
Seconds = _Real
PositiveSeconds = Annotated[_Real, Field(gt=0)]
Count = Annotated[_Whole, Field(ge=0)]
PositiveCount = Annotated[_Whole, Field(ge=1)]
PerSecond = Annotated[_Real, AfterValidator(_rate)]
Word = Annotated[str, Field(min_length=1)]
OptionalText = Annotated[str | None, BeforeValidator(_empty_is_unset)]
OptionalFile = Annotated[Path | None, AfterValidator(_readable_file), BeforeValidator(_empty_is_unset)]
OptionalCertificates = Annotated[Path | None, AfterValidator(_certificates), BeforeValidator(_empty_is_unset)]
OptionalPrivateKey = Annotated[Path | None, AfterValidator(_private_key), BeforeValidator(_empty_is_unset)]
OptionalUrl = Annotated[str | None, AfterValidator(_http_url), BeforeValidator(_empty_is_unset)]
SomeWords = Annotated[tuple[Word, ...], Field(min_length=1), BeforeValidator(_comma_list)]
MountPrefixes = Annotated[
    tuple[Annotated[str, AfterValidator(_mount_prefix)], ...],
    Field(min_length=1),
    AfterValidator(_no_two_alike),
    BeforeValidator(_comma_list),
]
Algorithms = Annotated[
    tuple[Annotated[str, AfterValidator(_algorithm)], ...], Field(min_length=1), BeforeValidator(_comma_list)
]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_comma_list)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_comma_list)]
GrpcTarget = Annotated[str, AfterValidator(_grpc_target)]
BusUrls = Annotated[tuple[Annotated[str, AfterValidator(_bus_url)], ...], BeforeValidator(_comma_list)]
Subject = Annotated[str, AfterValidator(_subject)]
SubjectOrOff = Annotated[str, AfterValidator(_subject_or_off)]
StreamOrOff = Annotated[str, AfterValidator(_stream)]
StunUrls = Annotated[tuple[Annotated[str, AfterValidator(_stun_url)], ...], BeforeValidator(_comma_list)]
