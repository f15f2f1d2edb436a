"""What end-to-end tests share: keys, a chat service whose answers the test sets, and a sidecar that asks it."""

from __future__ import annotations

import pytest

from sidecar.dev.issuer import Issuer
from tests.chat_service import ChatServiceDouble
from tests.harness import auth_settings, run_sidecar


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
