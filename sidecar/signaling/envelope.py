"""What the sidecar says of a signal, encoded once per dialect (docs/protocol.md, "What you receive")."""

from __future__ import annotations

from enum import StrEnum
from struct import Struct
from typing import TYPE_CHECKING, Final

import msgspec

from sidecar.rfc3339 import rfc3339
from sidecar.signaling.packets import USUAL_TYPES

if TYPE_CHECKING:
    from sidecar.signaling.presence import Presence

_encode = msgspec.json.encode
_middle_head = Struct("!BBH").pack
_long_head = Struct("!BBQ").pack


class Dialect(StrEnum):
    """How packets are spelt; one room may mix them."""

    GUIDE = "guide"
    GUIDE_CLIENT = "guide-client"
    DYSON = "dyson"


class _SenderInfo(msgspec.Struct, kw_only=True, gc=False, rename="camel"):
    id: str
    name: str
    nick: str
    profile: msgspec.Raw
    updated_at: str | None


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
        return _encode(
            _SenderInfo(
                id=self.account_id,
                name=self.name,
                nick=self.nick,
                profile=msgspec.Raw(self.profile),
                updated_at=None if self.updated_at is None else rfc3339(self.updated_at),
            )
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
# What stands before a signal's data, but for its type.
_BEGIN = {
    dialect: b'{"type":"%b","data":{"type":"%%b","data":' % envelope
    for dialect, (envelope, *_) in _SPELLING.items()
}
_USUAL_BEGIN = {
    dialect: {usual: begin % usual.encode() for usual in USUAL_TYPES} for dialect, begin in _BEGIN.items()
}
# How a single receiver is named.
_TO_CONNECTION = {
    dialect: b',"%b":"%%b"' % to_connection for dialect, (_, to_connection, *_) in _SPELLING.items()
}
# What follows a signal's data and addresses.
_STAMP = {
    dialect: b',"%b":"%%b","%b":"%%b","%b":%%b}}' % (account, connection, info)
    for dialect, (_, _, account, connection, info) in _SPELLING.items()
}

_PLACE = {dialect: place for place, dialect in enumerate(Dialect)}
Stamps = tuple[bytes | None, ...]
"""One sender's stamp, what ends each of its signals, for each `Dialect` in order; None: not made yet."""
NO_STAMPS: Final[Stamps] = (None,) * len(Dialect)


class Envelope(msgspec.Struct, kw_only=True, gc=False):
    """One signal on its way to a room: dialect-free, stamped with the sender that was verified.

    The garbage collector does not see it: a room holds it until the end of the tick and lets it go then.
    """

    type: str
    data: msgspec.Raw | bytes
    sender: Presence
    to: str | None = None
    to_connection: str | None = None
    received_at: float = 0.0
    """On the clock of the loop, for `relay_duration_seconds`; 0 for what the sidecar itself has to say."""
    _frames: dict[Dialect, bytes] | None = None

    def frame(self, dialect: Dialect) -> bytes:
        """The whole WebSocket frame for receivers of `dialect`, made when first asked for and kept for the others."""
        frames = self._frames
        if frames is None:
            frames = self._frames = {}
        frame = frames.get(dialect)
        if frame is None:
            frame, _ = self.encode(dialect)
            frames[dialect] = frame
        return frame

    def keep(self, dialect: Dialect, frame: bytes) -> None:
        """The frame was made already."""
        if self._frames is None:
            self._frames = {}
        self._frames[dialect] = frame

    def encode(self, dialect: Dialect) -> tuple[bytes, int]:
        """Make the frame; how many of its bytes are payload."""
        sender = self.sender
        end = sender.stamps[_PLACE[dialect]]
        if end is None:
            end = stamp(dialect, sender.identity, sender.connection_id)
            if self.received_at:  # who only came and goes would keep its stamp for nothing
                sender.stamps = with_stamp(sender.stamps, dialect, end)
        begin = _USUAL_BEGIN[dialect].get(self.type) or _BEGIN[dialect] % self.type.encode()
        if self.to_connection is not None:
            end = _TO_CONNECTION[dialect] % self.to_connection.encode() + end
        if self.to is not None:
            end = b',"to":"%b"%b' % (self.to.encode(), end)
        size = len(begin) + len(self.data) + len(end)
        return b"".join((_head(size), begin, self.data, end)), size


def stamp(dialect: Dialect, sender: Identity, connection: str) -> bytes:
    """What the sidecar verified of a sender, and the end of the packet."""
    return _STAMP[dialect] % (sender.account_id.encode(), connection.encode(), sender.info(dialect))


def with_stamp(stamps: Stamps, dialect: Dialect, made: bytes) -> Stamps:
    """`stamps` and the one that was `made` for `dialect`."""
    place = _PLACE[dialect]
    return (*stamps[:place], made, *stamps[place + 1 :])


def text_frame(payload: bytes) -> bytes:
    """An unmasked, final text frame (RFC 6455 section 5.2): what a server sends."""
    return _head(len(payload)) + payload


def _head(size: int) -> bytes:
    if size < 126:  # noqa: PLR2004 - the RFC's
        return b"\x81%c" % size
    return _middle_head(0x81, 126, size) if size < 65536 else _long_head(0x81, 127, size)  # noqa: PLR2004


def payload_size(frame: bytes) -> int:
    """The payload bytes of a frame `text_frame` made."""
    size = len(frame)
    return size - 4 if 128 < size < 65546 else size - (2 if size < 128 else 10)  # noqa: PLR2004 - as in _head
