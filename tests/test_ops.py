"""The operators' listener: probes and metrics."""

from __future__ import annotations

import gzip

import pytest

from tests.harness import guid, until


async def test_probes_speak_of_this_process_alone(start, issuer):
    async with start(membership_target="127.0.0.1:1") as sidecar:
        assert (await sidecar.ops("/livez")).status == 200
        assert (await sidecar.ops("/readyz")).status == 200
        assert (await sidecar.ops("/nothing")).status == 404


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/", "/state"])
async def test_head_is_answered_as_get_is_without_a_body(start, path):
    async with start(ops_page=True) as sidecar:
        whole, head = await sidecar.ops(path), await sidecar.ops(path, method="HEAD")
        assert head.status == whole.status == 200
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert int(head.headers["content-length"]) > 0
        assert not head.body


@pytest.mark.parametrize(
    ("path", "method", "allowed"), [("/livez", "POST", {"GET", "HEAD"}), ("/drain", "GET", {"POST"})]
)
async def test_another_method_is_told_which_are_allowed(world, path, method, allowed):
    answer = await world.sidecar.ops(path, method=method)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == allowed


async def test_no_answer_has_an_empty_header(world):
    for answer in (
        await world.sidecar.ops("/livez"),
        await world.sidecar.ops("/x"),
        await world.sidecar.probe("x"),
    ):
        assert all(answer.headers.values()), answer.headers


async def test_without_keys_it_is_alive_and_not_ready(start):
    settings = {"jwt_public_key_file": "", "jwt_jwks_url": "http://127.0.0.1:1/jwks"}
    async with start(**settings) as sidecar:
        assert (await sidecar.ops("/livez")).status == 200
        assert (await sidecar.ops("/readyz")).status == 503
        answer = await sidecar.probe(guid(), "a.b.c")
        assert answer.status in {401, 503}


async def test_what_clients_send_and_receive_is_counted_per_room(world):
    room = guid()
    a = await world.join(room)
    b = await world.join(room)
    b2 = await world.join(room, b.account)
    await a.receive_signal("user-joined")
    await a.receive_signal("connection-joined")
    offer = '{"type":"offer","data":"äöü"}'
    await a.send(offer)
    heard = await b.receive_signal("connection-joined") and await b.ws.recv()
    await b2.receive_signal("offer")
    await b.send({"type": "answer", "data": 1, "to": a.account})
    answer = await a.ws.recv()
    await a.send({"type": "ping"})
    await a.receive()
    await a.send("nonsense")
    await a.receive()
    metrics = await world.sidecar.metrics()

    def of(name, **labels):
        text = ",".join(f'{key}="{value}"' for key, value in {"room": room, **labels}.items())
        return metrics[f"sphere_sidecar_{name}{{{text}}}"]

    assert of("room_connections") == 3
    assert of("room_participants") == 2
    assert of("room_messages_received_total", type="offer") == 1
    assert of("room_messages_received_total", type="answer") == 1
    assert of("room_messages_received_total", type="other") == 0
    assert of("room_messages_delivered_total") == 3
    assert (
        of("room_bytes_received_total")
        == len(offer.encode()) + len('{"type": "answer", "data": 1, "to": ""}') + 36
    )
    assert of("room_bytes_delivered_total") == 2 * len(heard.encode()) + len(answer.encode())
    assert metrics['sphere_sidecar_handshakes_total{outcome="accepted"}'] >= 3
    assert metrics['sphere_sidecar_messages_dropped_total{reason="malformed"}'] >= 1
    assert metrics["sphere_sidecar_offer_answer_seconds_count"] == 1
    assert metrics["sphere_sidecar_relay_duration_seconds_count"] >= 2
    for client in (a, b, b2):
        await client.close()
    await until(lambda: _ended(world), "the disconnects are counted")


async def _ended(world):
    return (await world.sidecar.metrics())['sphere_sidecar_disconnects_total{code="1000"}'] >= 3


async def test_every_series_exists_at_zero_from_the_start(start):
    async with start() as sidecar:
        metrics = await sidecar.metrics()
        for name in (
            'handshakes_total{outcome="accepted"}',
            'handshakes_total{outcome="not_a_member"}',
            'disconnects_total{code="4403"}',
            'disconnects_total{code="other"}',
            'messages_dropped_total{reason="rate_limited"}',
            'membership_requests_total{method="GetMembership",code="OK"}'.replace(",", ","),
            "draining",
            "rooms",
            "connections",
            "membership_stale",
        ):
            found = [key for key in metrics if key.startswith("sphere_sidecar_") and _same(key, name)]
            assert found, name
            assert metrics[found[0]] == 0
        assert metrics["sphere_sidecar_connections_limit"] == 10000
        assert not [name for name in metrics if name.startswith("sphere_sidecar_room_")]


def _same(key: str, name: str) -> bool:
    def parts(text: str):
        head, _, labels = text.removeprefix("sphere_sidecar_").partition("{")
        return head, sorted(labels.rstrip("}").split(","))

    return parts(key) == parts(name)


async def test_the_page_comes_compressed_to_those_who_ask(world):
    answer = await world.sidecar.ops("/metrics", headers={"Accept-Encoding": "gzip"})
    assert b"sphere_sidecar_build_info" in gzip.decompress(answer.body)
    openmetrics = await world.sidecar.ops(
        "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert openmetrics.body.rstrip().endswith(b"# EOF")


async def test_without_the_label_no_room_is_named(start, chat, issuer):
    async with start(metrics_room_label="off") as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        await sidecar.connect(room, issuer.token(account))
        assert room not in (await sidecar.ops("/metrics")).body.decode()
        assert (await sidecar.metrics())["sphere_sidecar_rooms"] == 1


@pytest.mark.parametrize("accept", ["text/plain; version=x.y", "application/openmetrics-text; version=abc"])
async def test_a_version_that_is_none_gets_the_page_all_the_same(world, accept):
    answer = await world.sidecar.ops("/metrics", headers={"Accept": accept})
    assert answer.status == 200
    assert b"\nsphere_sidecar_connections " in answer.body


async def test_what_sanic_reads_from_the_environment_is_no_setting(start, chat, issuer, monkeypatch):
    monkeypatch.setenv("SANIC_RESPONSE_TIMEOUT", "0.2")
    monkeypatch.setenv("SANIC_REQUEST_MAX_HEADER_SIZE", "64")
    chat.delay_seconds = 1.0
    async with start(membership_timeout_ms=10_000) as sidecar:
        room, account = guid(), guid()
        chat.allow(room, account)
        assert (await sidecar.probe(room, issuer.token(account))).json["code"] == "WEBSOCKET_EXPECTED"
