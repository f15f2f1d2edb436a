"""From the chat service's messages to our own types. Nothing of protobuf goes past this file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from sidecar._proto.dyson.chat.v1 import membership_pb2 as pb
from sidecar.guid import canonical_guid
from sidecar.membership.model import MemberKey, Membership
from sidecar.membership.service import KEYS_AT_A_TIME, Changed, CursorMoved, MaybeChanged, WatchEvent

MAX_TEXT_CHARACTERS = 256
_MAX_ID = 64  # characters of an id in a log line
_NO_PROFILE = b"{}"
_MAX_EXACT_INTEGER = 2.0**53
_FIRST_SECOND = -62_135_596_800.0  # 0001-01-01T00:00:00Z
_LAST_SECOND = 253_402_300_799.0  # 9999-12-31T23:59:59Z
# A Struct takes at most about this many times the bytes of its JSON: a cheap way to see that one is far too big.
_STRUCT_BYTES_PER_JSON_BYTE = 16

Json = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


class WrongAnswerError(Exception):
    """The message is about another room or account than it should be."""


def key_of(message: pb.MembershipKey | pb.Membership) -> MemberKey:
    """Whom the message is about; what is not a GUID becomes empty, which is no one's id."""
    return MemberKey(canonical_guid(message.room_id) or "", canonical_guid(message.account_id) or "")


def membership(message: pb.Membership, key: MemberKey, *, max_profile_bytes: int) -> Membership:
    """`message` as the membership of `key`; a profile over `max_profile_bytes` of JSON (0: no limit) is left out.

    Raises:
        WrongAnswerError: it is another one's.
    """
    if (message.room_id, message.account_id) != key and key_of(message) != key:
        raise WrongAnswerError(f"asked about {_words(key)}, got {_words(message)}")
    return _of_key(message, key, max_profile_bytes)


async def memberships(
    messages: Iterable[pb.Membership], keys: Sequence[MemberKey], *, max_profile_bytes: int
) -> dict[MemberKey, Membership]:
    """The answer about `keys`. The loop has its turn after every `KEYS_AT_A_TIME`.

    Raises:
        WrongAnswerError: something in it was not asked for, or stands in it twice: then what is missing means nothing.
    """
    asked = {key: key for key in keys}  # the answer holds the asker's own strings, not one more copy of them
    found: dict[MemberKey, Membership] = {}
    for number, message in enumerate(messages):
        if number and not number % KEYS_AT_A_TIME:
            await asyncio.sleep(0)
        key = asked.pop(MemberKey(message.room_id, message.account_id), None) or asked.pop(
            key_of(message), None
        )
        if key is None:
            raise WrongAnswerError(f"not asked about, or answered twice: {_words(message)}")
        found[key] = _of_key(message, key, max_profile_bytes)
    return found


def _of_key(message: pb.Membership, key: MemberKey, max_profile_bytes: int) -> Membership:
    """Raises: WrongAnswerError."""
    account = message.account
    account_id = account.id
    if account_id and account_id != key.account_id and canonical_guid(account_id) != key.account_id:
        raise WrongAnswerError(
            f"asked about {_words(key)}, got the names of account {account_id[:_MAX_ID]!r}"
        )
    return Membership(
        key=key,
        role=message.role,
        joined_at=_seconds(message.joined_at) if message.HasField("joined_at") else None,
        leave_at=_seconds(message.leave_at) if message.HasField("leave_at") else None,
        timeout_until=_seconds(message.timeout_until) if message.HasField("timeout_until") else None,
        nick=message.nick[:MAX_TEXT_CHARACTERS],
        account_name=account.name[:MAX_TEXT_CHARACTERS],
        account_nick=account.nick[:MAX_TEXT_CHARACTERS],
        profile=_profile(account.profile, max_profile_bytes) if account.HasField("profile") else _NO_PROFILE,
        updated_at=_seconds(account.updated_at) if account.HasField("updated_at") else None,
    )


def event(message: pb.MembershipEvent, *, max_profile_bytes: int) -> WatchEvent:
    if not message.HasField("key"):
        return CursorMoved(message.cursor)
    key = key_of(message.key)
    if not message.HasField("membership"):
        return Changed(message.cursor, key, None)
    try:
        now = membership(message.membership, key, max_profile_bytes=max_profile_bytes)
    except WrongAnswerError:
        return MaybeChanged(message.cursor, key)
    return Changed(message.cursor, key, now)


def _words(of: MemberKey | pb.Membership) -> str:
    return f"room {of.room_id[:_MAX_ID]!r}, account {of.account_id[:_MAX_ID]!r}"


def _seconds(time: Timestamp) -> float:
    """Seconds since the epoch, within the years 1 to 9999: "for ever" is often the very end of them, or beyond."""
    seconds = time.seconds + time.nanos / 1e9
    if _FIRST_SECOND <= seconds <= _LAST_SECOND:
        return seconds
    return _FIRST_SECOND if seconds < 0 else _LAST_SECOND


def _profile(struct: Struct, max_bytes: int) -> bytes:
    if max_bytes and struct.ByteSize() > max_bytes * _STRUCT_BYTES_PER_JSON_BYTE:
        return _NO_PROFILE
    # Sorted: protobuf keeps no order, and the same profile must not look like a changed one.
    encoded = msgspec.json.encode(_object(struct), order="sorted")
    return encoded if not max_bytes or len(encoded) <= max_bytes else _NO_PROFILE


def _object(struct: Struct) -> dict[str, Json]:
    fields = struct.fields
    members: dict[str, Json] = {}
    for name in fields:
        value = fields[name]
        kind = value.WhichOneof("kind")
        members[name] = (
            value.string_value if kind == "string_value" else _json(value, kind)
        )  # most are strings
    return members


def _json(value: Value, kind: str | None) -> Json:
    match kind:
        case "string_value":
            return value.string_value
        case "number_value":
            return _number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _object(value.struct_value)
        case "list_value":
            return [_json(item, item.WhichOneof("kind")) for item in value.list_value.values]
        case _:
            return None


def _number(number: float) -> int | float:
    """Struct knows only doubles: an integral one was an integer before. JSON has no NaN; msgspec writes null."""
    return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER else number
