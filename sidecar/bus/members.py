"""Memberships that changed, as the chat service may tell: the cheap alternative to streaming them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from sidecar.guid import canonical_guid


class _Changed(msgspec.Struct):
    room_id: str
    account_id: str


_event = msgspec.json.Decoder(_Changed)


class MemberEvents:
    """Follows the subject; one that was missed while the bus was away is made up for by the next re-check."""

    def __init__(
        self,
        *,
        subject: str,
        on_changed: Callable[[str, str], None],
        on_bad_event: Callable[[], None],
    ) -> None:
        """`on_changed` gets room and account, both canonical GUIDs."""
        self._subject = subject
        self._on_changed = on_changed
        self._on_bad_event = on_bad_event

    async def follow(self, client: Client) -> None:
        await client.subscribe(self._subject, cb=self._on_event)
        await asyncio.Event().wait()

    async def _on_event(self, msg: Msg) -> None:
        try:
            event = _event.decode(msg.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._on_bad_event()
            return
        room_id, account_id = canonical_guid(event.room_id), canonical_guid(event.account_id)
        if room_id is None or account_id is None:
            self._on_bad_event()
        else:
            self._on_changed(room_id, account_id)
