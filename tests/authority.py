"""A certificate authority of the tests' own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

LOOPBACK = x509.IPAddress(ip_address("127.0.0.1"))


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM texts."""

    cert: bytes
    key: bytes

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """The two as files called `name`."""
        files = directory / f"{name}.pem", directory / f"{name}.key"
        files[0].write_bytes(self.cert)
        files[1].write_bytes(self.key)
        return files


class Authority:
    """Signs with a key of its own; `pem` is its certificate. All of it is good for `days`."""

    def __init__(self, name: str = "authority", *, days: float = 1) -> None:
        self._name = _name(name)
        self._days = days
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.pem = self._sign(self._name, self._key.public_key(), constraints, critical=True)

    def issue(self, name: str, *names: x509.GeneralName) -> Pair:
        """A certificate for `names`; where there are none, for the DNS name `name` and for loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName(names or (x509.DNSName(name), LOOPBACK))
        cert = self._sign(_name(name), key.public_key(), alternatives, critical=False)
        return Pair(cert, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        extension: x509.ExtensionType,
        *,
        critical: bool,
    ) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(hours=1),
            not_valid_after=now + timedelta(days=self._days),
        )
        return (
            builder.add_extension(extension, critical)
            .sign(self._key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
