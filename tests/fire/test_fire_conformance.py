"""RFC 6455 over raw sockets, after the plan of the Autobahn test suite: its sections give this file its order."""

from __future__ import annotations

import contextlib
import json

import pytest

from tests.fire.raw import BINARY, CLOSE, CONT, PING, PONG, TEXT, begin, close, dial, frame
from tests.harness import guid

MAX = 65536  # SIDECAR_MAX_MESSAGE_BYTES


@pytest.fixture
async def joined(world):
    """`async with joined() as peer:` a member's raw connection, its welcome read."""

    @contextlib.asynccontextmanager
    async def join(*extra: str):
        room, account = guid(), guid()
        world.chat.allow(room, account)
        async with dial(world.sidecar) as peer:
            yield await begin(peer, room, world.issuer.token(account), *extra)

    return join


def ping_packet(size: int, fill: str = "x") -> bytes:
    """A packet of exactly `size` bytes that is answered with its data: our echo."""
    empty = len(b'{"type":"ping","data":""}')
    assert size >= empty
    return b'{"type":"ping","data":"%b"}' % (fill * (size - empty)).encode()


async def answers(peer, payload: bytes) -> None:
    assert await peer.packet() == {"type": "pong", "data": json.loads(payload)["data"]}


async def is_alive(peer) -> None:
    peer.say({"type": "ping", "data": "alive"})
    while (await peer.packet()) != {"type": "pong", "data": "alive"}:
        pass


async def fails(peer, code: int) -> str:
    """The server closes with `code` and a reason to read, and then ends the connection."""
    got, reason = await peer.ended()
    assert got == code, reason
    assert reason
    peer.send(close(code))
    assert await peer.gone() == b""
    return reason


# 1 Framing


@pytest.mark.parametrize("size", [26, 125, 126, 127, 128, 65535, MAX])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_messages_of_every_length_encoding_are_read(world, joined, size, opcode):
    payload = ping_packet(size)
    async with joined() as peer:
        peer.send(frame(opcode, payload))
        await answers(peer, payload)


@pytest.mark.parametrize("piece", [1, 7, 997, 4096])
async def test_a_frame_may_come_in_pieces(world, joined, piece):
    payload = ping_packet(300 if piece == 1 else 60_000)
    async with joined() as peer:
        await peer.send_in_pieces(frame(TEXT, payload) + frame(TEXT, payload), piece)
        await answers(peer, payload)
        await answers(peer, payload)


async def test_many_frames_in_one_write_are_all_read_in_order(world, joined):
    async with joined() as peer:
        peer.send(*(frame(TEXT, b'{"type":"ping","data":%d}' % number) for number in range(150)))
        for number in range(150):
            assert (await peer.packet())["data"] == number


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_an_empty_message_is_a_bad_packet_not_a_bad_frame(world, joined, opcode):
    async with joined() as peer:
        peer.send(frame(opcode))
        assert (await peer.packet())["data"]["code"] == "INVALID_JSON"
        await is_alive(peer)


@pytest.mark.parametrize("length_bytes", [2, 8])
async def test_a_longer_length_than_needed_is_read_for_what_it_says(world, joined, length_bytes):
    payload = ping_packet(40)
    async with joined() as peer:
        peer.send(frame(TEXT, payload, length_bytes=length_bytes))
        await answers(peer, payload)


# 2 Pings and pongs


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(0xF0, 0x100)), b"\xfe" * 125])
async def test_a_ping_is_answered_with_its_payload(world, joined, payload):
    async with joined() as peer:
        peer.send(frame(PING, payload))
        got = await peer.frame()
        assert (got.opcode, got.payload, got.fin) == (PONG, payload, True)


async def test_a_ping_in_pieces_is_answered(world, joined):
    async with joined() as peer:
        await peer.send_in_pieces(frame(PING, b"p" * 125), 1)
        assert (await peer.frame()) == (PONG, b"p" * 125, True)


async def test_ten_pings_are_answered_in_order(world, joined):
    async with joined() as peer:
        peer.send(*(frame(PING, b"%d" % number) for number in range(10)))
        assert [(await peer.frame()).payload for _ in range(10)] == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("payload", [b"", b"unsolicited"])
async def test_a_pong_nobody_asked_for_is_passed_over(world, joined, payload):
    async with joined() as peer:
        peer.send(frame(PONG, payload))
        await is_alive(peer)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
async def test_a_control_frame_of_more_than_125_bytes_is_refused(world, joined, opcode):
    async with joined() as peer:
        peer.send(frame(opcode, b"\x03\xe8" + b"x" * 124))
        await fails(peer, 1002)


