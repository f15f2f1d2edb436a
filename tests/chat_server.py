"""The program of `chat_process.py`: a membership server for tests that kill it.

`python chat_server.py HOST:PORT ROOM ACCOUNT ROOM ACCOUNT …`

Those accounts are members of those rooms. It prints a line when it listens.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chat_service import ChatServiceDouble


async def main(address: str, *ids: str) -> None:
    chat = ChatServiceDouble()
    for room_id, account_id in zip(ids[::2], ids[1::2], strict=True):
        chat.allow(room_id, account_id)
    await chat.start(address)
    print("listening", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
