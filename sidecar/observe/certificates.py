"""When certificates end: read once from each that comes into use, for a gauge and an alert before it is too late."""

from __future__ import annotations

from cryptography import x509


def expiries(**pems: bytes | None) -> dict[str, float]:
    """When the first certificate of each PEM text ends, in seconds since the epoch; nothing for unreadable ones."""
    found = {}
    for name, pem in pems.items():
        try:
            chain = x509.load_pem_x509_certificates(pem) if pem else []
        except ValueError:
            continue  # whoever uses it complains
        if chain:
            found[name] = min(certificate.not_valid_after_utc.timestamp() for certificate in chain)
    return found