# 3 Reserved bits, 4 reserved opcodes


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, PING])
async def test_reserved_bits_are_refused(world, joined, rsv, opcode):
    async with joined() as peer:
        peer.send(frame(TEXT, ping_packet(26)), frame(opcode, b"{}", rsv=rsv), frame(PING))
        await answers(peer, ping_packet(26))
        await fails(peer, 1002)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
async def test_reserved_opcodes_are_refused(world, joined, opcode):
    async with joined() as peer:
        peer.send(frame(opcode, b"{}"), frame(PING))
        await fails(peer, 1002)


async def test_no_extension_is_agreed_to(world, joined):
    async with joined("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits") as peer:
        assert b"extensions" not in peer.head.lower()


# 5 Fragmentation


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("cuts", [[13], [0], [1, 2, 3], [40], list(range(1, 40))])
async def test_a_message_may_come_in_fragments(world, joined, opcode, cuts):
    payload = ping_packet(40)
    parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, 40], strict=True)]
    async with joined() as peer:
        for number, part in enumerate(parts):
            peer.send(frame(CONT if number else opcode, part, fin=number == len(parts) - 1))
        await answers(peer, payload)
        peer.send(frame(TEXT, payload))
        await answers(peer, payload)


async def test_control_frames_are_answered_between_fragments(world, joined):
    payload = ping_packet(40)
    async with joined() as peer:
        peer.send(
            frame(TEXT, payload[:9], fin=False),
            frame(PING, b"one"),
            frame(CONT, payload[9:20], fin=False),
            frame(PONG),
            frame(PING, b"two"),
            frame(CONT, payload[20:]),
        )
        assert (await peer.frame()) == (PONG, b"one", True)
        assert (await peer.frame()) == (PONG, b"two", True)
        await answers(peer, payload)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
async def test_a_fragmented_control_frame_is_refused(world, joined, opcode):
    async with joined() as peer:
        peer.send(frame(opcode, b"", fin=False), frame(CONT, b""))
        await fails(peer, 1002)


