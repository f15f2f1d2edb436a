from __future__ import annotations

import pytest

from tests.chat_service import ChatServiceDouble


@pytest.fixture
async def chat():
    async with ChatServiceDouble() as chat:
        yield chat
