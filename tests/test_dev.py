"""The developer's commands, as a newcomer runs them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jwt
import pytest
from websockets.asyncio.client import connect

from tests.harness import ROOT, Client, http

ACCOUNT = "a11ce000-0000-4000-8000-000000000001"


def command(*arguments: str, cwd, **environ: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        cwd=cwd,
        env=clean | {"PYTHONPATH": str(ROOT)} | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
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
    wrong = command("token", "--account", "alice", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "not a GUID" in wrong.stderr


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


@pytest.fixture
async def desk(tmp_path):
    """A running `dev` in an empty folder: its process, and what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-m", "sidecar", "dev",
        cwd=tmp_path,
        env=clean | {"PYTHONPATH": str(ROOT), "SIDECAR_PORT": "0", "SIDECAR_OPS_PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    printed = ""
    async with asyncio.timeout(30):
        while "Ctrl-C" not in printed:
            line = await process.stdout.readline()
            assert line, printed
            printed += line.decode()
    yield process, printed
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_dev_prints_links_and_tokens_that_work_and_follows_edits(desk, tmp_path):
    process, printed = desk
    origin = re.search(r"Demo: (http://127\.0\.0\.1:\d+)/", printed)[1]
    rooms = dict(re.findall(r"^  (\w+)  ([0-9a-f-]{36})$", printed, re.MULTILINE))
    token = re.search(r"^  (eyJ\S+)$", printed, re.MULTILINE)[1]
    url = f"{origin.replace('http', 'ws')}/sphere/chat/realtime/{rooms['lobby']}?tk={token}"
    client = Client(await connect(url, proxy=None))
    welcome = (await client.receive())["data"]
    assert welcome["roomId"] == rooms["lobby"]
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
    assert refused.returncode != 0
    (line,) = refused.stderr.splitlines()
    assert str(tmp_path / ".dev") in line


def test_dev_says_that_it_needs_a_checkout(tmp_path):
    shutil.copytree(ROOT / "sidecar", tmp_path / "sidecar")
    refused = command("dev", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert refused.returncode != 0
    assert refused.stderr == "dev is not part of this installation: run it from a checkout\n"


def test_dev_serves_nobody_but_this_machine(tmp_path):
    open_to_all = command("dev", cwd=tmp_path, SIDECAR_HOST="0.0.0.0")
    assert open_to_all.returncode == 2
    assert "loopback" in open_to_all.stderr
