# A test's liberties.
"""What must hold of any bytes as a packet: refused with a `PacketError`, or relayed as JSON every receiver can read."""

from __future__ import annotations

import json

from sidecar.signaling.envelope import Dialect, Envelope, Identity, payload_size
from sidecar.signaling.packets import AuthRefresh, PacketError, Ping, Signal, decode
from sidecar.signaling.presence import Presence
from sidecar.signaling.replies import error, pong

SENDER = Identity(
    account_id="11111111-1111-1111-1111-111111111111", name="n", nick="k", profile=b"{}", updated_at=None
)
_OURS = {
    Dialect.GUIDE: {"senderAccountId", "senderConnectionId", "senderInfo"},
    Dialect.GUIDE_CLIENT: {"SenderAccountId", "SenderConnectionId", "SenderInfo"},
    Dialect.DYSON: {"account_id", "connection_id", "account"},
}
_ALLOWED = {"type", "data", "to", "toConnection", "to_connection"}
_SERVERS = {"user-joined", "user-left", "connection-joined", "connection-left"}


def check(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return  # the connection does not let it through
    try:
        packet = decode(payload)
    except PacketError as problem:
        for dialect in Dialect:
            _read(error(dialect, problem))
        return
    match packet:
        case Ping(data=data):
            assert _read(pong(data))["type"] == "pong"
        case AuthRefresh(token=token):
            assert isinstance(token, str)
        case Signal():
            for dialect in Dialect:
                _check_signal(packet, dialect)


def _check_signal(signal: Signal, dialect: Dialect) -> None:
    envelope = Envelope(
        type=signal.type,
        data=signal.data,
        sender=Presence(connection_id="22222222-2222-2222-2222-222222222222", identity=SENDER, joined_at=1.0),
        to=signal.to,
        to_connection=signal.to_connection,
    )
    data = _read(envelope.frame(dialect))["data"]
    assert data["type"] == signal.type
    assert signal.type not in _SERVERS
    assert not signal.type.lower().startswith("auth.")
    assert set(data) <= _OURS[dialect] | _ALLOWED
    assert SENDER.account_id in {
        data.get("senderAccountId"),
        data.get("SenderAccountId"),
        data.get("account_id"),
    }


def _read(frame: bytes) -> dict:
    """A frame's JSON as the strictest receiver reads it."""
    payload = frame[len(frame) - payload_size(frame) :]

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(payload.decode(), parse_constant=no_constant)
