"""Connections through rooms that come and go leave nothing. `LEAK_CONNECTIONS=100000` is the long run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.fire.raw import begin, close, dial
from tests.harness import guid, until

CONNECTIONS = int(os.environ.get("LEAK_CONNECTIONS", "3000"))
AT_ONCE = 20
MB = 2**20


async def test_connections_that_come_and_go_leave_memory_and_files_as_they_were(
    start, chat, issuer, record_property
):
    settings = {
        "handshake_rate": 0,
        "address_handshake_rate": 0,
        "log_level": "warning",
        "metrics_max_rooms": 50,
    }
    async with start(**settings | {"log_level": "info"}) as sidecar:
        process = Path(f"/proc/{sidecar.process.pid}")

        def resident() -> int:
            return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        accounts = [guid() for _ in range(AT_ONCE)]
        tokens = [issuer.token(account, ttl_seconds=24 * 3600) for account in accounts]
        numbers = iter(range(CONNECTIONS))

        async def come_and_go(worker: int) -> None:
            for number in numbers:
                room = guid()
                chat.allow(room, accounts[worker])
                async with dial(sidecar) as peer:
                    await begin(peer, room, tokens[worker])
                    peer.say({"type": "ping"})
                    assert (await peer.packet()) == {"type": "pong"}
                    if number % 2:
                        peer.send(close(1000))
                        await peer.gone()
                chat.deny(room, accounts[worker])
                if number == CONNECTIONS // 3:  # caches have their sizes by now
                    marks.append((resident(), len(list((process / "fd").iterdir()))))
                sidecar.log.clear()
                sidecar.raw_log.clear()

        marks: list[tuple[int, int]] = []
        async with asyncio.TaskGroup() as tasks:
            for worker in range(AT_ONCE):
                tasks.create_task(come_and_go(worker))

        async def gone() -> bool:
            metrics = await sidecar.metrics()
            return metrics["sphere_sidecar_connections"] == metrics["sphere_sidecar_rooms"] == 0

        await until(gone, "nobody is left")
        ((memory, files),) = marks
        await until(lambda: len(list((process / "fd").iterdir())) <= files + 2, "files are closed")
        grown = resident() - memory
        print(f"{CONNECTIONS} connections: {memory / MB:.1f} MB after a third, {grown / MB:+.1f} MB since")
        assert grown < 8 * MB
