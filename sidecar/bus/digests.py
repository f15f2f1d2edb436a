"""Many names remembered in few bytes: what a set of strings would need ten times the memory for."""

from __future__ import annotations

from hashlib import blake2b

DIGEST_BYTES = 8
_HEAD_BYTES = 2
_TAIL_BYTES = DIGEST_BYTES - _HEAD_BYTES


def digest_of(name: str) -> bytes:
    """Eight bytes for a name: of a million names, one in 10^13 others is taken for one of them."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


class Digests:
    """A set of digests; those that begin alike share one string of bytes."""

    def __init__(self) -> None:
        self._tails: dict[bytes, bytes] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, digest: bytes) -> bool:
        tail = digest[_HEAD_BYTES:]
        tails = self._tails.get(digest[:_HEAD_BYTES], b"")
        at = tails.find(tail)
        while at > 0 and at % _TAIL_BYTES:  # found across two of them
            at = tails.find(tail, at + 1)
        return at >= 0

    def add(self, digest: bytes) -> None:
        """One that is in already stays so."""
        if digest not in self:
            head = digest[:_HEAD_BYTES]
            self._tails[head] = self._tails.get(head, b"") + digest[_HEAD_BYTES:]
            self._count += 1
