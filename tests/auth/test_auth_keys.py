import asyncio
import json
import os
import ssl
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from auth_issuer import AUDIENCE, ISSUER, b64, eventually, jwk, jwks, live_claims, pem, private_key, sign
from jwks_server import serving
from structlog.testing import capture_logs

from sidecar.auth.keys import REFRESH_RESULTS, KeyRing, RefreshResult
from sidecar.auth.keyset import BadKeys
from sidecar.auth.sources import MAX_DOCUMENT_BYTES, FileSource, Unreachable, UrlSource
from sidecar.auth.verifier import Verifier
from sidecar.errors import Refusal, RefusalCode
from tests.authority import Authority

FIRST, SECOND = private_key("first"), private_key("second")
NEVER = 3600.0


@asynccontextmanager
async def following(*, verify_with=None, **options):
    """A started ring; what it reported is in `results` and `problems`."""
    results, problems = [], []
    options = {
        "refresh_seconds": NEVER,
        "cooldown_seconds": NEVER,
        "file_poll_seconds": NEVER,
        "on_refresh": results.append,
    } | options
    ring = KeyRing(algorithms=["RS256"], on_problem=problems.append, **options)
    ring.results, ring.problems = results, problems
    ring.verifier = Verifier(
        keys=ring, algorithms=["RS256"], issuers=[ISSUER], audiences=[AUDIENCE], leeway_seconds=60
    )
    try:
        await ring.start()
        yield ring
    finally:
        await ring.close()


def kids(ring):
    return {key.kid for key in ring.candidates(None, "RS256")}


async def accepts(ring, key, *, kid="solar-network", **changes):
    """Whether a token never seen before, signed with `key`, is accepted."""
    try:
        await ring.verifier.verify(sign(live_claims(**changes), key, kid=kid), bot=False)
    except Refusal:
        return False
    return True


async def test_keys_are_loaded_at_start_from_each_kind_of_source(tmp_path):
    (tmp_path / "keys.pem").write_bytes(pem(FIRST))
    (tmp_path / "jwks.json").write_bytes(jwks(jwk(FIRST, "first")))
    async with serving(jwks(jwk(FIRST, "first"))) as server:
        for source in (
            {"public_key_file": tmp_path / "keys.pem"},
            {"jwks_file": tmp_path / "jwks.json"},
            {"jwks_url": server.url},
        ):
            async with following(**source) as ring:
                assert ring.loaded
                assert ring.generation == 1
                assert ring.results == [RefreshResult.CHANGED]
                assert await accepts(ring, FIRST)
                assert not await accepts(ring, SECOND)


@pytest.mark.parametrize("sources", [{}, {"jwks_url": "http://localhost/", "jwks_file": "jwks.json"}])
def test_exactly_one_source_is_expected(sources):
    with pytest.raises(ValueError, match="exactly one source"):
        KeyRing(algorithms=["RS256"], on_refresh=lambda _result: None, **sources)


@pytest.mark.parametrize("kind", ["public_key_file", "jwks_file"])
@pytest.mark.parametrize("content", [b"", b"garbage", b'{"keys":[]}', None])
async def test_a_file_that_cannot_be_used_stops_the_start_in_words(tmp_path, kind, content):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadKeys, match=str(file)) as caught:
        async with following(**{kind: file}):
            pass
    assert len(str(caught.value)) > len(f"{file}: ")


async def test_a_file_over_the_limit_is_refused(tmp_path):
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(FIRST) + b"\n" * MAX_DOCUMENT_BYTES)
    with pytest.raises(BadKeys, match="over 262144 bytes"):
        async with following(public_key_file=file):
            pass


async def test_the_request_is_one_a_jwks_endpoint_understands():
    async with serving(jwks(jwk(FIRST))) as server, following(jwks_url=server.url):
        (request,) = server.requests
        assert request.startswith(b"GET /.well-known/jwks?v=1 HTTP/1.1\r\n")
        assert f"\r\nHost: localhost:{server.port}\r\n".encode() in request


async def test_a_url_that_is_down_does_not_fail_the_start_and_is_taken_up_when_it_comes_back():
    async with serving(jwks(jwk(FIRST))) as server:
        server.status = "500 Internal Server Error"
        async with following(jwks_url=server.url, refresh_seconds=0.02) as ring:
            assert not ring.loaded
            assert ring.results[0] is RefreshResult.UNREACHABLE
            server.status = "200 OK"
            await eventually(lambda: ring.loaded)
            assert await accepts(ring, FIRST)


