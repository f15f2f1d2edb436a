"""How a sidecar reaches NATS: where, as whom, and the client library with what rooms need of it.

The one place that touches nats-py's insides: a room's messages are taken in as they are read from the socket, without
a queue and a task for each subscription. tests/bus/test_bus_nats_client.py and the lock hold what this rests on.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from nats import errors
from nats.aio.client import Client, Srv

from sidecar.off_loop import OffLoop

CONNECT_SECONDS = 2.0
PING_SECONDS = 1
CLOSE_SECONDS = 1.0
PENDING_BYTES = 2 * 1024 * 1024
MAX_DISCOVERED = 16
NO_RESPONDERS = b"NATS/1.0 503"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Access:
    """Where the servers are, and who this is to them. Files are read anew for each connection."""

    servers: Sequence[str]
    credentials_file: Path | None = None
    nkey_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    tls_ca_file: Path | None = None

    @property
    def demands_tls(self) -> bool:
        return self.tls_ca_file is not None or any(server.startswith("tls://") for server in self.servers)

    def read(self) -> tuple[str | None, ssl.SSLContext | None]:
        """The password, and what TLS rests on where it is demanded: tens of milliseconds, not for the loop.

        Raises: OSError, ValueError.
        """
        password = self.password_file.read_text().strip() if self.password_file else None
        return password, ssl.create_default_context(cafile=self.tls_ca_file) if self.demands_tls else None


class RoomClient(Client):
    """One connection; once it is lost, it stays so: who owns it makes a new one."""

    def __init__(
        self,
        *,
        subjects: tuple[bytes, ...],
        on_message: Callable[[str, bytes], None],
        on_nobody: Callable[[str], None],
        on_problem: Callable[[Exception], None],
        clock: Callable[[], float],
    ) -> None:
        """`on_message` gets what comes on subjects that begin as `subjects`; `on_nobody` those nobody heard."""
        super().__init__()
        self.lost = asyncio.Event()
        self.heard_at = clock()
        self.discovered: list[Srv] = []
        """The other servers of this one's cluster, as it told last."""
        self._subjects = subjects
        self._on_message = on_message
        self._on_nobody = on_nobody
        self._on_problem = on_problem
        self._clock = clock
        self._demands_tls = False
        self._besides: list[Srv] = []

    async def open(
        self, access: Access, *, name: str, inbox_prefix: str, discovered: Sequence[Srv] = ()
    ) -> None:
        """Connect, once: to one of `access` or of those that an earlier connection discovered.

        Raises:
            OSError, nats.errors.Error, TimeoutError: no server could be used.
        """
        self._demands_tls = access.demands_tls
        configured = {urlsplit(server).netloc for server in access.servers}
        self._besides = _shuffled([server for server in discovered if server.uri.netloc not in configured])
        async with asyncio.timeout(CONNECT_SECONDS * (len(configured) + len(self._besides))):
            password, tls = await OffLoop(access.read)()
            await self.connect(
                _shuffled(access.servers),
                dont_randomize=True,
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=int(CONNECT_SECONDS),
                ping_interval=PING_SECONDS,
                max_outstanding_pings=2**31,  # whether anything is heard is judged by the owner
                no_echo=True,
                tls=tls,
                user=access.user,
                password=password,
                user_credentials=access.credentials_file,
                nkeys_seed=None if access.nkey_file is None else str(access.nkey_file),
                inbox_prefix=inbox_prefix,
                pending_size=PENDING_BYTES,
                skip_subject_validation=True,  # all are ours: GUIDs, tokens and checked settings
                error_cb=self._note,
                closed_cb=self._closed,
            )

    async def shut(self) -> None:
        """Close within a bound, however the peer is."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.close()
        except (TimeoutError, OSError, errors.Error, AssertionError):
            pass  # the last is the library's word where it never began to connect
        finally:
            writer = getattr(self._transport, "_io_writer", None)
            if writer is not None:
                writer.transport.abort()

    def _setup_server_pool(self, connect_url: list[str]) -> None:
        """What was configured comes first: addresses that an earlier connection told of may be gone."""
        super()._setup_server_pool(connect_url)
        self._server_pool += self._besides

    async def _note(self, problem: Exception) -> None:
        self._on_problem(problem)

    async def _closed(self) -> None:
        self.lost.set()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        """Never go on in the clear where TLS was asked for: credentials would be next."""
        if initial_connection and self._demands_tls and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise errors.Error("nats: TLS is demanded, but the server offers none")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)
        if told := info.get("connect_urls"):
            others = [
                server for server in self._server_pool if server.discovered and server.uri.netloc in told
            ]
            self.discovered = [replace(server, reconnects=0, last_attempt=None) for server in others]
            del self.discovered[MAX_DISCOVERED:]

    async def _process_msg(
        self,
        sid: int,
        subject: bytes,
        reply: bytes,
        data: bytes,
        headers: Any,  # the library says bytes, and passes None
    ) -> None:
        self.heard_at = self._clock()
        if not subject.startswith(self._subjects):
            await super()._process_msg(sid, subject, reply, data, headers)
        elif headers is None:
            self._on_message(subject.decode("ascii", "replace"), data)
        elif headers.startswith(NO_RESPONDERS):
            self._on_nobody(subject.decode("ascii", "replace"))
        else:
            self._on_message(subject.decode("ascii", "replace"), data)

    async def _process_pong(self) -> None:
        self.heard_at = self._clock()
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)  # who waited for it gave up; the library would stop reading over it
        else:
            await super()._process_pong()


def _shuffled(these: Sequence[_T]) -> list[_T]:
    """In another order on each replica, so that they spread."""
    return random.sample(these, len(these))
