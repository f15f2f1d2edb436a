"""Certificates as files, which a gateway's configuration names, and SPIFFE identities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from tests import authority

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


class Authority:
    """Writes what it signs into `directory`; `file` is its certificate."""

    def __init__(self, directory: Path, name: str = "tests") -> None:
        self._directory = directory
        self._signer = authority.Authority(name)
        self.file = directory / f"{name}-ca.pem"
        self.file.write_bytes(self._signer.pem)

    def issue(self, name: str, *names: x509.GeneralName) -> Pair:
        return Pair(*self._signer.issue(name, *names).write(self._directory, name))


def spiffe(workload: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(f"spiffe://cluster.local/{workload}")
