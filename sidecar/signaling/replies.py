"""What the sidecar says to one client: the welcome, answers, errors and the reconnect packet, as whole frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from sidecar.rfc3339 import rfc3339
from sidecar.signaling.envelope import Dialect, text_frame
from sidecar.signaling.packets import PacketError
from sidecar.signaling.room import Participant

_encode = msgspec.json.encode


class _Keys(NamedTuple):
    """Our own keys, which the `dyson` dialect spells in snake case."""

    user_id: str = "userId"
    room_id: str = "roomId"
    connection_id: str = "connectionId"
    account_id: str = "accountId"
    joined_at: str = "joinedAt"
    connection_ids: str = "connectionIds"
    ice_servers: str = "iceServers"
    heartbeat_seconds: str = "heartbeatSeconds"
    error_message: str = "errorMessage"
    expires_at: str = "expiresAt"
    reconnect_after_ms: str = "reconnectAfterMs"


_CAMEL = _Keys()
_SNAKE = _Keys(*_Keys._fields)
_KEYS = {Dialect.GUIDE: _CAMEL, Dialect.GUIDE_CLIENT: _CAMEL, Dialect.DYSON: _SNAKE}


class IceServer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of `RTCConfiguration.iceServers` (W3C WebRTC section 4.2.2)."""

    urls: tuple[str, ...]


def welcome(
    dialect: Dialect,
    *,
    account_id: str,
    room_id: str,
    connection_id: str,
    now: float,
    participants: Iterable[Participant],
    ice_servers: Sequence[IceServer],
    heartbeat_seconds: float,
) -> bytes:
    """The first packet of a connection. `participants` are those present beside it."""
    keys = _KEYS[dialect]
    data: dict[str, object] = {
        keys.user_id: account_id,
        keys.room_id: room_id,
        keys.connection_id: connection_id,
        "message": f"Connected to call of #{room_id}.",
        "timestamp": rfc3339(now),
        "participants": [
            {
                "identity": participant.identity.account_id,
                "name": participant.identity.name,
                keys.account_id: participant.identity.account_id,
                "account": msgspec.Raw(participant.identity.info(dialect)),
                keys.joined_at: rfc3339(participant.joined_at),
                keys.connection_ids: participant.connection_ids,
            }
            for participant in participants
        ],
    }
    if ice_servers:
        data[keys.ice_servers] = ice_servers
    data[keys.heartbeat_seconds] = (
        int(heartbeat_seconds) if heartbeat_seconds == int(heartbeat_seconds) else heartbeat_seconds
    )
    return text_frame(_encode({"type": "webrtc", "data": data}))


def error(dialect: Dialect, problem: PacketError) -> bytes:
    keys = _KEYS[dialect]
    data = {"code": problem.code.value}
    if problem.detail is not None:
        data["detail"] = problem.detail
    return text_frame(_encode({"type": "error", keys.error_message: problem.message, "data": data}))


def pong(data: msgspec.Raw | bytes) -> bytes:
    return text_frame(b'{"type":"pong","data":%b}' % bytes(data) if data else b'{"type":"pong"}')


def auth_refreshed(dialect: Dialect, expires_at: float | None) -> bytes:
    """`expiresAt` is left out for a token that never expires."""
    data = {} if expires_at is None else {_KEYS[dialect].expires_at: rfc3339(expires_at)}
    return text_frame(_encode({"type": "auth.refreshed", "data": data}))


def reconnect(dialect: Dialect, *, after_ms: int) -> bytes:
    """The last packet before close code 1012."""
    keys = _KEYS[dialect]
    data = {"message": "This server is restarting, please reconnect.", keys.reconnect_after_ms: after_ms}
    return text_frame(_encode({"type": "webrtc", "data": data}))
