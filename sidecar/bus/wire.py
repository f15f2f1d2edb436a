"""What replicas say to each other: one version byte, then one message of a closed union in MessagePack.

A message is dialect-free and encoded once, however many replicas read it and however often it is sent again. What
cannot be read is refused here, so that nothing past this module sees bytes of another's making: a signal's data is
JSON in UTF-8, a sender is rebuilt from parts, ids are canonical GUIDs. docs/scaling.md describes the protocol.
"""

from __future__ import annotations

import msgspec

from sidecar.guid import canonical_guid
from sidecar.signaling.envelope import Envelope, Identity
from sidecar.signaling.packets import TYPE, USUAL_TYPES
from sidecar.signaling.presence import Presence

VERSION = 1
MAX_ORIGIN_CHARACTERS = 64

_AFTER_YEAR_9999 = 253_402_300_800
_VERSION_BYTE = bytes((VERSION,))


class Unreadable(Exception):
    """A message is not one of ours, or of a release that says it otherwise; `reason` is a metric's label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Message(msgspec.Struct, array_like=True, tag_field="kind", gc=False):
    origin: str
    """The replica that says it. Fields are only ever added at the end: an older release passes over them."""


class _Entry(_Message):
    """Something that happened in a room on its origin: entry number `seq` since the origin opened it at `epoch`."""

    room: str
    epoch: int
    seq: int
    connection: str


class Joined(_Entry, tag=1):
    """A connection is in the room; again for a connection already there: its account's names changed."""

    account: str
    name: str
    info: bytes
    joined_at: float


class Left(_Entry, tag=2):
    """A connection is no longer in the room."""


class Said(_Entry, tag=3):
    """A connection said something. Who that is, receivers know from its `Joined`: it is not said again."""

    type: str
    data: bytes
    to: str | None
    to_connection: str | None


class Mark(_Message, tag=4):
    """What was said so far ends at `seq`: whoever has less has lost something."""

    room: str
    epoch: int
    seq: int
    heard: dict[str, tuple[int, int]] = {}
    """To a `Hello`: the epoch and seq of others, where they are beyond what the asker has."""


class Hello(_Message, tag=5):
    """A `Mark`, and a question to everyone with the room open: what happened on your side after `have`?"""

    room: str
    epoch: int
    seq: int
    have: dict[str, tuple[int, int]]
    """By origin: the epoch and seq up to which the asker knows it."""


class Ask(_Message, tag=6):
    """A question to one replica: what happened in these rooms after (room, epoch, seq)? 0, 0: nothing is known."""

    rooms: list[tuple[str, int, int]]
    checking: bool = False
    """Most likely nothing did: about what did, a `Mark` will do, and about the rest no answer."""


class Here(msgspec.Struct, array_like=True, gc=False):
    """One connection in a `State`."""

    connection: str
    account: str
    name: str
    info: bytes
    joined_at: float


class State(_Message, tag=7):
    """Everyone of the origin in a room after entry `seq`, in one or more parts, in order."""

    room: str
    epoch: int
    seq: int
    part: int
    last: bool
    here: list[Here]
    others: list[str]
    """Replicas that have people in the room too, as the origin knows it."""
    heard: dict[str, tuple[int, int]] = {}
    """As in a `Mark`."""


class Beat(_Message, tag=8):
    """The origin is alive. Numbered from 1, so that a lost one shows; `leaving`: it was the last one."""

    number: int
    leaving: bool


Entry = Joined | Left | Said
Message = Joined | Left | Said | Mark | Hello | Ask | State | Beat


class _SenderInfo(msgspec.Struct, forbid_unknown_fields=True):
    """`senderInfo` in the order `Identity` writes it."""

    id: str
    name: str
    nick: str
    profile: msgspec.Raw
    updatedAt: str | None  # noqa: N815 - the packets' spelling


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_json = msgspec.json.Decoder(msgspec.Raw)
_sender_info = msgspec.json.Decoder(_SenderInfo)


def encode(message: Message) -> bytes:
    return _VERSION_BYTE + _encoder.encode(message)


def decode(payload: bytes) -> Message:
    """Read one message.

    Raises:
        Unreadable: with reason `version` or `malformed`.
    """
    if not payload.startswith(_VERSION_BYTE):
        raise Unreadable("version" if payload[:1] else "malformed")
    try:
        message: Message = _decoder.decode(memoryview(payload)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("malformed") from None
    if not 0 < len(message.origin) <= MAX_ORIGIN_CHARACTERS:
        raise Unreadable("malformed")
    if isinstance(message, Said):
        _check_signal(message)
    return message


def _check_signal(said: Said) -> None:
    """What a receiver's packet is made of must be what this replica itself would have let through."""
    if said.type not in USUAL_TYPES and not TYPE.fullmatch(said.type):
        raise Unreadable("malformed")
    for guid in (said.to, said.to_connection):
        if guid is not None and canonical_guid(guid) != guid:
            raise Unreadable("malformed")
    if not _is_json(said.data):
        raise Unreadable("malformed")


def _is_json(data: bytes | msgspec.Raw) -> bool:
    try:
        _json.decode(data)
        if not bytes(data).isascii():
            bytes(data).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def joined(presence: Presence, *, origin: str, room: str, epoch: int, seq: int) -> Joined:
    identity = presence.identity
    return Joined(
        origin,
        room,
        epoch,
        seq,
        presence.connection_id,
        identity.account_id,
        identity.name,
        identity.sender_info,
        presence.joined_at,
    )


def here(presence: Presence) -> Here:
    identity = presence.identity
    return Here(
        presence.connection_id, identity.account_id, identity.name, identity.sender_info, presence.joined_at
    )


def said(envelope: Envelope, *, origin: str, room: str, epoch: int, seq: int) -> Said:
    return Said(
        origin,
        room,
        epoch,
        seq,
        envelope.sender.connection_id,
        envelope.type,
        bytes(envelope.data),
        envelope.to,
        envelope.to_connection,
    )


def presence(told: Joined | Here) -> Presence:
    """The connection a replica told of.

    Raises:
        Unreadable: `malformed`: an id is no GUID, or the sender's info is not about that account.
    """
    if canonical_guid(told.connection) != told.connection or canonical_guid(told.account) != told.account:
        raise Unreadable("malformed")
    try:
        told.info.decode()
        info = _sender_info.decode(told.info)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("malformed") from None
    if info.id != told.account or not bytes(info.profile).startswith(b"{"):
        raise Unreadable("malformed")
    if not 0 <= told.joined_at < _AFTER_YEAR_9999:
        raise Unreadable("malformed")
    identity = Identity.told(account_id=told.account, name=told.name, sender_info=msgspec.json.encode(info))
    return Presence(connection_id=told.connection, identity=identity, joined_at=told.joined_at)
