"""Whether what is known of others still holds: asked in turn, a few rooms at a time.

What is lost shows by its number, as soon as anything comes after it; the last of all that is said has nothing after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from sidecar.bus.link import Link
from sidecar.bus.replicas import Replicas

CHECKED_SECONDS = 30.0
"""How long what is believed of another replica in a room may go without its word that it is still so."""


class Checks:
    """Goes round the rooms, all of them within `CHECKED_SECONDS`."""

    def __init__(self, *, links: Mapping[str, Link], replicas: Replicas, look_seconds: float) -> None:
        """`due` is called every `look_seconds`."""
        self._links = links
        self._replicas = replicas
        self._share = look_seconds / CHECKED_SECONDS
        self._left: list[str] = []

    def due(self) -> dict[str, list[tuple[str, int, int]]]:
        """What to ask now, by replica: rooms, and the last that is known of it in each."""
        if not self._left:
            self._left = list(self._links)
        questions: dict[str, list[tuple[str, int, int]]] = {}
        turns = ceil(len(self._links) * self._share)
        while turns and self._left:
            link = self._links.get(self._left.pop())
            if link is not None:  # one that is gone since takes no other's turn
                turns -= 1
                self._check(link, questions)
        return questions

    def _check(self, link: Link, questions: dict[str, list[tuple[str, int, int]]]) -> None:
        for origin, view in link.views.items():
            if not view.here or self._replicas.is_lost(origin):
                continue
            if view.hidden:
                link.ask(origin)  # it is back, and what was asked of it then was lost
            else:
                questions.setdefault(origin, []).append(link.known_of(origin))
