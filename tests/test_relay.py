"""People in a room exchange signaling: welcome, presence, the three shapes, addressing, order, isolation."""

from __future__ import annotations

from tests.harness import guid


async def test_two_people_in_a_room_see_each_other_and_exchange_signals(sidecar, chat, issuer):
    room, alice, bob = guid(), guid(), guid()
    chat.allow(room, alice, nick="Ally")
    chat.allow(room, bob)
    a = await sidecar.connect(room, issuer.token(alice))
    assert a.welcome["participants"] == []
    b = await sidecar.connect(room, issuer.token(bob))
    joined = await a.receive_signal("user-joined")
    assert joined["senderAccountId"] == bob
    await a.send({"type": "offer", "data": {"sdp": "x"}})
    offer = await b.receive_signal("offer")
    assert offer["data"] == {"sdp": "x"}
    assert offer["senderAccountId"] == alice
    assert offer["senderConnectionId"] == a.connection_id
    assert offer["senderInfo"]["nick"] == "Ally"
    await b.close()
    left = await a.receive_signal("user-left")
    assert left["senderAccountId"] == bob
    await a.nothing_more()
