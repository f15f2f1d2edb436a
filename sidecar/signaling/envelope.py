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


class Identity:
    """Who a sender is to the others, as the sidecar verified it; one for all of an account's connections in a room."""

    __slots__ = ("account_id", "name", "sender_info")

    def __init__(
        self, *, account_id: str, name: str, nick: str, profile: bytes, updated_at: float | None
    ) -> None:
        self.account_id = account_id
        self.name = name
        self.sender_info = b'{"id":%b,"name":%b,"nick":%b,"profile":%b,"updatedAt":%b}' % (
            _encode(account_id),
            _encode(name),
            _encode(nick),
            profile,
            _encode(None if updated_at is None else rfc3339(updated_at)),
        )
        """JSON: id, name, nick, profile, updatedAt, in this order."""

    @classmethod
    def told(cls, *, account_id: str, name: str, sender_info: bytes) -> Identity:
        """A sender of another replica; `sender_info` as that replica's `Identity` wrote it."""
        identity = cls.__new__(cls)
        identity.account_id = account_id
        identity.name = name
        identity.sender_info = sender_info
        return identity

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
# What stands before each part of a signal, in the order of `Envelope.frame`.
_BEFORE = {
    dialect: (
        b'{"type":"%b","data":{"type":"' % envelope,
        b',"%b":"' % to_connection,
        b',"%b":"' % account,
        b'","%b":"' % connection,
        b'","%b":' % info,
    )
    for dialect, (envelope, to_connection, account, connection, info) in _SPELLING.items()
}


class Envelope:
    """One signal on its way to a room: dialect-free, stamped with the sender that was verified."""

    __slots__ = (
        "_frames",
        "data",
        "received_at",
        "sender",
        "sender_connection",
        "to",
        "to_connection",
        "type",
    )

    def __init__(
        self,
        *,
        type: str,  # noqa: A002 - the wire's word
        data: msgspec.Raw | bytes,
        sender: Identity,
        sender_connection: str,
        to: str | None = None,
        to_connection: str | None = None,
        received_at: float = 0.0,
    ) -> None:
        self.type = type
        self.data = data
        self.sender = sender
        self.sender_connection = sender_connection
        self.to = to
        self.to_connection = to_connection
        self.received_at = received_at
        """On the clock of the loop, for `relay_duration_seconds`; 0 for what the sidecar itself has to say."""
        self._frames: dict[Dialect, bytes] = {}

    def frame(self, dialect: Dialect) -> bytes:
        """The whole WebSocket frame for a receiver of `dialect`, made when first asked for."""
        frame = self._frames.get(dialect)
        if frame is None:
            before_type, before_to_connection, before_account, before_connection, before_info = _BEFORE[
                dialect
            ]
            parts = [before_type, self.type.encode(), b'","data":', self.data]
            if self.to is not None:
                parts += (b',"to":"', self.to.encode(), b'"')
            if self.to_connection is not None:
                parts += (before_to_connection, self.to_connection.encode(), b'"')
            parts += (
                before_account,
                self.sender.account_id.encode(),
                before_connection,
                self.sender_connection.encode(),
                before_info,
                self.sender.info(dialect),
                b"}}",
            )
            frame = self._frames[dialect] = text_frame(b"".join(parts))
        return frame


def text_frame(payload: bytes) -> bytes:
    """An unmasked, final text frame (RFC 6455 section 5.2): what a server sends."""
    size = len(payload)
    if size < 126:  # noqa: PLR2004 - the RFC's
        return b"\x81%c%b" % (size, payload)
    if size < 65536:  # noqa: PLR2004
        return b"\x81\x7e%b%b" % (size.to_bytes(2), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8), payload)


def payload_size(frame: bytes) -> int:
    """The payload bytes of a frame `text_frame` made."""
    size = len(frame)
    return size - (2 if frame[1] < 126 else 4 if frame[1] == 126 else 10)  # noqa: PLR2004