async def test_a_start_waits_only_shortly_for_a_url_that_never_answers():
    never = asyncio.Event()

    async def silent(_writer):
        await never.wait()

    async with serving() as server, asyncio.timeout(10):
        server.misbehave = silent
        async with following(
            jwks_url=server.url, start_deadline_seconds=0.05, read_deadline_seconds=NEVER
        ) as ring:
            assert not ring.loaded
            assert ring.results == []
        never.set()


async def test_a_fetch_that_never_ends_is_given_up():
    never = asyncio.Event()

    async def silent(_writer):
        await never.wait()

    async with serving() as server:
        server.misbehave = silent
        async with following(jwks_url=server.url, read_deadline_seconds=0.05) as ring:
            assert ring.results == [RefreshResult.UNREACHABLE]
            assert "no answer within 0.05 s" in ring.problems[0]
        never.set()


async def test_a_port_nobody_listens_on_is_told():
    async with serving() as server:
        url = server.url
    async with following(jwks_url=url) as ring:
        assert ring.results == [RefreshResult.UNREACHABLE]
        assert url in ring.problems[0]


async def drip(writer):
    """One byte at a time, for ever: each read succeeds, the whole never does."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def flood(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n")
        await writer.drain()


async def endless_headers(writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Filler: " + b"x" * 4096 + b"\r\n")
        await writer.drain()


async def early_end(writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + jwks(jwk(SECOND, "second"))[:-20])


async def not_http(writer):
    writer.write(b"\x16\x03\x01 what?\r\n\r\n")


async def silence(_writer):
    pass


async def reset(writer):
    writer.transport.abort()


GOOD = jwks(jwk(SECOND, "second"))
FAULTS = {
    "500": ({"status": "500 Internal Server Error"}, RefreshResult.UNREACHABLE),
    "404": ({"status": "404 Not Found"}, RefreshResult.UNREACHABLE),
    "redirect": ({"status": "302 Found", "headers": "Location: /elsewhere\r\n"}, RefreshResult.UNREACHABLE),
    "redirect with a body": ({"status": "301 Moved", "body": GOOD}, RefreshResult.UNREACHABLE),
    "compressed": ({"headers": "Content-Encoding: gzip\r\n", "body": GOOD}, RefreshResult.UNREACHABLE),
    "huge": ({"body": GOOD[:-1] + b" " * MAX_DOCUMENT_BYTES + b"}"}, RefreshResult.UNREACHABLE),
    "empty set": ({"body": b'{"keys":[]}'}, RefreshResult.UNUSABLE),
    "empty body": ({"body": b""}, RefreshResult.UNUSABLE),
    "garbage": ({"body": b"<html>sign in</html>"}, RefreshResult.UNUSABLE),
    "unfit keys": ({"body": jwks(jwk(SECOND, use="enc"))}, RefreshResult.UNUSABLE),
    "drip": ({"misbehave": drip}, RefreshResult.UNREACHABLE),
    "flood": ({"misbehave": flood}, RefreshResult.UNREACHABLE),
    "endless headers": ({"misbehave": endless_headers}, RefreshResult.UNREACHABLE),
    "early end": ({"misbehave": early_end}, RefreshResult.UNUSABLE),
    "not HTTP": ({"misbehave": not_http}, RefreshResult.UNREACHABLE),
    "silence": ({"misbehave": silence}, RefreshResult.UNREACHABLE),
    "reset": ({"misbehave": reset}, RefreshResult.UNREACHABLE),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_last_good_set_is_kept_while_the_endpoint_misbehaves(fault):
    changes, result = FAULTS[fault]
    async with (
        serving(jwks(jwk(FIRST, "first"))) as server,
        following(jwks_url=server.url, refresh_seconds=0.02, read_deadline_seconds=0.2) as ring,
    ):
        vars(server).update(changes)
        await eventually(lambda: result in ring.results)
        assert kids(ring) == {"first"}
        assert await accepts(ring, FIRST)
        assert not await accepts(ring, SECOND, kid="second")
        vars(server).update(status="200 OK", headers="", misbehave=None, body=GOOD)
        await eventually(lambda: kids(ring) == {"second"})
    assert set(ring.results) <= set(REFRESH_RESULTS)


async def test_a_chunked_answer_after_an_informational_one_is_read():
    async def chunked(writer):
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for byte in GOOD:
            writer.write(b"1\r\n" + bytes([byte]) + b"\r\n")
        writer.write(b"0\r\n\r\n")

    async with serving() as server:
        server.misbehave = chunked
        async with following(jwks_url=server.url) as ring:
            assert kids(ring) == {"second"}


async def test_an_answer_that_ends_with_the_connection_is_read():
    async def until_closed(writer):
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD)

    async with serving() as server:
        server.misbehave = until_closed
        async with following(jwks_url=server.url) as ring:
            assert kids(ring) == {"second"}


async def test_https_is_verified_against_the_systems_authorities(tmp_path, monkeypatch):
    authority = Authority()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue("localhost").write(tmp_path, "server"))
    async with serving(jwks(jwk(FIRST, "first")), tls=tls) as server:
        async with following(jwks_url=server.url) as stranger:
            assert stranger.results == [RefreshResult.UNREACHABLE]
            assert "TLS" in stranger.problems[0]
            assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        async with following(jwks_url=server.url) as ring:
            assert kids(ring) == {"first"}


async def test_a_failure_is_reported_each_time_and_told_once():
    async with (
        serving(b"garbage") as server,
        following(jwks_url=server.url, refresh_seconds=0.01) as ring,
    ):
        await eventually(lambda: len(ring.results) > 3)
        assert set(ring.results) == {RefreshResult.UNUSABLE}
        assert len(ring.problems) == 1
        server.body = b'{"keys":[]}'
        await eventually(lambda: len(ring.problems) == 2)


async def test_rotation_with_overlap_refuses_no_good_token_while_verifying_constantly():
    async with (
        serving(jwks(jwk(FIRST, "0"))) as server,
        following(jwks_url=server.url, refresh_seconds=0.03) as ring,
    ):
        signer, refused, verified, over = FIRST, 0, 0, False

        async def verify_constantly():
            nonlocal refused, verified
            while not over:
                good = await accepts(ring, signer, jti=str(verified))
                refused, verified = refused + (not good), verified + 1
                await asyncio.sleep(0)

        verifying = asyncio.create_task(verify_constantly())
        for rotation in range(1, 9):
            old, new = (FIRST, SECOND) if rotation % 2 else (SECOND, FIRST)
            old_kid, new_kid = str(rotation - 1), str(rotation)
            server.body = jwks(jwk(old, old_kid), jwk(new, new_kid))
            await eventually(lambda expected={old_kid, new_kid}: kids(ring) == expected)
            signer = new
            signed_by_new = verified + 20
            await eventually(lambda enough=signed_by_new: verified > enough)
            server.body = jwks(jwk(new, new_kid))
            await eventually(lambda expected={new_kid}: kids(ring) == expected)
        over = True
        await verifying
        assert refused == 0
        assert verified > 160


async def test_a_removed_key_is_refused_after_the_refresh_and_the_other_is_not():
    async with (
        serving(jwks(jwk(FIRST, "first"), jwk(SECOND, "second"))) as server,
        following(jwks_url=server.url, refresh_seconds=0.02) as ring,
    ):
        remembered = sign(live_claims(), FIRST)
        await ring.verifier.verify(remembered, bot=False)
        server.body = jwks(jwk(SECOND, "second"))
        await eventually(lambda: kids(ring) == {"second"})
        with pytest.raises(Refusal):
            await ring.verifier.verify(remembered, bot=False)
        assert not await accepts(ring, FIRST)
        assert await accepts(ring, SECOND)


async def test_a_new_key_is_accepted_by_the_first_token_that_needs_it():
    async with serving(jwks(jwk(FIRST, "first"))) as server, following(jwks_url=server.url) as ring:
        server.body = jwks(jwk(FIRST, "first"), jwk(SECOND, "second"))
        answers = await asyncio.gather(*(accepts(ring, SECOND, kid="second", jti=str(n)) for n in range(50)))
        assert all(answers)
        assert len(server.requests) == 2


def forged(number):
    """A token of a kid nobody knows, right in everything but its signature."""
    header, payload = json.dumps({"alg": "RS256", "kid": f"random {number}"}), json.dumps(live_claims())
    return b".".join(map(b64, (header.encode(), payload.encode(), b"\1" * 256))).decode()


async def test_ten_thousand_random_kids_cost_one_fetch_per_cool_down():
    async with serving(jwks(jwk(FIRST, "first"))) as server, following(jwks_url=server.url) as ring:
        at_once = (ring.verifier.verify(forged(number), bot=False) for number in range(5000))
        verdicts = await asyncio.gather(*at_once, return_exceptions=True)
        for number in range(5000, 10_000):
            verdicts += await asyncio.gather(
                ring.verifier.verify(forged(number), bot=False), return_exceptions=True
            )
        assert {verdict.code for verdict in verdicts} == {RefusalCode.UNAUTHORIZED}
        assert len(verdicts) == 10_000
        assert len(server.requests) == 2  # at start, and on demand
        assert await accepts(ring, FIRST)


async def test_after_the_cool_down_the_source_is_asked_again():
    async with (
        serving(jwks(jwk(FIRST, "first"))) as server,
        following(jwks_url=server.url, cooldown_seconds=0.05) as ring,
    ):
        assert not await accepts(ring, SECOND)
        server.body = GOOD
        async with asyncio.timeout(10):
            while not await accepts(ring, SECOND):
                assert await accepts(ring, FIRST)


async def test_a_standing_mismatch_of_kids_costs_no_fetch():
    async with (
        serving(jwks(jwk(FIRST, "thumbprint"))) as server,
        following(jwks_url=server.url, cooldown_seconds=0.0) as ring,
    ):
        for number in range(200):
            assert await accepts(ring, FIRST, kid="solar-network", jti=str(number))
        assert len(server.requests) == 1


async def test_a_handshake_that_goes_away_does_not_end_the_fetch_for_the_others():
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(writer):
        asked.set()
        await answer.wait()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD)

    async with serving(jwks(jwk(FIRST, "first"))) as server, following(jwks_url=server.url) as ring:
        server.misbehave = slow
        leaves, stays = (asyncio.create_task(accepts(ring, SECOND, jti=who)) for who in ("leaves", "stays"))
        await asyncio.wait_for(asked.wait(), 10)
        leaves.cancel()
        await asyncio.wait({leaves})
        answer.set()
        assert await stays
        assert leaves.cancelled()
        assert len(server.requests) == 2


async def test_tokens_that_join_an_older_fetch_still_get_one_of_their_own():
    asked, answer = asyncio.Event(), asyncio.Event()

    async def old_answer(writer):
        asked.set()
        await answer.wait()
        server.misbehave = None
        server.body = GOOD
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + jwks(jwk(FIRST, "first")))

    async with (
        serving(jwks(jwk(FIRST, "first"))) as server,
        following(jwks_url=server.url, refresh_seconds=0.02) as ring,
    ):
        server.misbehave = old_answer
        await asyncio.wait_for(asked.wait(), 10)
        joining = [asyncio.create_task(accepts(ring, SECOND, jti=str(n))) for n in range(3)]
        await asyncio.sleep(0)
        answer.set()
        assert all(await asyncio.gather(*joining))


async def test_a_closed_ring_asks_nobody():
    async with serving(jwks(jwk(FIRST, "first"))) as server:
        async with following(jwks_url=server.url) as ring:
            pass
        assert not await accepts(ring, SECOND)
        assert await accepts(ring, FIRST)
        assert len(server.requests) == 1


async def test_closing_ends_a_fetch_that_hangs():
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang(_writer):
        asked.set()
        await never.wait()

    async with (
        serving(jwks(jwk(FIRST, "first"))) as server,
        following(jwks_url=server.url) as ring,
    ):
        server.misbehave = hang
        waiting = asyncio.create_task(accepts(ring, SECOND))
        await asyncio.wait_for(asked.wait(), 10)
        await ring.close()
        assert ring.results == [RefreshResult.CHANGED]
        assert not await waiting
        never.set()


def rewrite(file, content):
    file.write_bytes(content)


def replace(file, content):
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)


def rewrite_within_one_tick_of_the_clock(file, content):
    stamp = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize("change", [rewrite, replace, rewrite_within_one_tick_of_the_clock])
async def test_a_pem_file_is_followed_however_it_changes(tmp_path, change):
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(FIRST))
    async with following(public_key_file=file, file_poll_seconds=0.01) as ring:
        change(file, pem(FIRST, SECOND))
        await eventually(lambda: len(ring.candidates(None, "RS256")) == 2)
        assert await accepts(ring, FIRST)
        assert await accepts(ring, SECOND)
        change(file, pem(SECOND))
        await eventually(lambda: len(ring.candidates(None, "RS256")) == 1)
        assert not await accepts(ring, FIRST)
        assert await accepts(ring, SECOND)


async def test_a_mounted_secret_whose_symlink_is_swapped_is_followed(tmp_path):
    for name, key in (("..1", FIRST), ("..2", SECOND)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key.pem").write_bytes(pem(key))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key.pem").symlink_to("..data/key.pem")
    async with following(public_key_file=tmp_path / "key.pem", file_poll_seconds=0.01) as ring:
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await eventually(lambda: ring.generation == 2)
        assert await accepts(ring, SECOND)
        assert not await accepts(ring, FIRST)


class FailsOnce:
    """Stands for a bug in what is told of a look."""

    def __init__(self):
        self.failed = False

    def __call__(self, result):
        if result is RefreshResult.UNCHANGED and not self.failed:
            self.failed = True
            raise ZeroDivisionError


async def test_a_bug_in_one_look_is_logged_with_a_trace_and_the_keys_are_followed_all_the_same():
    tell = FailsOnce()
    with capture_logs() as log:
        async with (
            serving(jwks(jwk(FIRST, "first"))) as server,
            following(jwks_url=server.url, refresh_seconds=0.02, on_refresh=tell) as ring,
        ):
            await eventually(lambda: tell.failed)
            server.body = jwks(jwk(SECOND, "second"))
            await eventually(lambda: kids(ring) == {"second"})
    assert [(line["log_level"], line["exc_info"]) for line in log] == [("error", True)]


class Watched(type(Path())):
    """A path that counts how often it is opened."""

    opened = 0

    def open(self, *args, **kwargs):
        self.opened += 1
        return super().open(*args, **kwargs)


async def polled(file):
    """Wait until the file was looked at a few times more."""
    enough = file.opened + 4
    await eventually(lambda: file.opened > enough)


async def test_a_file_that_goes_bad_or_away_keeps_the_last_good_set_and_is_told_once(tmp_path):
    file = Watched(tmp_path / "keys.pem")
    file.write_bytes(pem(FIRST))
    expected = [RefreshResult.CHANGED]
    async with following(public_key_file=file, file_poll_seconds=0.005) as ring:
        await polled(file)
        assert ring.results == expected
        file.unlink()
        expected.append(RefreshResult.UNREACHABLE)
        await polled(file)
        assert ring.results == expected
        assert await accepts(ring, FIRST)
        replace(file, pem(FIRST))
        expected.append(RefreshResult.UNCHANGED)
        await polled(file)
        assert ring.results == expected
        replace(file, pem(SECOND)[:-30])
        expected.append(RefreshResult.UNUSABLE)
        await polled(file)
        assert ring.results == expected
        assert await accepts(ring, FIRST)
        assert len(ring.problems) == 2
        replace(file, pem(SECOND))
        expected.append(RefreshResult.CHANGED)
        await polled(file)
        assert ring.results == expected
        assert await accepts(ring, SECOND)


async def test_a_changed_file_is_read_at_once_when_a_token_needs_it(tmp_path):
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(FIRST))
    async with following(public_key_file=file) as ring:
        file.write_bytes(pem(FIRST, SECOND))
        assert await accepts(ring, SECOND)


def test_a_long_name_with_a_port_is_asked_by_it():
    assert b"Host: " + b"a" * 63 + b":8080\r\n" in UrlSource(f"http://{'a' * 63}:8080/")._request
    assert b"Host: [::1]:8080\r\n" in UrlSource("http://[::1]:8080/")._request


async def test_an_answer_that_changes_the_protocol_is_a_failure_like_others():
    async with serving() as jwks:
        jwks.status, jwks.headers = "101 Switching Protocols", "Connection: upgrade\r\nUpgrade: h2c\r\n"
        with pytest.raises(Unreachable, match="not HTTP"):
            await UrlSource(jwks.url).read()


async def test_a_file_that_cannot_be_read_to_its_end_is_read_by_one_thread_and_holds_nobody_up(tmp_path):
    fifo = tmp_path / "jwt.pem"
    os.mkfifo(fifo)
    source = FileSource(fifo)
    threads = threading.active_count()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await source.read()
    hanging = [thread for thread in threading.enumerate() if "_run" in thread.name]
    assert threading.active_count() == threads + 1
    assert all(thread.daemon for thread in hanging)
    fifo.write_bytes(b"at last")
    assert await source.read() in {b"at last", b""}
