"""A replica that stands alone: there is nobody elsewhere to tell."""

from __future__ import annotations

from sidecar.signaling.envelope import Envelope
from sidecar.signaling.presence import Presence
from sidecar.signaling.room import Room


class LocalBus:
    """The bus without a server: rooms end at this process."""

    def open(self, room: Room) -> None:
        pass

    def close(self, room: Room) -> None:
        pass

    def settled(self, room_id: str) -> bool:  # noqa: ARG002 - the port's
        return True

    async def settle(self, room_id: str) -> None:
        pass

    def joined(self, room_id: str, presence: Presence) -> None:
        pass

    def left(self, room_id: str, presence: Presence) -> None:
        pass

    def publish(self, room_id: str, envelope: Envelope) -> None:
        pass
