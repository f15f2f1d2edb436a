"""What end-to-end tests share: keys, a chat service whose answers the test sets, and a sidecar that asks it."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import pytest
import pytest_asyncio

from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.harness import Client, Sidecar, auth_settings, guid, run_sidecar


def pytest_collection_modifyitems(items):
    """Tests that share the world below share its loop and come first: its chat service stands still in others'."""
    modules = {item.module: number for number, item in enumerate(reversed(items))}
    shared = set()
    for item in items:
        worlds = item._fixtureinfo.name2fixturedefs.get("world", ())
        if worlds and worlds[-1].scope == "module":
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)
            shared.add(item)
    items.sort(key=lambda item: (-modules[item.module], item not in shared))


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open():
    """What a module left open warns here, where it fails the module that left it, not whoever runs next."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def issuer(tmp_path_factory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture
async def chat():
    async with ChatServiceDouble() as double:
        yield double


@pytest.fixture
def start(issuer, chat):
    """`async with start(setting=value) as sidecar:` with keys and membership already set."""

    def run(**settings):
        return run_sidecar(**(auth_settings(issuer) | {"membership_target": chat.target} | settings))

    return run


@pytest.fixture
async def sidecar(start):
    async with start() as running:
        yield running


@dataclass
class World:
    """One sidecar for all tests of a module, that judges everybody but limits nobody."""

    sidecar: Sidecar
    chat: ChatServiceDouble
    issuer: Issuer

    async def join(self, room: str, account: str | None = None, **options) -> Client:
        """A new member's connection; `account` None: somebody new."""
        account = account or guid()
        membership = {
            name: options.pop(name) for name in ("nick", "account_name", "profile") if name in options
        }
        self.chat.allow(room, account, **membership)
        client = await self.sidecar.connect(room, self.issuer.token(account), **options)
        client.account = account
        return client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(issuer):
    async with (
        ChatServiceDouble() as chat,
        run_sidecar(
            **auth_settings(issuer),
            membership_target=chat.target,
            allowed_origins="https://app.example.org,https://*.example.net",
            address_handshake_rate=0,
            handshake_rate=0,
            auth_failures_per_minute=0,
        ) as sidecar,
    ):
        yield World(sidecar, chat, issuer)
