"""Rooms without sockets, as the hub makes them: for counting only."""

from __future__ import annotations

from sidecar.bus.local import LocalBus
from sidecar.observe.metrics import Metrics
from sidecar.observe.refusals import Refusals
from sidecar.signaling.envelope import Dialect, Identity
from sidecar.signaling.hub import Hub
from sidecar.signaling.outlet import Outlet
from sidecar.signaling.packets import Signal
from sidecar.signaling.presence import Member
from tests.harness import guid


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Nowhere(Outlet):
    def __init__(self) -> None:
        super().__init__()

    def fail(self, error: Exception) -> None:
        raise error

    def write(self, data: bytes) -> None:
        pass


def metrics_of(*, max_rooms: int = 0, room_label: bool = True, clock: Clock | None = None) -> Metrics:
    return Metrics(
        max_rooms=max_rooms,
        room_label=room_label,
        connections_limit=10,
        refusals=Refusals(),
        clock=clock or Clock(),
    )


def hub_of(
    metrics: Metrics, *, stale: bool = False, breaker_open: bool = False, bus_connected: bool | None = None
) -> Hub:
    """A hub that `metrics` watches, in a process whose state is as the arguments say; `bus_connected` None: no bus."""
    hub = Hub(
        bus=LocalBus(),
        schedule=lambda flush: flush,
        instruments=metrics,
        counters=metrics.rooms,
        max_room_connections=0,
        max_connections_per_account=0,
    )
    metrics.watch(
        hub=hub,
        connections=lambda: 0,
        unsent_bytes=lambda: 0,
        stale=lambda: stale,
        breaker_open=lambda: breaker_open,
        bus_configured=bus_connected is not None,
        bus_connected=lambda: bool(bus_connected),
    )
    return hub


def join(hub: Hub, room_id: str, account_id: str | None = None) -> Member:
    identity = Identity(account_id=account_id or guid(), name="", nick="", profile=b"{}", updated_at=0.0)
    member, _ = hub.join(
        room_id,
        connection_id=guid(),
        identity=identity,
        joined_at=0.0,
        dialect=Dialect.GUIDE,
        outlet=Nowhere(),
    )
    return member


def say(member: Member, kind: str = "offer", *, size: int = 10) -> None:
    """One signal to everyone else in the room, written at once."""
    member.room.post(
        member, Signal(type=kind, data=b"{}", to=None, to_connection=None), size=size, received_at=1.0
    )
    member.room.flush()


async def samples(metrics: Metrics) -> dict[str, float]:
    """Samples of the page by name with labels, without the namespace."""
    page, _ = await metrics.page("")
    lines = [line.rpartition(" ") for line in page.decode().splitlines() if not line.startswith("#")]
    return {name.removeprefix("sphere_sidecar_"): float(value) for name, _, value in lines}
