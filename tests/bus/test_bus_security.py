"""Who a sidecar is to NATS, and how little it needs to be allowed there."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from pathlib import Path

import nats
import pytest

from sidecar.bus.members import MemberEvents
from sidecar.bus.nats_client import Access
from sidecar.bus.sessions import RevokedSessions, SessionEvents
from sidecar.observe.certificates import lives
from tests.bus.bus_cluster import Cluster, Replica
from tests.bus.nats_identities import Identity, certificates, credentials
from tests.bus.nats_server import run_nats
from tests.harness import ROOT, guid, until

DOCUMENTED = re.search(r"```conf\n(permissions = .*?)```", (ROOT / "docs/scaling.md").read_text(), re.DOTALL)


async def exchange(replicas: Cluster) -> None:
    """Every kind of message between two replicas: presence, signals, questions and answers."""
    room = guid()
    alice, bob = await replicas[0].join(room), await replicas[1].join(room)
    assert [p.identity.account_id for p in bob.welcome] == [alice.account]
    await until(alice.sees)
    alice.say("offer", 1)
    await until(bob.data)
    bob.say("answer", 2, to=alice.account)
    await until(alice.data)
    alice.leave()
    await until(lambda: bob.sees() == {})
    bob.leave()


async def test_the_documented_permissions_are_enough_and_the_server_enforces_them(tmp_path, caplog):
    assert DOCUMENTED
    ca, cert, key = certificates(tmp_path)
    sidecar, admin = Identity(), Identity()
    seed = tmp_path / "seed.nk"
    seed.write_bytes(sidecar.seed + b"\n")
    config = f"""
        tls {{ cert_file: {str(cert)!r}, key_file: {str(key)!r} }}
        authorization {{ users: [
            {{ nkey: {admin.public} }}
            {{ nkey: {sidecar.public}, {DOCUMENTED[1]} }}
        ] }}
    """
    async with run_nats(tmp_path, config) as server:
        url = server.url.replace("nats:", "tls:")
        boss = await nats.connect(
            url, nkeys_seed_str=admin.seed.decode(), tls=ssl.create_default_context(cafile=ca)
        )
        stream = boss.jetstream()
        await stream.add_stream(name="auth_session_events", subjects=["auth.session.>"])
        await stream.publish("auth.session.revoked", json.dumps({"session_id": "before"}).encode())
        revoked, changed = RevokedSessions(), []
        sessions = SessionEvents(
            subject="auth.session.revoked",
            stream="auth_session_events",
            revoked=revoked,
            on_revoked=lambda _sessions: None,
            on_bad_event=lambda: None,
        )
        members = MemberEvents(
            subject="chat.member.changed",
            on_changed=lambda *key: changed.append(key),
            on_bad_event=lambda: None,
        )
        access = Access(servers=[url], nkey_file=seed, tls_ca_file=ca)
        async with Cluster([Replica(access, followers=[sessions, members]), Replica(access)]) as replicas:
            await exchange(replicas)
            await asyncio.wait_for(sessions.caught_up.wait(), 10)
            assert "before" in revoked
            await boss.publish("auth.session.revoked", json.dumps({"session_id": "now"}).encode())
            await until(lambda: "now" in revoked)
            room, account = guid(), guid()
            await boss.publish(
                "chat.member.changed", json.dumps({"room_id": room, "account_id": account}).encode()
            )
            await until(lambda: changed == [(room, account)])
        assert not [line for line in server.log if "Violation" in line]

        refused = []

        async def note(problem):
            refused.append(str(problem))

        thief = await nats.connect(
            url,
            nkeys_seed_str=sidecar.seed.decode(),
            tls=ssl.create_default_context(cafile=ca),
            error_cb=note,
        )
        for subject in (">", "sphere.>", "_INBOX.>", "$JS.>"):
            await thief.subscribe(subject)
        for subject in (
            "auth.session.revoked",
            "chat.member.changed",
            "$JS.API.STREAM.DELETE.auth_session_events",
        ):
            await thief.publish(subject, b"{}")
        await thief.flush()
        await until(lambda: len(refused) == 7)
        await thief.close()
        await boss.close()


async def test_a_credentials_file_opens_the_bus(tmp_path):
    file, config = credentials(tmp_path)
    async with run_nats(tmp_path, config, jetstream=False) as server:
        access = Access(servers=[server.url], credentials_file=file)
        async with Cluster([Replica(access), Replica(access)]) as replicas:
            await exchange(replicas)


async def test_a_password_file_is_read_anew_for_each_try(tmp_path):
    password = tmp_path / "password"
    password.write_text("wrong")
    async with run_nats(tmp_path, "authorization { user: sidecar, password: right }") as server:
        replica = Replica(Access(servers=[server.url], user="sidecar", password_file=password))
        await replica.start(connected=False)
        await until(lambda: any("authentication error" in line for line in server.log))
        assert not replica.nats.connected
        password.write_text("right\n")
        await until(lambda: replica.nats.connected)
        await replica.close()


@pytest.mark.parametrize("demand", ["scheme", "ca"])
async def test_a_server_without_tls_gets_no_credentials_where_tls_is_demanded(tmp_path, demand):
    ca, _, _ = certificates(tmp_path)
    password = tmp_path / "password"
    password.write_text("secret")
    received = bytearray()
    greeted = asyncio.Event()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","headers":true,"max_payload":1048576}\r\n')
        received.extend(await reader.read())
        writer.close()
        greeted.set()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    access = Access(
        servers=[f"{'tls' if demand == 'scheme' else 'nats'}://127.0.0.1:{port}"],
        user="u",
        password_file=password,
        tls_ca_file=ca if demand == "ca" else None,
    )
    replica = Replica(access)
    await replica.start(connected=False)
    await asyncio.wait_for(greeted.wait(), 10)
    assert not replica.nats.connected
    assert bytes(received) == b""
    await replica.close()
    server.close()


async def test_a_server_whose_certificate_is_of_another_ca_is_not_believed(tmp_path):
    _, cert, key = certificates(tmp_path)
    (tmp_path / "other").mkdir()
    other_ca, _, _ = certificates(tmp_path / "other")
    async with run_nats(tmp_path, f"tls {{ cert_file: {str(cert)!r}, key_file: {str(key)!r} }}") as server:
        replica = Replica(Access(servers=[server.url], tls_ca_file=Path(other_ca)))
        await replica.start(connected=False)
        await until(lambda: any("TLS handshake error" in line for line in server.log))
        assert not replica.nats.connected
        await replica.close()


async def test_a_rotated_ca_is_used_at_the_next_connection_and_told_of(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = certificates(tmp_path / "old"), certificates(tmp_path / "new")
    trusted, cert, key = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))

    def install(*files: Path) -> None:
        for source, target in zip(files, (trusted, cert, key), strict=False):
            target.write_bytes(source.read_bytes())

    install(*old)
    told = []
    async with run_nats(tmp_path, f"tls {{ cert_file: {str(cert)!r}, key_file: {str(key)!r} }}") as server:
        access = Access(servers=[server.url], tls_ca_file=trusted)
        replica = Replica(access, on_ca=told.append, ca_poll_seconds=0.05)
        await replica.start()
        await until(lambda: [lives(ca=pem) for pem in told] == [lives(ca=old[0].read_bytes())])
        await server.kill()
        install(old[0], new[1], new[2])  # the server's certificate is rotated first
        await server.start()
        await until(lambda: any("TLS handshake error" in line for line in server.log))
        assert not replica.nats.connected
        install(new[0])
        await until(lambda: replica.nats.connected)
        await until(lambda: told == [old[0].read_bytes(), new[0].read_bytes()])
        await replica.close()


async def test_a_rotated_credentials_file_is_used_at_the_next_connection(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (old_file, old), (new_file, new) = credentials(tmp_path / "old"), credentials(tmp_path / "new")
    file = tmp_path / "sidecar.creds"
    file.write_bytes(old_file.read_bytes())
    async with run_nats(tmp_path, old, jetstream=False) as server:
        replica = Replica(Access(servers=[server.url], credentials_file=file))
        await replica.start()
        await server.kill()
        server.config = new
        await server.start()
        await until(lambda: any("authentication error" in line for line in server.log))
        assert not replica.nats.connected
        file.write_bytes(new_file.read_bytes())
        await until(lambda: replica.nats.connected)
        await replica.close()


async def test_a_rotated_nkey_is_used_at_the_next_connection(tmp_path):
    old, new, file = Identity(), Identity(), tmp_path / "seed.nk"
    file.write_bytes(old.seed)
    users = "authorization {{ users: [ {{ nkey: {} }} ] }}"
    async with run_nats(tmp_path, users.format(old.public), jetstream=False) as server:
        replica = Replica(Access(servers=[server.url], nkey_file=file))
        await replica.start()
        await server.kill()
        server.config = users.format(new.public)
        await server.start()
        await until(lambda: any("authentication error" in line for line in server.log))
        assert not replica.nats.connected
        file.write_bytes(new.seed)
        await until(lambda: replica.nats.connected)
        await replica.close()
