"""What each member gets of what was said in a room during one tick, put together once for all who get the same.

Nothing is written here and nothing remembered: a bug in putting together has sent nobody anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sidecar.signaling.envelope import Dialect, Envelope, payload_size
from sidecar.signaling.outlet import Outlet
from sidecar.signaling.presence import Member

Said = tuple[Envelope, Sequence[Member] | None]
"""A signal, and who it is for; None: everyone but the connection it came from."""
Share = tuple[Sequence[Outlet], Sequence[bytes]]
"""The outlets of those who get the same, and the frames: joined when written, one share after the other, because where
many speak at once those of all together are more than a processor's cache holds."""
Delivery = tuple[Sequence[Share], int, int]
"""The shares, and what they come to in relayed signals: deliveries and payload bytes. Presence is not counted."""


class Talk:
    """The usual tick: signals to all others in a room where one dialect is spoken, in the order they came.

    Who is in the room does not change meanwhile.
    """

    __slots__ = ("_frames", "_sizes", "_speaker", "_speakers", "_starts", "envelopes")

    def __init__(self, speaker: Outlet | None) -> None:
        """`speaker` is who says the first of it; None: somebody on another replica."""
        self.envelopes: list[Envelope] = []
        self._frames: list[bytes] = []
        self._sizes: list[int] = []  # of their payloads
        self._speaker = speaker
        self._speakers = [speaker]  # turn by turn
        self._starts = [0]  # of each turn, among the frames

    def add(self, speaker: Outlet | None, envelope: Envelope, frame: bytes, size: int) -> None:
        """`speaker` says something, whose `frame` with `size` bytes of payload is made."""
        frames = self._frames
        if speaker is not self._speaker:
            self._speaker = speaker
            self._speakers.append(speaker)
            self._starts.append(len(frames))
        frames.append(frame)
        self._sizes.append(size)
        self.envelopes.append(envelope)

    def put_together(self, outlets: Sequence[Outlet]) -> Delivery:
        """What of it each of the room's `outlets` gets: all but what it said itself."""
        frames, sizes, starts, speakers = self._frames, self._sizes, self._starts, self._speakers
        others = len(outlets) - 1
        deliveries, size = others * len(frames), others * sum(sizes)
        if len(speakers) == 1 and self._speaker is not None:
            # No look at the members: in one of many rooms each would be a way to memory.
            receivers = list(outlets)
            receivers.remove(self._speaker)
            return ((receivers, frames),), deliveries, size
        shares: list[Share] = []
        spoke = set(speakers)
        for speaker, start, end in zip(speakers, starts, [*starts[1:], len(frames)], strict=True):
            if speaker is None:
                deliveries += end - start
                size += sum(sizes[start:end])
            elif len(spoke) == len(speakers):
                shares.append(((speaker,), frames[:start] + frames[end:]))
        if len(spoke) < len(speakers):
            shares += [((speaker,), self._not_of(speaker)) for speaker in spoke if speaker is not None]
        if len(spoke) < len(outlets) or None in spoke:
            shares.append(([outlet for outlet in outlets if outlet not in spoke], frames))
        return shares, deliveries, size

    def said(self, dialect: Dialect) -> list[Said]:
        """All of it by itself: there is more in this tick, or something went wrong."""
        for envelope, frame in zip(self.envelopes, self._frames, strict=True):
            envelope.keep(dialect, frame)
        return [(envelope, None) for envelope in self.envelopes]

    def _not_of(self, speaker: Outlet) -> list[bytes]:
        frames, starts = self._frames, self._starts
        turns = zip(self._speakers, starts, [*starts[1:], len(frames)], strict=True)
        return [frame for who, start, end in turns if who is not speaker for frame in frames[start:end]]


def put_together(
    said: Sequence[Said],
    *,
    members: Mapping[str, Member],
    outlets: Sequence[Outlet],
    dialects: Sequence[Dialect],
) -> Delivery:
    """What was said, in that order, for `members` (by connection id), whose are `outlets` and who speak `dialects`."""
    if len(said) == 1:
        envelope, targets = said[0]
        if targets is not None:
            return _directed(envelope, targets, members)
        if len(dialects) == 1 and not envelope.received_at:
            # Who came or went: by `_several` a connection's start would be a twelfth dearer.
            own = envelope.sender.outlet if isinstance(envelope.sender, Member) else None
            receivers = [outlet for outlet in outlets if outlet is not own]
            return ((receivers, [envelope.frame(dialects[0])]),), 0, 0
    return _several(said, members, dialects)


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
