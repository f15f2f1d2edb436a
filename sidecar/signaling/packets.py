"""What clients send, decoded once at the edge into a closed union (docs/protocol.md, "What you send").

Nothing past this module sees a client's JSON but for `Signal.data`, which is passed on byte for byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

import msgspec

from sidecar.guid import canonical_guid

MAX_DEPTH = 64
NO_DATA = msgspec.Raw(b"")
USUAL_TYPES = frozenset({"offer", "answer", "ice-candidate"})
TYPE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""What the type of a signal looks like."""

_ENVELOPES = frozenset({"webrtc.signal", "signaling"})
_OF_THE_SERVER = frozenset({"user-joined", "user-left", "connection-joined", "connection-left"})
_RESERVED = frozenset({"senderaccountid", "senderconnectionid", "senderinfo", "accountid", "account"})
_OUTSIDE_DATA = frozenset({"type", "to", "toConnection"})
# An unterminated string matches to the end, or hostile quotes would cost quadratic time.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class PacketErrorCode(StrEnum):
    """The `code` of an `error` packet."""

    INVALID_JSON = "INVALID_JSON"
    INVALID_MESSAGE = "INVALID_MESSAGE"
    RATE_LIMITED = "RATE_LIMITED"
    TARGET_NOT_IN_ROOM = "TARGET_NOT_IN_ROOM"
    TOKEN_INVALID = "TOKEN_INVALID"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_REVOKED = "TOKEN_REVOKED"
    TOKEN_OF_ANOTHER_ACCOUNT = "TOKEN_OF_ANOTHER_ACCOUNT"
    MEMBER_TIMED_OUT = "MEMBER_TIMED_OUT"


class PacketError(Exception):
    """A packet is refused; its sender gets an `error` packet and stays connected."""

    def __init__(self, code: PacketErrorCode, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail


class Signal(msgspec.Struct, gc=False):
    """To be relayed: to everyone else, to the connections of account `to`, or to the one `to_connection`."""

    type: str
    data: msgspec.Raw = NO_DATA
    to: str | None = None
    to_connection: str | None = msgspec.field(name="toConnection", default=None)


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered to its sender with `pong` and the same data (empty: none)."""

    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class AuthRefresh:
    """A newer token for this connection. Never relayed."""

    token: str


Packet = Signal | Ping | AuthRefresh


class _Token(msgspec.Struct):
    token: str


_message = msgspec.json.Decoder(Signal)  # whatever it turns out to be
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_token = msgspec.json.Decoder(_Token)
_json = msgspec.json.Decoder(msgspec.Raw)
_encode = msgspec.json.encode


def decode(payload: bytes) -> Packet:
    """Decode one message, in any of its three equal shapes.

    `payload` is valid UTF-8: the caller has looked, because what stands inside `data` is not looked at here.

    Raises:
        PacketError: INVALID_JSON or INVALID_MESSAGE.
    """
    # Deleting brackets jumps from one to the next, where counting looks at each byte.
    rest = payload.replace(b"{", b"", MAX_DEPTH + 1).replace(b"[", b"", MAX_DEPTH + 1)
    if len(payload) - len(rest) > MAX_DEPTH and _deeper_than(payload, MAX_DEPTH):
        raise PacketError(PacketErrorCode.INVALID_MESSAGE, f"nested more than {MAX_DEPTH} deep")
    try:
        outer = _message.decode(payload)
    except msgspec.DecodeError as error:
        raise _undecodable(payload, error) from None
    if outer.type in USUAL_TYPES and outer.data and outer.to is None and outer.to_connection is None:
        return outer
    if outer.type not in _ENVELOPES:
        return _packet(payload, outer)
    if not outer.data:
        raise PacketError(PacketErrorCode.INVALID_MESSAGE, f"{outer.type} needs data: an object with a type")
    try:
        inner = _message.decode(outer.data)
    except msgspec.DecodeError as error:
        raise _undecodable(outer.data, error) from None
    if inner.type in _ENVELOPES:
        raise PacketError(PacketErrorCode.INVALID_MESSAGE, f"{inner.type} inside {outer.type}")
    if inner.to is None:
        inner.to = outer.to
    if inner.to_connection is None:
        inner.to_connection = outer.to_connection
    return _packet(outer.data, inner)


def _undecodable(text: bytes | msgspec.Raw, error: msgspec.DecodeError) -> PacketError:
    if isinstance(error, msgspec.ValidationError):
        try:
            _json.decode(text)  # the first thing out of place may not be all
        except msgspec.DecodeError as no_json:
            return _undecodable(text, no_json)
        return PacketError(PacketErrorCode.INVALID_MESSAGE, str(error))
    # msgspec's word for these is misleading where nothing was cut.
    problem = str(error).replace(
        "Input data was truncated", "JSON is empty, cut short, or has half a surrogate pair"
    )
    return PacketError(PacketErrorCode.INVALID_JSON, problem)


def _packet(payload: bytes | msgspec.Raw, message: Signal) -> Packet:
    kind = message.type
    if kind in USUAL_TYPES:
        return _signal(payload, message)
    if not TYPE.fullmatch(kind):
        raise PacketError(
            PacketErrorCode.INVALID_MESSAGE, "type must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"
        )
    if kind == "ping":
        data = _data(payload, message)
        return Ping(data if message.data or bytes(data) != b"{}" else NO_DATA)
    if kind == "auth.refresh":
        try:
            return AuthRefresh(_token.decode(_data(payload, message)).token)
        except msgspec.DecodeError:
            raise PacketError(
                PacketErrorCode.INVALID_MESSAGE, 'auth.refresh needs data {"token": "…"}'
            ) from None
    if kind in _OF_THE_SERVER or kind.lower().startswith("auth."):
        raise PacketError(PacketErrorCode.INVALID_MESSAGE, f"type {kind} is not for clients to send")
    return _signal(payload, message)


def _signal(payload: bytes | msgspec.Raw, message: Signal) -> Signal:
    message.data = _data(payload, message)
    message.to = _target("to", message.to)
    message.to_connection = _target("toConnection", message.to_connection)
    return message


def _target(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    guid = canonical_guid(value)
    if guid is None:
        raise PacketError(PacketErrorCode.INVALID_MESSAGE, f"{name} must be a GUID")
    return guid


def _data(payload: bytes | msgspec.Raw, message: Signal) -> msgspec.Raw:
    """What came as `data`, to the byte; in the flat shape, an object of all other keys that are not reserved."""
    if message.data:
        return message.data
    rest = {
        key: value
        for key, value in _object.decode(payload).items()
        if key not in _OUTSIDE_DATA and key.lower().replace("_", "") not in _RESERVED
    }
    return msgspec.Raw(_encode(rest))


def _deeper_than(payload: bytes, depth: int) -> bool:
    """Whether brackets outside of strings nest deeper than `depth`."""
    brackets = _STRINGS.sub(b"", payload).translate(None, _ALL_BUT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth
