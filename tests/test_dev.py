"""The developer's commands, as a newcomer runs them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import connect

from sidecar.dev.issuer import Issuer
from tests.harness import ROOT, Client, http

ACCOUNT = "a11ce000-0000-4000-8000-000000000001"


ANY_PORTS = {"SIDECAR_PORT": "0", "SIDECAR_OPS_PORT": "0"}
KEY_FILES = ("jwt-private.pem", "jwt-public.pem")
EC_KEY = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    .decode()
)


def command(*arguments: str, cwd, preexec_fn=None, **environ: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(ROOT)} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=preexec_fn,
    )


def test_token_mints_for_the_key_of_dev(tmp_path):
    minted = command("token", "--account", ACCOUNT.upper(), "--ttl", "60", cwd=tmp_path)
    assert minted.returncode == 0, minted.stderr
    key = (tmp_path / ".dev" / "jwt-public.pem").read_bytes()
    claims = jwt.decode(minted.stdout.strip(), key, algorithms=["RS256"], audience="sphere-dev")
    assert claims["sub"] == ACCOUNT
    assert claims["type"] == "user"
    assert abs(claims["exp"] - time.time() - 60) < 30
    bot = command("token", "--account", ACCOUNT, "--bot", cwd=tmp_path).stdout.strip()
    assert jwt.decode(bot, options={"verify_signature": False})["type"] == "api_key"


def test_token_takes_the_names_of_the_sample_file(tmp_path):
    alice = command("token", "--account", "alice", cwd=tmp_path).stdout.strip()
    claims = jwt.decode(alice, options={"verify_signature": False})
    assert (claims["sub"], claims["name"]) == (ACCOUNT, "alice")
    rooms = tmp_path / ".dev" / "rooms.toml"
    rooms.write_text(rooms.read_text().replace("[people.carol]", "[people.chloe]").replace("carol = {}", ""))
    assert command("token", "--account", "chloe", cwd=tmp_path).returncode == 0
    unknown = command("token", "--account", "carol", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "'carol' is neither a GUID nor one of alice, bob, chloe" in unknown.stderr
    rooms.write_text("people = 1")
    broken = command("token", "--account", "alice", cwd=tmp_path)
    assert broken.returncode == 2
    assert "no names are known" in broken.stderr


def test_check_config_says_what_serve_would(tmp_path, issuer):
    bad = command("check-config", cwd=tmp_path, SIDECAR_PORT="0x50", SIDECAR_HOTS="x")
    assert bad.returncode == 2
    assert bad.stderr == command("serve", cwd=tmp_path, SIDECAR_PORT="0x50", SIDECAR_HOTS="x").stderr
    assert {"SIDECAR_PORT", "SIDECAR_HOTS", "SIDECAR_JWT_AUDIENCES"} <= set(
        re.findall(r"SIDECAR_\w+", bad.stderr)
    )
    good = command(
        "check-config",
        cwd=tmp_path,
        SIDECAR_JWT_AUDIENCES="x",
        SIDECAR_JWT_PUBLIC_KEY_FILE=str(issuer.public_file),
        SIDECAR_MEMBERSHIP_TARGET="dns:///chat:5001",
    )
    assert (good.returncode, good.stdout) == (0, "settings are good\n")


def test_check_config_looks_into_the_key_file(tmp_path):
    (tmp_path / "key.pem").write_text("no key at all")
    bad = command(
        "check-config",
        cwd=tmp_path,
        SIDECAR_JWT_AUDIENCES="x",
        SIDECAR_JWT_PUBLIC_KEY_FILE="key.pem",
        SIDECAR_MEMBERSHIP_TARGET="dns:///chat:5001",
    )
    assert bad.returncode == 2
    assert "key.pem" in bad.stderr


def test_a_start_that_fails_says_why_and_never_that_it_stopped(tmp_path, issuer):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        serve = command(
            "serve",
            cwd=tmp_path,
            SIDECAR_HOST="127.0.0.1",
            SIDECAR_PORT=port,
            SIDECAR_OPS_PORT="0",
            SIDECAR_JWT_AUDIENCES="x",
            SIDECAR_JWT_PUBLIC_KEY_FILE=str(issuer.public_file),
            SIDECAR_MEMBERSHIP_TARGET="dns:///chat:5001",
        )
        dev = command("dev", cwd=tmp_path, SIDECAR_PORT=port, SIDECAR_OPS_PORT="0")
    assert serve.returncode == dev.returncode == 2
    (line,) = (serve.stdout + serve.stderr).splitlines()
    assert "cannot start" in line
    assert port in line
    (line,) = (dev.stdout + dev.stderr).splitlines()
    assert port in line


@contextlib.asynccontextmanager
async def run_dev(folder, *arguments: str):
    """A running `dev`: its process, and what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-m", "sidecar", "dev", *arguments,
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT)} | ANY_PORTS,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed = ""
    async with asyncio.timeout(30):
        while "Ctrl-C" not in printed:
            line = await process.stdout.readline()
            assert line, printed
            printed += line.decode()
    try:
        yield process, printed
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def desk(tmp_path):
    async with run_dev(tmp_path) as running:
        yield running