@pytest.mark.parametrize("fin", [True, False])
async def test_a_continuation_of_nothing_is_refused(world, joined, fin):
    async with joined() as peer:
        peer.send(frame(TEXT, ping_packet(26)), frame(CONT, b"{}", fin=fin))
        await answers(peer, ping_packet(26))
        await fails(peer, 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_new_message_amid_fragments_is_refused(world, joined, opcode):
    async with joined() as peer:
        peer.send(frame(TEXT, b'{"type":', fin=False), frame(opcode, b"{}"))
        await fails(peer, 1002)


async def test_a_close_amid_fragments_is_answered(world, joined):
    async with joined() as peer:
        peer.send(frame(TEXT, b'{"type":', fin=False), close(1001, b"away"))
        assert await peer.ended() == (1001, "away")
        assert await peer.gone() == b""


# 6 UTF-8

UNICODE = "κόσμε \U0001f600 ￿ ퟿ \U0010ffff ﷐ é"
INVALID = {
    "overlong": b"\xc0\xaf",
    "overlong of three": b"\xe0\x80\xaf",
    "overlong of four": b"\xf0\x80\x80\xaf",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "high surrogate": b"\xed\xa0\x80",
    "low surrogate": b"\xed\xbf\xbf",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "lone continuation": b"\x80",
    "0xFE": b"\xfe",
    "cut short": b"\xce",
    "cut short amid four": b"\xf0\x9f\x98",
}


async def test_text_beyond_ascii_is_read_whole_and_cut_anywhere(world, joined):
    payload = json.dumps({"type": "ping", "data": UNICODE}, ensure_ascii=False).encode()
    async with joined() as peer:
        peer.send(frame(TEXT, payload))
        await answers(peer, payload)
        for cut in range(len(payload) - 30, len(payload)):
            peer.send(frame(TEXT, payload[:cut], fin=False), frame(CONT, payload[cut:]))
            await answers(peer, payload)


@pytest.mark.parametrize("bad", INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("fragmented", [False, True])
async def test_text_that_is_not_utf8_is_refused(world, joined, bad, fragmented):
    payload = b'{"type":"offer","data":{"sdp":"%b"}}' % bad
    cut = payload.index(bad) + 1
    async with joined() as peer:
        if fragmented:
            peer.send(frame(TEXT, payload[:cut], fin=False), frame(CONT, payload[cut:]))
        else:
            peer.send(frame(TEXT, payload))
        await fails(peer, 1007)


async def test_a_binary_message_that_is_not_utf8_is_a_bad_packet(world, joined):
    async with joined() as peer:
        peer.send(frame(BINARY, b'{"type":"offer","data":"\xff"}'))
        assert (await peer.packet())["data"]["code"] == "INVALID_JSON"
        await is_alive(peer)


# 7 Close

REASON = "κόσμε".encode()


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
)
async def test_a_close_is_answered_with_its_code_and_the_connection_ends(world, joined, code):
    async with joined() as peer:
        peer.send(close(code, REASON))
        assert await peer.ended() == (code, REASON.decode())
        assert await peer.gone() == b""
        line = await world.sidecar.logged("connection ended", connection=peer.welcome["connectionId"])
        assert (line["code"], line["closed_by"]) == (code, "client")


async def test_a_close_without_a_code_is_answered_without_one(world, joined):
    async with joined() as peer:
        peer.send(close(None))
        assert await peer.frame() == (CLOSE, b"", True)
        assert await peer.gone() == b""
        line = await world.sidecar.logged("connection ended", connection=peer.welcome["connectionId"])
        assert line["code"] == 1005


async def test_a_reason_may_be_123_bytes(world, joined):
    async with joined() as peer:
        peer.send(close(1000, b"r" * 123))
        assert await peer.ended() == (1000, "r" * 123)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
async def test_a_close_with_a_code_that_is_none_is_refused(world, joined, code):
    async with joined() as peer:
        peer.send(close(code))
        await fails(peer, 1002)


async def test_a_close_of_one_byte_is_refused(world, joined):
    async with joined() as peer:
        peer.send(frame(CLOSE, b"\x03"))
        await fails(peer, 1002)


async def test_a_reason_that_is_not_utf8_is_refused(world, joined):
    async with joined() as peer:
        peer.send(close(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"))
        await fails(peer, 1007)


@pytest.mark.parametrize(
    "afterwards",
    [frame(PING), frame(TEXT, b'{"type":"ping"}'), close(1000), frame(3), b"\xff" * 4000],
    ids=["ping", "message", "close", "reserved opcode", "garbage"],
)
async def test_what_follows_a_close_is_not_looked_at(world, joined, afterwards):
    async with joined() as peer:
        peer.send(close(1000), afterwards)
        assert await peer.ended() == (1000, "")
        assert await peer.gone() == b""


# 9 Limits


@pytest.mark.parametrize("length_bytes", [8])
@pytest.mark.parametrize("announced", [MAX + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
async def test_a_message_over_the_limit_is_refused_by_its_head_alone(world, joined, announced, length_bytes):
    async with joined() as peer:
        peer.send(frame(TEXT, b"", length=announced, length_bytes=length_bytes))
        await fails(peer, 1009)


async def test_a_fragmented_message_over_the_limit_is_refused_before_its_end(world, joined):
    async with joined() as peer:
        peer.send(frame(TEXT, b"x" * 40_000, fin=False))
        peer.send(frame(CONT, b"", fin=False, length=MAX - 40_000 + 1))
        await fails(peer, 1009)


async def test_a_fragmented_message_of_just_the_limit_is_read(world, joined):
    payload = ping_packet(MAX)
    async with joined() as peer:
        peer.send(frame(TEXT, payload[:40_000], fin=False), frame(CONT, payload[40_000:]))
        await answers(peer, payload)


async def test_a_close_in_pieces_amid_a_message_of_almost_the_limit_is_answered(world, joined):
    """It is longer than what may still come of the message, and no part of it."""
    said = close(1000, b"left in the middle")
    async with joined() as peer:
        for more in (frame(TEXT, b"x" * (MAX - 2), fin=False), said[:10]):
            peer.send(frame(PING) + more)
            assert (
                await peer.frame()
            ).opcode == PONG  # one segment: what stands behind the ping is read with it
        peer.send(said[10:])
        assert await peer.ended() == (1000, "left in the middle")


async def test_a_message_in_a_thousand_fragments_is_read(world, joined):
    payload = ping_packet(1000)
    async with joined() as peer:
        for number in range(1000):
            peer.send(frame(CONT if number else TEXT, payload[number : number + 1], fin=number == 999))
        await answers(peer, payload)


# 10 Masking


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
async def test_an_unmasked_frame_is_refused(world, joined, opcode):
    async with joined() as peer:
        peer.send(frame(opcode, b"", masked=False))
        await fails(peer, 1002)


async def test_an_unmasked_frame_is_refused_by_its_head_alone_where_more_is_to_come(world, joined):
    async with joined() as peer:
        peer.send(frame(TEXT, b"", masked=False, length=MAX + 1))
        assert (await peer.ended())[0] == 1002


async def test_a_frame_that_comes_with_the_handshake_is_read(world):
    room, account = guid(), guid()
    world.chat.allow(room, account)
    async with dial(world.sidecar) as peer:
        await begin(peer, room, world.issuer.token(account), then=[frame(TEXT, ping_packet(26))])
        await answers(peer, ping_packet(26))
