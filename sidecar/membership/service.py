"""What the directory needs of whoever knows the memberships: the port that `chat_service.py` implements."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sidecar.membership.model import MemberKey, Membership

MAX_BATCH_KEYS = 256
KEYS_AT_A_TIME = 32
"""Of an answer, before the loop has its turn: messages wait for a fifth of a millisecond."""
Metadata = tuple[tuple[str, str], ...]


class Reason(StrEnum):
    """Why the chat service could not be asked."""

    DEADLINE = "no answer in time"
    UNREACHABLE = "not reachable"
    EXHAUSTED = "has too much to do"
    FAILED = "answered with an error"
    WRONG_ANSWER = "answered about another membership than asked"
    BREAKER_OPEN = "failed repeatedly and is not asked for a moment"
    OVERLOADED = "too many questions wait for an answer"
    CLOSED = "the sidecar is stopping"


class Unavailable(Exception):
    """The chat service gave no answer that can be used. `detail` is for logs, never for clients."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason


class WatchUnimplemented(Exception):
    """The chat service does not tell of changes: re-checks alone notice them."""


class CursorTooOld(Exception):
    """The stream cannot be resumed where it broke off: changes may have been missed."""


@dataclass(frozen=True, slots=True)
class WatchStarted:
    """The stream is open: changes from now on will come."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A membership as it is after a change; None: it ended."""

    cursor: str
    key: MemberKey
    membership: Membership | None


@dataclass(frozen=True, slots=True)
class MaybeChanged:
    """An event that says of whom, but contradicts itself about what: ask anew."""

    cursor: str
    key: MemberKey


@dataclass(frozen=True, slots=True)
class CursorMoved:
    """Nothing changed; the stream can be resumed from here."""

    cursor: str


WatchEvent = WatchStarted | Changed | MaybeChanged | CursorMoved


class MembershipService(Protocol):
    """Every call ends by itself, within a deadline of the implementation."""

    async def get(self, key: MemberKey, *, metadata: Metadata = ()) -> Membership | None:
        """The membership, or None where there is none.

        Raises:
            Unavailable: no usable answer.
        """

    async def batch(self, keys: Sequence[MemberKey]) -> Mapping[MemberKey, Membership]:
        """The memberships there are among at most `MAX_BATCH_KEYS` keys.

        Raises:
            Unavailable: no usable answer.
        """

    def watch(self, resume_after: str) -> AsyncGenerator[WatchEvent, None]:
        """Changes of all memberships, from after that cursor on (empty: from now on), until the stream ends.

        Raises:
            Unavailable: the stream broke; resume it.
            WatchUnimplemented: there is no such stream.
            CursorTooOld: begin with an empty cursor.
        """
