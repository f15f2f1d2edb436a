"""Who is on the other end: the client's address behind proxies, and whether its Origin is ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

ADDRESSES_KNOWN = 4096
"""Addresses whose reading is remembered: behind a gateway all requests are from a few."""
LONGEST_ADDRESS = 64
"""Characters; an IPv6 address with brackets and port has 47."""

_LABELS = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class Headers(Protocol):
    """A request's headers, names in any case."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """Each line of that name."""


class Client(NamedTuple):
    """An address that was read."""

    address: str
    limited_as: str
    """What limits count it by: the address, an IPv6 one by its /64."""
    trusted: bool
    """It is one of our proxies."""


_UNKNOWN = Client("0.0.0.0", "0.0.0.0", trusted=False)  # noqa: S104 - no peer has it


class Proxies:
    """The proxies whose `X-Forwarded-*` headers count."""

    def __init__(self, *, trusted: Iterable[str], on_untrusted_header: Callable[[str], None]) -> None:
        self._networks = [ip_network(network) for network in trusted]
        self._on_untrusted_header = on_untrusted_header
        self._read = lru_cache(maxsize=ADDRESSES_KNOWN)(self._read_anew)

    def client(self, peer: str, headers: Headers) -> Client:
        """The right-most `X-Forwarded-For` hop that is not one of the proxies; the peer itself if it is none.

        A hop that is no address ends the search: what stands left of it is hearsay.
        """
        client = self._read(peer) or _UNKNOWN
        lines = headers.getall("x-forwarded-for", [])
        if not client.trusted:
            if lines or headers.getall("x-forwarded-proto", []) or headers.getall("x-forwarded-host", []):
                self._on_untrusted_header(client.address)
            return client
        if not lines:
            return client
        hops = [hop.strip() for line in lines for hop in line.split(",")]
        for hop in reversed([hop for hop in hops if hop]):  # a list may have empty elements (RFC 9110 5.6.1)
            read = self._read(hop) if len(hop) <= LONGEST_ADDRESS else None
            if read is None:
                return client
            client = read
            if not client.trusted:
                return client
        return client

    def _read_anew(self, text: str) -> Client | None:
        address = _parse(text)
        if address is None:
            return None
        trusted = any(address in network for network in self._networks)
        return Client(str(address), _limited_as(address), trusted)

    def same_origin(self, origin: str, peer: str, headers: Headers) -> bool:
        """Whether `origin` is where the request went to, as a trusted peer forwards it, else as `Host` says."""
        scheme, authority = _split_origin(origin)
        host = headers.getall("host", [""])[-1]
        sender = self._read(peer)
        if sender is not None and sender.trusted:
            host = headers.getall("x-forwarded-host", [host])[-1].split(",")[-1].strip() or host
            proto = headers.getall("x-forwarded-proto", [""])[-1].split(",")[-1].strip().lower()
            if proto and _DEFAULT_PORTS.get(proto) != _DEFAULT_PORTS.get(scheme):
                return False
        return bool(authority) and authority == _without_default_port(scheme, host.lower())


def origin_allowed(origin: str, allowed: Sequence[str]) -> bool:
    """Whether `origin` is one of `allowed`; `https://*.example.org` stands for every name below example.org."""
    origin = origin.lower()
    for pattern in allowed:
        scheme, star, domain = pattern.partition("*.")
        if not star:
            if origin == pattern:
                return True
        elif (
            origin.startswith(scheme)
            and origin.endswith("." + domain)
            and _LABELS.fullmatch(origin[len(scheme) : -len(domain) - 1])
        ):
            return True
    return False


def _limited_as(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address as it stands in `X-Forwarded-For`, with or without brackets and port."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _split_origin(origin: str) -> tuple[str, str]:
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return "", ""
    return parts.scheme, _without_default_port(parts.scheme, parts.netloc)


def _without_default_port(scheme: str, authority: str) -> str:
    host, colon, port = authority.rpartition(":")
    return host if colon and port == _DEFAULT_PORTS.get(scheme) else authority
