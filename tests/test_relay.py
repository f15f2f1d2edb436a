"""People in a room exchange signaling: welcome, presence, the three shapes, addressing, order, errors, dialects."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from sidecar.transport.connection import MAX_TOKENS
from tests.harness import guid

NOBODY = "00000000-0000-4000-8000-000000000000"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def pair(world, **options):
    room = guid()
    a = await world.join(room, **options)
    b = await world.join(room)
    await a.receive_signal("user-joined")
    return room, a, b


async def test_the_welcome_says_who_where_and_who_else(world):
    room = guid()
    a = await world.join(room, nick="Ally", account_name="alice", profile={"bio": "hi", "n": 5})
    welcome = a.welcome
    assert set(welcome) == {
        "userId", "roomId", "connectionId", "message", "timestamp", "participants", "heartbeatSeconds",
    }  # fmt: skip
    assert (welcome["userId"], welcome["roomId"]) == (a.account, room)
    assert welcome["message"] == f"Connected to call of #{room}."
    assert RFC3339.fullmatch(welcome["timestamp"])
    assert welcome["participants"] == []
    b = await world.join(room)
    (participant,) = b.welcome["participants"]
    assert RFC3339.fullmatch(participant.pop("joinedAt"))
    account = participant.pop("account")
    assert participant == {
        "identity": a.account,
        "name": "alice",
        "accountId": a.account,
        "connectionIds": [a.connection_id],
    }
    assert RFC3339.fullmatch(account.pop("updatedAt"))
    assert account == {"id": a.account, "name": "alice", "nick": "Ally", "profile": {"bio": "hi", "n": 5}}
    await a.close()
    await b.close()


async def test_the_joiner_is_among_the_participants_only_with_other_devices(world):
    room, account = guid(), guid()
    first = await world.join(room, account)
    second = await world.join(room, account)
    (participant,) = second.welcome["participants"]
    assert participant["identity"] == account
    assert participant["connectionIds"] == [first.connection_id]


async def test_stun_servers_are_named_in_the_welcome(start, chat, issuer):
    async with start(stun_urls="stun:stun.example.org:3478,stun:stun2.example.org") as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        client = await sidecar.connect(room, issuer.token(account))
        assert client.welcome["iceServers"] == [
            {"urls": ["stun:stun.example.org:3478", "stun:stun2.example.org"]}
        ]


async def test_presence_counts_devices_and_tells_everyone_else(world):
    room = guid()
    watcher = await world.join(room)
    first = await world.join(room)
    joined = await watcher.receive_signal("user-joined")
    assert joined == {
        "type": "user-joined",
        "data": {},
        "senderAccountId": first.account,
        "senderConnectionId": first.connection_id,
        "senderInfo": joined["senderInfo"],
    }
    second = await world.join(room, first.account)
    for client in (watcher, first):
        assert (await client.receive_signal("connection-joined"))[
            "senderConnectionId"
        ] == second.connection_id
    await first.close()
    for client in (watcher, second):
        assert (await client.receive_signal("connection-left"))["senderConnectionId"] == first.connection_id
    await second.close()
    assert (await watcher.receive_signal("user-left"))["senderAccountId"] == first.account
    await watcher.nothing_more()


@pytest.mark.parametrize(
    "packet",
    [
        {"type": "offer", "offer": {"sdp": "v=0", "n": 1}},
        {"type": "offer", "data": {"offer": {"sdp": "v=0", "n": 1}}, "ignored": True},
        {"type": "webrtc.signal", "data": {"type": "offer", "offer": {"sdp": "v=0", "n": 1}}},
        {"type": "webrtc.signal", "data": {"type": "offer", "data": {"offer": {"sdp": "v=0", "n": 1}}}},
        {"type": "signaling", "data": {"type": "offer", "data": {"offer": {"sdp": "v=0", "n": 1}}}},
    ],
)
@pytest.mark.parametrize("binary", [False, True])
async def test_the_three_shapes_are_equal_in_text_and_binary_frames(world, packet, binary):
    _, a, b = await pair(world)
    text = json.dumps(packet)
    await a.send(text.encode() if binary else text)
    signal = await b.receive()
    info = signal["data"].pop("senderInfo")
    assert info["id"] == a.account
    assert signal == {
        "type": "webrtc.signal",
        "data": {
            "type": "offer",
            "data": {"offer": {"sdp": "v=0", "n": 1}},
            "senderAccountId": a.account,
            "senderConnectionId": a.connection_id,
        },
    }


async def test_data_is_passed_on_byte_for_byte(world):
    _, a, b = await pair(world)
    data = '{ "b":1.0,"a" : [1e3,"\\u00e9é\\n"],"b":2, "account":{"x":null} }'
    await a.ws.send('{"data":' + data + ',"type":"x-y.z:1"}')
    received = await b.ws.recv()
    assert f'"data":{data},' in received


@pytest.mark.parametrize("data", ["null", "0", '"text"', "[]", "{}", "false"])
async def test_data_may_be_any_json(world, data):
    _, a, b = await pair(world)
    await a.ws.send(f'{{"type":"offer","data":{data},"offer":1}}')
    assert (await b.receive_signal("offer"))["data"] == json.loads(data)


async def test_what_only_the_server_may_say_is_dropped_from_what_clients_claim(world):
    _, a, b = await pair(world)
    names = "senderAccountId SenderAccountId sender_account_id senderConnectionId SENDERINFO"
    lies = dict.fromkeys([*names.split(), "accountId", "account_id", "Account"], "lie")
    await a.send({"type": "offer", **lies, "sdp": 1})
    first = await b.receive_signal("offer")
    assert first["data"] == {"sdp": 1}
    await a.send({"type": "webrtc.signal", **lies, "data": {"type": "offer", **lies, "sdp": 2}})
    second = await b.receive_signal("offer")
    assert second["data"] == {"sdp": 2}
    await a.send({"type": "offer", **lies, "data": lies})
    third = await b.receive_signal("offer")
    assert third["data"] == lies
    for signal in (first, second, third):
        assert signal["senderAccountId"] == signal["senderInfo"]["id"] == a.account
        assert "lie" not in json.dumps({**signal, "data": None})


async def test_a_broadcast_reaches_the_senders_other_devices_but_not_the_sender(world):
    room, a, b = await pair(world)
    other = await world.join(room, a.account)
    await a.receive_signal("connection-joined")
    await b.receive_signal("connection-joined")
    await a.send({"type": "offer", "data": 1, "to": None})
    assert (await other.receive_signal("offer"))["senderConnectionId"] == a.connection_id
    await b.receive_signal("offer")
    await a.nothing_more()


async def test_to_reaches_all_devices_of_that_account_alone(world):
    room, a, b = await pair(world)
    b2 = await world.join(room, b.account)
    c = await world.join(room)
    for client in (a, b):
        await client.receive_signal("connection-joined")
    for client in (a, b, b2):
        await client.receive_signal("user-joined")
    await a.send({"type": "webrtc.signal", "to": b.account.upper(), "data": {"type": "offer", "data": 1}})
    for client in (b, b2):
        assert (await client.receive_signal("offer"))["to"] == b.account
    await a.send({"type": "answer", "data": 2, "to": b.account, "toConnection": b2.connection_id})
    answer = await b2.receive_signal("answer")
    assert (answer["to"], answer["toConnection"]) == (b.account, b2.connection_id)
    await a.send({"type": "answer", "data": 3, "toConnection": c.connection_id})
    answer = await c.receive_signal("answer")
    assert "to" not in answer
    assert answer["toConnection"] == c.connection_id
    for client in (a, b, b2, c):
        await client.nothing_more()


async def test_to_ones_own_account_reaches_the_other_devices(world):
    room, a, b = await pair(world)
    a2 = await world.join(room, a.account)
    await a.receive_signal("connection-joined")
    await b.receive_signal("connection-joined")
    await a.send({"type": "x", "data": 1, "to": a.account})
    await a2.receive_signal("x")
    for client in (a, b):
        await client.nothing_more()


@pytest.mark.parametrize(
    "address", ["to", "toConnection", "oneself", "own connection", "another's connection"]
)
async def test_an_address_with_nobody_there_is_an_error_to_the_sender(world, address):
    _, a, b = await pair(world)
    where = {
        "to": {"to": guid()},
        "toConnection": {"toConnection": guid()},
        "oneself": {"to": a.account},
        "own connection": {"toConnection": a.connection_id},
        "another's connection": {"to": a.account, "toConnection": b.connection_id},
    }[address]
    await a.send({"type": "offer", "data": 1, **where})
    error = await a.receive()
    assert error["type"] == "error"
    assert error["data"]["code"] == "TARGET_NOT_IN_ROOM"
    await b.nothing_more()


async def test_a_member_of_another_room_cannot_be_addressed(world):
    _, a, b = await pair(world)
    stranger = await world.join(guid())
    for where in ({"to": stranger.account}, {"toConnection": stranger.connection_id}):
        await a.send({"type": "offer", "data": 1, **where})
        assert (await a.receive())["data"]["code"] == "TARGET_NOT_IN_ROOM"
    await a.send({"type": "offer", "data": "for all"})
    await b.receive_signal("offer")
    await stranger.nothing_more()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ("nonsense", "INVALID_JSON"),
        (b"\xff\xfe", "INVALID_JSON"),
        ('{"type":"offer","data":{"a":1,}}', "INVALID_JSON"),
        ("[]", "INVALID_MESSAGE"),
        ('"offer"', "INVALID_MESSAGE"),
        ("{}", "INVALID_MESSAGE"),
        ('{"type":7}', "INVALID_MESSAGE"),
        ('{"type":""}', "INVALID_MESSAGE"),
        ('{"type":"' + "x" * 65 + '"}', "INVALID_MESSAGE"),
        ('{"type":"a b"}', "INVALID_MESSAGE"),
        ('{"type":"offer","to":"bob"}', "INVALID_MESSAGE"),
        ('{"type":"offer","to":5}', "INVALID_MESSAGE"),
        (f'{{"type":"webrtc.signal","to":"{NOBODY}","data":{{"type":"x","to":""}}}}', "INVALID_MESSAGE"),
        ('{"type":"offer","toConnection":"1"}', "INVALID_MESSAGE"),
        ('{"type":"webrtc.signal"}', "INVALID_MESSAGE"),
        ('{"type":"webrtc.signal","data":[]}', "INVALID_MESSAGE"),
        ('{"type":"user-joined"}', "INVALID_MESSAGE"),
        ('{"type":"webrtc.signal","data":{"type":"user-left"}}', "INVALID_MESSAGE"),
        ('{"type":"connection-left","data":{}}', "INVALID_MESSAGE"),
        ('{"type":"auth.login"}', "INVALID_MESSAGE"),
        ('{"type":"AUTH.refresh","data":{"token":"x"}}', "INVALID_MESSAGE"),
        ('{"type":"auth.refresh"}', "INVALID_MESSAGE"),
        ('{"type":"x","data":' + "[" * 64 + "]" * 64 + "}", "INVALID_MESSAGE"),
    ],
)
async def test_a_bad_packet_is_told_to_its_sender_who_stays_connected(world, message, code):
    _, a, b = await pair(world)
    await a.ws.send(message)
    error = await a.receive()
    assert error["type"] == "error"
    assert error["data"]["code"] == code
    assert error["errorMessage"]
    await a.nothing_more()
    await b.nothing_more()


async def test_sixty_four_levels_are_not_too_deep(world):
    _, a, b = await pair(world)
    await a.ws.send('{"type":"x","data":' + "[" * 63 + "]" * 63 + "}")
    await b.receive_signal("x")


@pytest.mark.parametrize("shape", ["flat", "message", "enveloped", "enveloped flat"])
async def test_a_ping_is_answered_with_its_data_and_never_relayed(world, shape):
    _, a, b = await pair(world)
    data = {"at": 12.50}
    await a.send(
        {
            "flat": {"type": "ping", "at": 12.50},
            "message": {"type": "ping", "data": data},
            "enveloped": {"type": "webrtc.signal", "data": {"type": "ping", "data": data}},
            "enveloped flat": {"type": "signaling", "data": {"type": "ping", "at": 12.50}},
        }[shape]
    )
    assert await a.receive() == {"type": "pong", "data": data}
    await b.nothing_more()


async def test_a_bare_ping_gets_a_bare_pong(world):
    client = await world.join(guid())
    await client.send({"type": "ping"})
    assert await client.receive() == {"type": "pong"}


@pytest.mark.parametrize("shape", ["flat", "message", "enveloped", "nested twice"])
async def test_a_token_in_a_packet_is_never_relayed(world, shape):
    _, a, b = await pair(world)
    token = world.issuer.token(a.account, ttl_seconds=600)
    message = {"type": "auth.refresh", "data": {"token": token}}
    await a.send(
        {
            "flat": {"type": "auth.refresh", "token": token},
            "message": message,
            "enveloped": {"type": "webrtc.signal", "data": message, "to": b.account},
            "nested twice": {"type": "webrtc.signal", "data": {"type": "webrtc.signal", "data": message}},
        }[shape]
    )
    answer = await a.receive()
    if shape == "nested twice":
        assert answer["data"]["code"] == "INVALID_MESSAGE"
    else:
        assert answer["type"] == "auth.refreshed"
        assert RFC3339.fullmatch(answer["data"]["expiresAt"])
    await b.nothing_more()


async def test_a_token_that_will_not_do_is_an_error_and_the_connection_stays(world):
    _, a, b = await pair(world)
    for token, code in (
        ("x.y.z", "TOKEN_INVALID"),
        (world.issuer.token(a.account, ttl_seconds=-120), "TOKEN_EXPIRED"),
        (world.issuer.token(guid()), "TOKEN_OF_ANOTHER_ACCOUNT"),
        (world.issuer.token(a.account, bot=True), "TOKEN_INVALID"),
    ):
        await a.send({"type": "auth.refresh", "data": {"token": token}})
        error = await a.receive()
        assert error["data"]["code"] == code
        assert token not in json.dumps(error)
    await a.send({"type": "offer", "data": 1})
    await b.receive_signal("offer")


async def test_refreshes_that_do_not_wait_for_each_other_are_answered_in_turn(world):
    client = await world.join(guid())
    good, bad = world.issuer.token(client.account, ttl_seconds=600), world.issuer.token(guid())
    for token in (good, bad, good):
        await client.send({"type": "auth.refresh", "data": {"token": token}})
    answers = [await client.receive() for _ in range(3)]
    assert [answer["type"] for answer in answers] == ["auth.refreshed", "error", "auth.refreshed"]
    assert answers[1]["data"]["code"] == "TOKEN_OF_ANOTHER_ACCOUNT"


async def test_more_refreshes_than_are_kept_are_too_many_and_no_malformed_packets(world):
    client = await world.join(guid())
    message = json.dumps(
        {"type": "auth.refresh", "data": {"token": world.issuer.token(client.account)}}
    ).encode()
    frame = bytes((0x81, 0x80 | 126)) + len(message).to_bytes(2) + bytes(4) + message
    client.ws.transport.write(frame * 40)  # in one piece: twice as many as malformed ones would be endured
    answers = [await client.receive() for _ in range(40)]
    refreshed = [answer for answer in answers if answer["type"] == "auth.refreshed"]
    assert len(refreshed) >= MAX_TOKENS
    assert all(answer["data"]["code"] == "RATE_LIMITED" for answer in answers if answer not in refreshed)
    await client.nothing_more()


async def test_a_newer_tokens_names_count_where_the_chat_service_has_none(start, chat, issuer):
    async with start() as sidecar:
        room, alice, bob = guid(), guid(), guid()
        chat.allow(room, alice)
        chat.allow(room, bob, account_name="bob")
        a = await sidecar.connect(room, issuer.token(alice, name="old", nick="Old"))
        b = await sidecar.connect(room, issuer.token(bob, name="old", nick="Old"))
        await a.receive_signal("user-joined")
        for client, account in ((a, alice), (b, bob)):
            newer = issuer.token(account, ttl_seconds=600, name="new", nick="New")
            await client.send({"type": "auth.refresh", "data": {"token": newer}})
            assert (await client.receive())["type"] == "auth.refreshed"
        for client in (a, b):
            await client.send({"type": "offer", "data": 1})
        told = [(await client.receive_signal("offer"))["senderInfo"] for client in (a, b)]
        assert [(info["name"], info["nick"]) for info in told] == [("bob", "New"), ("new", "New")]


async def test_what_each_connection_sends_arrives_in_the_order_sent(world):
    room = guid()
    clients = [await world.join(room) for _ in range(4)]
    for number, client in enumerate(clients):
        for _ in clients[number + 1 :]:
            await client.receive_signal("user-joined")
    count = 40

    async def talk(client):
        other = clients[0] if client is clients[1] else clients[1]
        for number in range(count):
            to = {"to": other.account} if number % 3 == 1 else {}
            await client.send({"type": "x", "data": number, **to})

    await asyncio.gather(*(talk(client) for client in clients))
    for client in clients:
        heard: dict[str, list[int]] = {}
        expected = {
            other.connection_id: [
                number
                for number in range(count)
                if number % 3 != 1 or client is (clients[0] if other is clients[1] else clients[1])
            ]
            for other in clients
            if other is not client
        }
        for _ in range(sum(map(len, expected.values()))):
            signal = await client.receive_signal("x")
            heard.setdefault(signal["senderConnectionId"], []).append(signal["data"])
        assert heard == expected
        await client.nothing_more()


async def test_a_room_may_mix_dialects(world):
    room = guid()
    guide = await world.join(room)
    sample = await world.join(room, query="dialect=guide-client")
    dyson = await world.join(room, query="dialect=dyson", profile={"updated_at": "mine", "updatedAt": "too"})
    assert sample.welcome["userId"] == sample.account
    assert dyson.welcome["user_id"] == dyson.account
    assert dyson.welcome["room_id"] == room
    assert dyson.welcome["heartbeat_seconds"] == 20
    there = dyson.welcome["participants"][0]
    assert {"identity", "name", "account_id", "account", "joined_at", "connection_ids"} == set(there)
    assert {"id", "name", "nick", "profile", "updated_at"} == set(there["account"])

    for _ in range(2):
        await guide.receive_signal("user-joined")
    joined = await sample.receive()
    assert joined["type"] == "signaling"
    assert joined["data"]["SenderAccountId"] == dyson.account

    await guide.send({"type": "offer", "data": {"camelCase": 1}, "toConnection": dyson.connection_id})
    signal = await dyson.receive()
    assert signal["type"] == "webrtc.signal"
    assert signal["data"]["data"] == {"camelCase": 1}
    assert signal["data"]["to_connection"] == dyson.connection_id
    assert signal["data"]["account_id"] == signal["data"]["account"]["id"] == guide.account
    assert signal["data"]["connection_id"] == guide.connection_id
    assert "updated_at" in signal["data"]["account"]

    await dyson.send({"type": "answer", "data": 1})
    answer = await sample.receive()
    assert set(answer["data"]) == {"type", "data", "SenderAccountId", "SenderConnectionId", "SenderInfo"}
    assert answer["data"]["SenderInfo"]["profile"] == {"updated_at": "mine", "updatedAt": "too"}
    await guide.receive_signal("answer")

    await dyson.send("{")
    error = await dyson.receive()
    assert set(error) == {"type", "error_message", "data"}
    await dyson.send({"type": "auth.refresh", "data": {"token": world.issuer.token(dyson.account)}})
    assert "expires_at" in (await dyson.receive())["data"]


async def test_the_default_dialect_is_a_setting(start, chat, issuer):
    async with start(wire_dialect="dyson") as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        assert "user_id" in (await sidecar.connect(room, issuer.token(account))).welcome
        assert "userId" in (await sidecar.connect(room, issuer.token(account), query="dialect=guide")).welcome


async def test_names_come_from_the_room_then_the_account_then_the_token(world):
    room, account = guid(), guid()
    watcher = await world.join(room)
    token = world.issuer.token(account, name="from token", nick="token nick")
    for membership, name, nick in (
        ({}, "from token", "token nick"),
        ({"account_name": "from account", "account_nick": "account nick"}, "from account", "account nick"),
        (
            {"account_name": "from account", "account_nick": "x", "nick": "room nick"},
            "from account",
            "room nick",
        ),
    ):
        account = guid()
        world.chat.allow(room, account, **membership)
        token = world.issuer.token(account, name="from token", nick="token nick")
        client = await world.sidecar.connect(room, token)
        info = (await watcher.receive_signal("user-joined"))["senderInfo"]
        assert (info["name"], info["nick"]) == (name, nick)
        await client.close()


async def test_a_profile_over_the_limit_is_left_out(world):
    room = guid()
    watcher = await world.join(room)
    await world.join(room, profile={"bio": "x" * 3000})
    assert (await watcher.receive_signal("user-joined"))["senderInfo"]["profile"] == {}


async def test_a_member_who_is_kicked_is_closed_and_stays_out(start, chat, issuer):
    async with start() as sidecar:
        room, alice, bob = guid(), guid(), guid()
        chat.allow(room, alice)
        chat.allow(room, bob)
        a = await sidecar.connect(room, issuer.token(alice))
        b = await sidecar.connect(room, issuer.token(bob))
        await a.receive_signal("user-joined")
        chat.deny(room, bob, tell=True)
        code, reason = await b.closed()
        assert code == 4403
        assert reason
        await a.receive_signal("user-left")
        assert (await sidecar.probe(room, issuer.token(bob))).json["code"] == "NOT_A_MEMBER"


async def test_a_member_who_is_timed_out_is_told_until_when(start, chat, issuer):
    async with start() as sidecar:
        room, alice = guid(), guid()
        chat.allow(room, alice)
        a = await sidecar.connect(room, issuer.token(alice))
        chat.allow(room, alice, timeout_until=4_000_000_000, tell=True)
        error = await a.receive()
        assert error["data"] == {"code": "MEMBER_TIMED_OUT", "detail": "2096-10-02T07:06:40.000Z"}
        assert (await a.closed())[0] == 4403


async def test_a_new_nick_reaches_later_packets(start, chat, issuer):
    async with start() as sidecar:
        room, alice, bob = guid(), guid(), guid()
        chat.allow(room, alice)
        chat.allow(room, bob)
        a = await sidecar.connect(room, issuer.token(alice))
        b = await sidecar.connect(room, issuer.token(bob))
        await a.receive_signal("user-joined")
        chat.allow(room, bob, nick="Bobby", tell=True)

        async def nick():
            await b.send({"type": "x", "data": 1})
            return (await a.receive_signal("x"))["senderInfo"]["nick"]

        while await nick() != "Bobby":
            await asyncio.sleep(0.05)


async def test_with_close_on_expiry_an_old_token_ends_the_connection_unless_refreshed(start, chat, issuer):
    async with start(on_token_expiry="close", jwt_leeway_seconds=0) as sidecar:
        room, alice, bob = guid(), guid(), guid()
        chat.allow(room, alice)
        chat.allow(room, bob)
        a = await sidecar.connect(room, issuer.token(alice, ttl_seconds=2))
        b = await sidecar.connect(room, issuer.token(bob, ttl_seconds=2))
        await b.send({"type": "auth.refresh", "data": {"token": issuer.token(bob)}})
        assert (await b.receive())["type"] == "auth.refreshed"
        assert (await a.closed())[0] == 4401
        assert (await b.receive_signal("user-left"))["senderAccountId"] == alice
        await b.nothing_more()


async def test_a_connection_without_a_newer_token_ends_after_its_time(start, chat, issuer):
    async with start(max_connection_seconds=1) as sidecar:
        room, alice = guid(), guid()
        chat.allow(room, alice)
        a = await sidecar.connect(room, issuer.token(alice))
        assert (await a.closed())[0] == 4401


async def test_only_a_newer_token_gives_more_time(start, chat, issuer):
    async with start(max_connection_seconds=2) as sidecar:
        room, alice, bob = guid(), guid(), guid()
        chat.allow(room, alice)
        chat.allow(room, bob)
        old, newer = issuer.token(alice), issuer.token(bob, ttl_seconds=600)
        a = await sidecar.connect(room, old)
        b = await sidecar.connect(room, issuer.token(bob))
        await asyncio.sleep(1.2)  # most of the time they have
        await a.send({"type": "auth.refresh", "data": {"token": old}})
        await b.send({"type": "auth.refresh", "data": {"token": newer}})
        assert (await a.receive_signal("user-joined"))["senderAccountId"] == bob
        assert (await a.receive())["type"] == "auth.refreshed"
        assert (await b.receive())["type"] == "auth.refreshed"
        assert (await a.closed())[0] == 4401
        assert (await b.receive_signal("user-left"))["senderAccountId"] == alice
        await b.nothing_more()


@pytest.mark.parametrize(("rate", "burst"), [(50, 200), (10, 5), (30, 100), (50, 20)])
async def test_the_burst_is_what_it_says(start, chat, issuer, rate, burst):
    async with start(message_rate=rate, message_burst=burst) as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        client = await sidecar.connect(room, issuer.token(account))
        ping = b'{"type":"ping"}'
        frame = bytes((0x81, 0x80 | len(ping), 0, 0, 0, 0)) + ping
        client.ws.transport.write(frame * burst)  # in one piece: no time passes between them
        for _ in range(burst):
            assert await client.receive() == {"type": "pong"}


async def test_a_close_code_a_client_chose_is_not_counted_as_ours(world):
    client = await world.join(guid())
    before = await world.sidecar.metrics()
    await client.ws.close(4403, "my own words")
    await world.sidecar.logged("connection ended", account=client.account, code=4403, closed_by="client")
    after = await world.sidecar.metrics()
    for code, more in (("4403", 0), ("other", 1)):
        name = f'sphere_sidecar_disconnects_total{{code="{code}"}}'
        assert after[name] - before[name] == more
