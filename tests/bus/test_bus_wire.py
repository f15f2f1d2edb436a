"""Two releases side by side: what one says more, the other passes over; what it does not say has a meaning."""

from __future__ import annotations

import msgspec
import pytest

from sidecar.bus import wire

OLDER = [
    wire.Mark("a", "room", 1, 2),
    wire.Ask("a", [("room", 1, 2)]),
    wire.State("a", "room", 1, 2, 0, True, [], []),
]


@pytest.mark.parametrize("message", OLDER, ids=lambda message: type(message).__name__)
def test_a_message_without_the_fields_added_since_is_read(message):
    encoded = msgspec.msgpack.encode(msgspec.msgpack.decode(wire.encode(message)[1:])[:-1])
    assert wire.decode(bytes((wire.VERSION,)) + encoded) == message


@pytest.mark.parametrize("message", OLDER, ids=lambda message: type(message).__name__)
def test_fields_that_a_later_release_adds_are_passed_over(message):
    encoded = msgspec.msgpack.encode([*msgspec.msgpack.decode(wire.encode(message)[1:]), "later", {"on": 1}])
    assert wire.decode(bytes((wire.VERSION,)) + encoded) == message
