"""The sample client of the guide, as its readers paste it, works with `?dialect=guide-client`."""

from __future__ import annotations

from pathlib import Path

from tests.client.node import run_script
from tests.harness import guid

SAMPLE = Path(__file__).with_name("guide_sample.mjs")


async def test_the_guides_sample_client_calls_and_is_called(sidecar, chat, issuer):
    room, reader, bob = guid(), guid(), guid()
    chat.allow(room, reader, nick="Reader")
    chat.allow(room, bob, nick="Bobby")
    # The sample has no place for a token or a dialect but the end of its URL.
    chat_id = f"{room}?dialect=guide-client&tk={issuer.token(reader)}"
    async with run_script(SAMPLE, chat_id, f"ws://127.0.0.1:{sidecar.port}", reader) as sample:
        assert (await sample.hear(event="server message"))["message"] == f"Connected to call of #{room}."
        other = await sidecar.connect(room, issuer.token(bob))

        await other.send({"type": "offer", "data": {"offer": {"type": "offer", "sdp": "v=0"}}})
        heard = await sample.hear(event="message", type="offer")
        assert heard["data"] == {"offer": {"type": "offer", "sdp": "v=0"}}
        assert heard["senderId"] == bob
        assert heard["senderConnectionId"] == other.connection_id
        assert heard["nick"] == "Bobby"
        assert heard["peers"] == 1

        sample.tell({"type": "answer", "answer": {"type": "answer", "sdp": "v=0"}})
        answer = await other.receive_signal("answer")
        assert answer["data"] == {"answer": {"type": "answer", "sdp": "v=0"}}
        assert answer["senderAccountId"] == reader

        sample.tell({"type": "ice-candidate", "candidate": {"candidate": "candidate:1", "sdpMid": "0"}})
        candidate = await other.receive_signal("ice-candidate")
        assert candidate["data"] == {"candidate": {"candidate": "candidate:1", "sdpMid": "0"}}
        await other.close()
