"""What the sidecar says of a signal, encoded once per dialect (docs/protocol.md, "What you receive")."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from sidecar.rfc3339 import rfc3339

_encode = msgspec.json.encode


class Dialect(StrEnum):
    """How packets are spelt; one room may mix them."""

    GUIDE = "guide"
    GUIDE_CLIENT = "guide-client"
    DYSON = "dyson"


class Identity(msgspec.Struct, kw_only=True, gc=False):
    """Who a sender is to the others, as the sidecar verified it; one for all of an account's connections in a room."""

    account_id: str
    name: str
    nick: str
    profile: bytes
    """A JSON object."""
    updated_at: float | None
    """Seconds since the epoch."""
    _told: bytes | None = None

    @classmethod
    def told(cls, *, account_id: str, name: str, sender_info: bytes) -> Identity:
        """A sender of another replica; `sender_info` as that replica's `Identity` wrote it."""
        return cls(
            account_id=account_id, name=name, nick="", profile=b"{}", updated_at=None, _told=sender_info
        )

    @property
    def sender_info(self) -> bytes:
        """JSON: id, name, nick, profile, updatedAt, in this order. Written when asked for: most are asked once."""
        if self._told is not None:
            return self._told
        return b'{"id":%b,"name":%b,"nick":%b,"profile":%b,"updatedAt":%b}' % (
            _encode(self.account_id),
            _encode(self.name),
            _encode(self.nick),
            self.profile,
            _encode(None if self.updated_at is None else rfc3339(self.updated_at)),
        )

    def info(self, dialect: Dialect) -> bytes:
        if dialect is not Dialect.DYSON:
            return self.sender_info
        head, _, tail = self.sender_info.rpartition(b'"updatedAt"')
        return head + b'"updated_at"' + tail


# Envelope type, and the keys that differ: one connection, sender's account, sender's connection, who the sender is.
_SPELLING = {
    Dialect.GUIDE: (
        b"webrtc.signal",
        b"toConnection",
        b"senderAccountId",
        b"senderConnectionId",
        b"senderInfo",
    ),
    Dialect.GUIDE_CLIENT: (
        b"signaling",
        b"toConnection",
        b"SenderAccountId",
        b"SenderConnectionId",
        b"SenderInfo",
    ),
    Dialect.DYSON: (b"webrtc.signal", b"to_connection", b"account_id", b"connection_id", b"account"),
}
# What stands before a signal's type, and how a single receiver is named.
_BEGIN = {
    dialect: (b'{"type":"%b","data":{"type":"' % envelope, b',"%b":"%%b"' % to_connection)
    for dialect, (envelope, to_connection, *_) in _SPELLING.items()
}
# What follows a signal's data and addresses.
_STAMP = {
    dialect: b',"%b":"%%b","%b":"%%b","%b":%%b}}' % (account, connection, info)
    for dialect, (_, _, account, connection, info) in _SPELLING.items()
}

Stamps = dict[Dialect, bytes]
"""One sender's stamp by dialect: what ends each of its signals."""


class Envelope(msgspec.Struct, kw_only=True, gc=False):
    """One signal on its way to a room: dialect-free, stamped with the sender that was verified."""

    type: str
    data: msgspec.Raw | bytes
    sender: Identity
    sender_connection: str
    to: str | None = None
    to_connection: str | None = None
    received_at: float = 0.0
    """On the clock of the loop, for `relay_duration_seconds`; 0 for what the sidecar itself has to say."""
    stamps: Stamps | None = None
    """Where the sender's stamps are kept from one signal to the next; None: nowhere."""
    _frames: dict[Dialect, bytes] = {}

    def frame(self, dialect: Dialect) -> bytes:
        """The whole WebSocket frame for a receiver of `dialect`, made when first asked for."""
        frame = self._frames.get(dialect)
        return self.encode(dialect) if frame is None else frame

    def encode(self, dialect: Dialect) -> bytes:
        """Make the frame for receivers of `dialect` now."""
        end = None if self.stamps is None else self.stamps.get(dialect)
        if end is None:
            end = stamp(dialect, self.sender, self.sender_connection)
            if self.stamps is not None:
                self.stamps[dialect] = end
        begin, to_connection = _BEGIN[dialect]
        to = b"" if self.to is None else b',"to":"%b"' % self.to.encode()
        if self.to_connection is not None:
            to += to_connection % self.to_connection.encode()
        packet = b"".join((begin, self.type.encode(), b'","data":', self.data, to, end))
        frame = self._frames[dialect] = text_frame(packet)
        return frame


def stamp(dialect: Dialect, sender: Identity, connection: str) -> bytes:
    """What the sidecar verified of a sender, and the end of the packet."""
    return _STAMP[dialect] % (sender.account_id.encode(), connection.encode(), sender.info(dialect))


def text_frame(payload: bytes) -> bytes:
    """An unmasked, final text frame (RFC 6455 section 5.2): what a server sends."""
    size = len(payload)
    if size < 126:  # noqa: PLR2004 - the RFC's
        return b"\x81%c%b" % (size, payload)
    if size < 65536:  # noqa: PLR2004
        return b"\x81\x7e" + size.to_bytes(2) + payload
    return b"\x81\x7f" + size.to_bytes(8) + payload


def payload_size(frame: bytes) -> int:
    """The payload bytes of a frame `text_frame` made."""
    size = len(frame)
    return size - (2 if frame[1] < 126 else 4 if frame[1] == 126 else 10)  # noqa: PLR2004
