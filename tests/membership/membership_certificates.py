"""What an authority's certificates are to a gRPC server and to the membership client."""

from __future__ import annotations

from pathlib import Path

import grpc

from sidecar.membership.channel import TlsFiles
from tests.authority import Authority, Pair


def server_credentials(authority: Authority, pair: Pair, *, mutual: bool = False) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(pair.key, pair.cert)],
        root_certificates=authority.pem if mutual else None,
        require_client_auth=mutual,
    )


def server_configuration(authority: Authority, pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)], root_certificates=authority.pem)


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
