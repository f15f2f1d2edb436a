"""What is known here of another replica's side of a room."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.bus import wire
from sidecar.signaling.presence import Presence

Heard = Mapping[str, tuple[int, int]]
"""By origin: epoch and number of its last entry taken in."""


class View:
    """One other replica's side of a room, as far as it was heard."""

    __slots__ = ("_parts", "asked_at", "end", "epoch", "held", "here", "hidden", "seq", "unsaid")

    def __init__(self) -> None:
        self.epoch = 0
        """When the other opened the room, in its own count; 0: nothing is known yet."""
        self.seq = 0
        """Its last entry taken in."""
        self.end = (0, 0)
        """Epoch and number of the last entry that anyone spoke of."""
        self.here: dict[str, Presence] = {}
        self.held: dict[tuple[int, int], wire.Entry] = {}
        """Entries that came before an earlier one did, by epoch and number."""
        self.hidden = False
        """It is lost: its people are not shown, what was known of them is kept for its return."""
        self.unsaid: list[wire.Said] = []
        """Said while hidden, for when they are shown again."""
        self._parts: list[wire.State] = []
        self.asked_at = 0.0
        """When it was last asked for what is missing; 0: nothing is."""

    @property
    def lacks(self) -> bool:
        """Whether anyone spoke of an entry that did not come."""
        return self.end > (self.epoch, self.seq)

    def note_end(self, epoch: int, seq: int) -> None:
        self.end = max(self.end, (epoch, seq))

    def pop_said_before(self, state: wire.State) -> list[wire.Said]:
        """What is held of the signals that led to this state, in order: they are told by nothing else."""
        numbers = sorted(
            number for number in self.held if (state.epoch, 0) < number <= (state.epoch, state.seq)
        )
        entries = [self.held.pop(number) for number in numbers]
        return [entry for entry in entries if isinstance(entry, wire.Said)]

    def whole(self, part: wire.State) -> list[wire.Here] | None:
        """Everyone in a state, once its last part is here; None before, and when a part was lost: ask again."""
        if part.part == 0:
            self._parts = []
        parts = self._parts
        if part.part != len(parts) or (parts and (parts[0].epoch, parts[0].seq) != (part.epoch, part.seq)):
            self._parts = []
            return None
        parts.append(part)
        if not part.last:
            return None
        self._parts = []
        return [one for each in parts for one in each.here]
