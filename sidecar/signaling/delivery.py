"""What each member gets of what was said in a room during one tick, put together once for all who get the same.

Nothing is written here and nothing remembered: a bug in putting together has sent nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sidecar.signaling.envelope import Dialect, Envelope, payload_size
from sidecar.signaling.presence import Member, Outlet

Said = tuple[Envelope, Sequence[Member] | None]
"""A signal, and who it is for; None: everyone but the connection it came from."""
Share = tuple[Sequence[Outlet], Sequence[bytes]]
"""The outlets of those who get the same, and the frames: joined when written, one share after the other, because where
many speak at once those of all together are more than a processor's cache holds."""
Delivery = tuple[Sequence[Share], int, int]
"""The shares, and what they come to in relayed signals: deliveries and payload bytes. Presence is not counted."""


def put_together(
    said: Sequence[Said],
    *,
    members: Mapping[str, Member],
    outlets: Sequence[Outlet],
    dialects: Sequence[Dialect],
) -> Delivery:
    """What was said, in that order, for `members` (by connection id), whose are `outlets` and who speak `dialects`."""
    envelope, targets = said[0]
    if targets is not None and len(said) == 1:
        return _directed(envelope, targets, members)
    if len(dialects) != 1:
        return _several(said, members, dialects)
    # The usual tick: what one of them said, to everyone else, in the one dialect that is spoken here.
    speaker = envelope.sender
    frames = []
    size = signals = 0
    for envelope, targets in said:
        if targets is not None or envelope.sender is not speaker:
            return _several(said, members, dialects)
        frame = envelope.frame(dialects[0])
        frames.append(frame)
        if envelope.received_at:
            signals += 1
            size += payload_size(frame)
    receivers = list(outlets)  # no look at the members: in one of many rooms each would be a way to memory
    if isinstance(speaker, Member):
        try:  # noqa: SIM105 - `suppress` would cost as much as the rest of this
            receivers.remove(speaker.outlet)
        except ValueError:
            pass  # it left in this tick
    number = len(receivers)
    return ((receivers, frames),), number * signals, number * size


def for_one(receiver: Member, said: Iterable[Said]) -> list[bytes]:
    """The frames of one member: the plain definition of what `put_together` gives each."""
    return [
        envelope.frame(receiver.dialect)
        for envelope, targets in said
        if (envelope.sender is not receiver if targets is None else receiver in targets)
    ]


def _directed(envelope: Envelope, targets: Sequence[Member], members: Mapping[str, Member]) -> Delivery:
    """A tick with one signal for a few."""
    shares: list[Share] = []
    size = 0
    for receiver in targets:
        if receiver.connection_id in members:
            frame = envelope.frame(receiver.dialect)
            shares.append(((receiver.outlet,), (frame,)))
            size += payload_size(frame)
    return shares, len(shares), size


class _Own:
    """What one member gets, where it is not just what all get."""

    __slots__ = ("frames", "taken")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.taken = 0
        """How many of the frames to all it has, or has passed over."""


def _several(said: Sequence[Said], members: Mapping[str, Member], dialects: Sequence[Dialect]) -> Delivery:
    to_all: dict[Dialect, list[bytes]] = {dialect: [] for dialect in dialects}
    speakers = _speakers(members, dialects)
    apart: dict[Member, _Own] = {}
    deliveries = size = 0
    for envelope, targets in said:
        if targets is None:
            origin = members.get(envelope.sender.connection_id)
            if origin is not None:
                _up_to_date(apart, origin, to_all)
            for dialect, frames in to_all.items():
                frame = envelope.frame(dialect)
                frames.append(frame)
                if envelope.received_at:
                    number = speakers[dialect] - (origin is not None and origin.dialect is dialect)
                    deliveries += number
                    size += number * payload_size(frame)
            if origin is not None:
                apart[origin].taken += 1  # its own: passed over
        else:
            for target in targets:
                if target.connection_id in members:
                    frame = envelope.frame(target.dialect)
                    _up_to_date(apart, target, to_all).append(frame)
                    deliveries += 1
                    size += payload_size(frame)
    return _shares(members, to_all, apart), deliveries, size


def _speakers(members: Mapping[str, Member], dialects: Sequence[Dialect]) -> dict[Dialect, int]:
    if len(dialects) == 1:
        return {dialects[0]: len(members)}
    numbers = dict.fromkeys(dialects, 0)
    for member in members.values():
        numbers[member.dialect] += 1
    return numbers


def _shares(
    members: Mapping[str, Member], to_all: dict[Dialect, list[bytes]], apart: dict[Member, _Own]
) -> list[Share]:
    """Shared bytes to those who get just what is said to all; to the others, their own."""
    shares: list[Share] = []
    for dialect, frames in to_all.items():
        if frames:
            receivers = [
                member.outlet
                for member in members.values()
                if member.dialect is dialect and member not in apart
            ]
            shares.append((receivers, frames))
    for member in apart:
        own = _up_to_date(apart, member, to_all)
        if own:
            shares.append(((member.outlet,), own))
    return shares


def _up_to_date(apart: dict[Member, _Own], member: Member, to_all: dict[Dialect, list[bytes]]) -> list[bytes]:
    """The frames of a member apart, with what was said to all so far."""
    own = apart.get(member)
    if own is None:
        own = apart[member] = _Own()
    frames = to_all[member.dialect]
    if own.taken < len(frames):
        own.frames += frames[own.taken :]
        own.taken = len(frames)
    return own.frames
