"""What decodes to what, for any JSON and any bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.signaling.packets import (
    MAX_DEPTH,
    AuthRefresh,
    PacketError,
    PacketErrorCode,
    Ping,
    Signal,
    decode,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)
TYPES = st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True).filter(
    lambda kind: (
        not kind.lower().startswith("auth.")
        and kind not in {"ping", "webrtc.signal", "signaling", "user-joined", "user-left"}
        and kind not in {"connection-joined", "connection-left"}
    )
)
CONTROL = ["auth.refresh", "auth.refreshed", "Auth.Refresh", "AUTH.X", "ping"]


def signal(payload: object) -> Signal:
    packet = decode(json.dumps(payload).encode())
    assert isinstance(packet, Signal)
    return packet


@given(TYPES, JSON)
def test_the_three_shapes_decode_alike(kind, data):
    message = {"type": kind, "data": data}
    expected = (kind, data)
    for shape in (
        message,
        {"type": "webrtc.signal", "data": message},
        {"type": "signaling", "data": message},
    ):
        packet = signal(shape)
        assert (packet.type, json.loads(bytes(packet.data))) == expected


@given(TYPES, st.dictionaries(st.text(st.characters(codec="utf-8")), JSON))
def test_a_flat_object_becomes_data_without_what_is_reserved(kind, keys):
    keys.pop("data", None)
    for name in ("to", "toConnection"):
        keys.pop(name, None)
    packet = signal({**keys, "type": kind})
    reserved = {"senderaccountid", "senderconnectionid", "senderinfo", "accountid", "account"}
    kept = {k: v for k, v in keys.items() if k != "type" and k.lower().replace("_", "") not in reserved}
    assert json.loads(bytes(packet.data)) == kept


@given(st.binary())
def test_no_bytes_raise_anything_but_a_packet_error(payload):
    try:
        payload.decode()
    except UnicodeDecodeError:
        return
    try:
        decode(payload)
    except PacketError as problem:
        assert problem.message


@given(JSON)
def test_no_json_raises_anything_but_a_packet_error(value):
    for payload in (
        value,
        {"type": value},
        {"type": "webrtc.signal", "data": value},
        {"type": "x", "to": value},
    ):
        try:
            decode(json.dumps(payload).encode())
        except PacketError as problem:
            assert problem.message


@given(st.sampled_from(CONTROL), JSON, st.sampled_from(["flat", "message", "enveloped", "twice"]))
def test_control_is_never_a_signal(kind, data, shape):
    message = {"type": kind, "data": data} if shape != "flat" else {"type": kind, "token": data}
    for _ in range({"enveloped": 1, "twice": 2}.get(shape, 0)):
        message = {"type": "webrtc.signal", "data": message, "to": None}
    escaped = json.dumps(message).replace('"type": "a', '"type": "\\u0061').encode()
    for payload in (json.dumps(message).encode(), escaped):
        try:
            assert isinstance(decode(payload), Ping | AuthRefresh)
        except PacketError:
            pass


def nested(depth: int, *, opening: str = "[", closing: str = "]") -> bytes:
    return f'{{"type":"x","data":{opening * depth}{"1" if opening != "[" else ""}{closing * depth}}}'.encode()


@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
def test_depth_is_counted_outside_of_strings(brackets):
    opening, closing = brackets
    decode(nested(MAX_DEPTH - 1, opening=opening, closing=closing))
    with pytest.raises(PacketError, match="deep"):
        decode(nested(MAX_DEPTH, opening=opening, closing=closing))
    decode(b'{"type":"x","data":"' + b"[" * 1000 + b'"}')
    decode(b'{"type":"x","data":"\\"' + b"[{" * 1000 + b'\\\\"}')
    decode(b'{"type":"x","data":[' + b"[],{}," * 1000 + b"0]}")


def test_hostile_quotes_cost_no_more_than_their_length():
    """A quadratic scan of this would take minutes, and the suite with it."""
    with pytest.raises(PacketError):
        decode(b"[" * 65 + b'"' + b'\\"' * 1_000_000)


def test_the_address_is_canonical_and_the_inner_one_counts():
    inner, outer = "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA", "b" * 32
    packet = signal({"type": "webrtc.signal", "to": outer, "data": {"type": "x", "to": inner}})
    assert packet.to == inner.lower()
    packet = signal({"type": "webrtc.signal", "to": outer, "data": {"type": "x"}})
    assert packet.to == "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb"


@pytest.mark.parametrize("payload", [b"", b"  ", b'{"type":"offer"', b'{"type":"\\ud800"}'])
def test_what_is_no_json_for_want_of_something_is_said_so(payload: bytes) -> None:
    with pytest.raises(
        PacketError, match="JSON is empty, cut short, or has half a surrogate pair"
    ) as problem:
        decode(payload)
    assert problem.value.code is PacketErrorCode.INVALID_JSON


@pytest.mark.parametrize(
    "payload", [b"[1,", b'{"type":5', b"1 2", b"0x10", b'"a"b', b'{"a":1}{', b'{"type":"offer","to":5,,}']
)
def test_what_is_no_json_further_on_is_no_json(payload):
    with pytest.raises(PacketError) as problem:
        decode(payload)
    assert problem.value.code is PacketErrorCode.INVALID_JSON
