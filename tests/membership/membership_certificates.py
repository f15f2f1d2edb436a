"""Certificates for a test's own authority."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidecar.membership.channel import TlsFiles


@dataclass(frozen=True)
class Pair:
    cert: bytes
    key: bytes


class Authority:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority")
        builder = self._builder("authority", self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = _pem(builder.sign(self._key, hashes.SHA256()))

    def issue(self, name: str) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]
        if name == "nobody.test":
            names = [x509.DNSName(name)]
        builder = self._builder(name, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(_pem(builder.sign(self._key, hashes.SHA256())), private)

    def server_credentials(self, pair: Pair, *, mutual: bool = False) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(pair.key, pair.cert)],
            root_certificates=self.pem if mutual else None,
            require_client_auth=mutual,
        )

    def server_configuration(self, pair: Pair) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)], root_certificates=self.pem)

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )


def write(folder: Path, *, ca: bytes, pair: Pair | None = None, server_name: str | None = None) -> TlsFiles:
    """The files as a mounted secret holds them; writing again replaces what is in them."""
    files = {"ca.pem": ca}
    if pair is not None:
        files |= {"cert.pem": pair.cert, "key.pem": pair.key}
    for name, content in files.items():
        fresh = folder / f".{name}"
        fresh.write_bytes(content)
        fresh.rename(folder / name)
    return TlsFiles(
        ca=folder / "ca.pem",
        cert=folder / "cert.pem" if pair else None,
        key=folder / "key.pem" if pair else None,
        server_name=server_name,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
