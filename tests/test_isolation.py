"""Whatever bytes a client sends, no packet ever carries another sender and none crosses rooms."""

from __future__ import annotations

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import guid

WORDS = st.sampled_from(
    ["type", "data", "to", "toConnection", "senderAccountId", "senderInfo", "account_id", "token", "offer",
     "webrtc.signal", "signaling", "auth.refresh", "user-joined", "ping", "VICTIM", "STRANGER", "OWN", "x"]
)  # fmt: skip
LIES = st.recursive(
    WORDS | st.none() | st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.one_of(
    st.fixed_dictionaries({"type": WORDS, "data": LIES}, optional={"to": WORDS, "toConnection": WORDS}),
    st.dictionaries(WORDS, LIES, max_size=5),
    st.fixed_dictionaries({"type": st.sampled_from(["webrtc.signal", "signaling"]), "data": LIES}),
).map(json.dumps)


@settings(max_examples=12, deadline=None)
@given(messages=st.lists(MESSAGES | st.text(max_size=20), min_size=1, max_size=15))
def run_example(check, messages):
    check(messages)


@pytest.fixture(scope="module")
def samples():
    """Lists of messages as hypothesis makes them; each is sent over a real socket."""
    collected: list[list[str]] = []
    run_example(collected.append)
    return collected


async def test_no_bytes_make_a_packet_carry_another_sender_or_cross_rooms(world, samples):
    room = guid()
    victim = await world.join(room)
    attacker = await world.join(room)
    stranger = await world.join(guid())
    await victim.receive_signal("user-joined")
    names = {"VICTIM": victim.account, "STRANGER": stranger.account, "OWN": attacker.connection_id}
    malformed = 0
    for messages in samples:
        for message in messages:
            await attacker.send(
                functools.reduce(lambda text, name: text.replace(*name), names.items(), message)
            )
        mark = guid()
        await attacker.send({"type": "mark", "data": mark})
        while True:
            packet = await victim.receive()
            assert packet["type"] == "webrtc.signal"
            signal = packet["data"]
            assert signal["senderAccountId"] == signal["senderInfo"]["id"] == attacker.account
            assert signal["senderConnectionId"] == attacker.connection_id
            assert not signal["type"].lower().startswith("auth.")
            assert signal["type"] not in {"ping", "user-joined", "user-left"}
            if signal["data"] == mark:
                break
        await stranger.nothing_more()
        malformed += len(messages)
        await attacker.close()  # a fresh one: twenty malformed packets within a minute end a connection
        await victim.receive_signal("user-left")
        attacker = await world.join(room)
        await victim.receive_signal("user-joined")
        names["OWN"] = attacker.connection_id
    assert malformed