async def test_dev_asks_another_membership_server_where_told_to(tmp_path, chat):
    async with run_dev(tmp_path, "--membership", chat.target) as (_, printed):
        assert f"who may join is asked of {chat.target}" in printed
        origin = re.search(r"Demo: (http://127\.0\.0\.1:\d+)/", printed)[1]
        room = re.search(r"^  lobby  (\S+)$", printed, re.MULTILINE)[1]
        token = re.search(r"^  (eyJ\S+)$", printed, re.MULTILINE)[1]
        url = f"{origin}/sphere/chat/realtime/{room}?tk={token}"
        assert (await http(url)).status == 403  # the sample file would let her in
        assert chat.calls["GetMembership"] == 1


async def test_dev_prints_links_and_tokens_that_work_and_follows_edits(desk, tmp_path):
    process, printed = desk
    origin = re.search(r"Demo: (http://127\.0\.0\.1:\d+)/", printed)[1]
    rooms = dict(re.findall(r"^  (\w+)  ([0-9a-f-]{36})$", printed, re.MULTILINE))
    token = re.search(r"^  (eyJ\S+)$", printed, re.MULTILINE)[1]
    url = f"{origin.replace('http', 'ws')}/sphere/chat/realtime/{rooms['lobby']}?tk={token}"
    client = Client(await connect(url, proxy=None))
    welcome = (await client.receive())["data"]
    assert welcome["roomId"] == rooms["lobby"]
    assert re.search(rf"^    alice    {ACCOUNT}  {origin}/\?room=", printed, re.MULTILINE)
    file = tmp_path / ".dev" / "rooms.toml"
    file.write_text(file.read_text().replace('alice = { role = "owner" }', "", 1))
    async with asyncio.timeout(15):
        code, _ = await client.closed()
    assert code == 4403
    people = (await http(f"{origin}/demo/people.json")).json
    assert {person["name"] for person in people["people"]} >= {"alice", "bob"}
    assert (await http(f"{origin}/demo/people.json", headers={"Host": "evil.example"})).status == 403
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(15):
        assert await process.wait() == 0


@pytest.mark.parametrize("arguments", [("dev",), ("token", "--account", ACCOUNT)])
def test_dev_and_token_say_where_their_keys_cannot_be_kept(tmp_path, arguments):
    (tmp_path / ".dev").write_text("a file in the way")
    refused = command(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert str(tmp_path / ".dev") in line


@pytest.mark.parametrize("arguments", [("dev",), ("token", "--account", ACCOUNT)])
def test_dev_and_token_say_in_a_line_that_their_keys_are_no_good(tmp_path, arguments):
    (tmp_path / ".dev").mkdir()
    for name in KEY_FILES:
        (tmp_path / ".dev" / name).write_text("garbage")
    refused = command(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert ".dev/jwt-private.pem holds no RSA key; remove it" in line


@pytest.mark.parametrize("name", KEY_FILES)
@pytest.mark.parametrize("content", ["garbage", EC_KEY])
def test_a_key_file_that_is_no_good_is_named_and_made_anew_once_removed(tmp_path, name, content):
    Issuer(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(OSError, match=rf"^{tmp_path / name} .*remove it and a new pair is made"):
        Issuer(tmp_path)
    (tmp_path / name).unlink()
    Issuer(tmp_path)


def test_dev_says_in_a_line_that_another_key_file_is_no_good(tmp_path):
    (tmp_path / "key.pem").write_text("no key at all")
    refused = command("dev", cwd=tmp_path, SIDECAR_JWT_PUBLIC_KEY_FILE="key.pem", **ANY_PORTS)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("SIDECAR_JWT_PUBLIC_KEY_FILE: 'key.pem'")


def test_a_first_run_cut_short_leaves_no_half_key(tmp_path):
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    refused = command("token", "--account", ACCOUNT, cwd=tmp_path, preexec_fn=no_room)
    assert refused.returncode == 2
    assert not list((tmp_path / ".dev").glob("*.pem"))
    assert command("token", "--account", ACCOUNT, cwd=tmp_path).returncode == 0


def test_dev_says_that_it_needs_a_checkout(tmp_path):
    shutil.copytree(ROOT / "sidecar", tmp_path / "sidecar")
    refused = command("dev", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert refused.returncode != 0
    assert refused.stderr == "dev is not part of this installation: run it from a checkout\n"


def test_dev_serves_nobody_but_this_machine(tmp_path):
    open_to_all = command("dev", cwd=tmp_path, SIDECAR_HOST="0.0.0.0")
    assert open_to_all.returncode == 2
    assert "loopback" in open_to_all.stderr
