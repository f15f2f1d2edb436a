"""How long certificates last: read once from each that comes into use, for an alert before it is too late."""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509


class Life(NamedTuple):
    """From when to when a certificate is valid, in seconds since the epoch."""

    start: float
    end: float


def lives(**pems: bytes | None) -> dict[str, Life]:
    """The life of the certificate in each PEM text that ends first; nothing for unreadable ones."""
    found = {}
    for name, pem in pems.items():
        try:
            chain = x509.load_pem_x509_certificates(pem) if pem else []
        except (ValueError, x509.InvalidVersion):
            continue  # whoever uses it complains
        if chain:
            first = min(chain, key=lambda certificate: certificate.not_valid_after_utc)
            found[name] = Life(first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp())
    return found
