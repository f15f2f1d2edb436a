"""GUIDs as the network writes them."""

from __future__ import annotations

import uuid

from sidecar.guid import canonical_guid, new_guid


def test_a_new_one_is_canonical_random_and_says_so():
    made = {new_guid() for _ in range(1000)}
    assert len(made) == 1000
    for guid in made:
        assert canonical_guid(guid) is guid
        assert (uuid.UUID(guid).version, uuid.UUID(guid).variant) == (4, uuid.RFC_4122)
    # Whatever else may be random, is.
    ones = zeros = 0
    for guid in made:
        ones |= uuid.UUID(guid).int
        zeros |= ~uuid.UUID(guid).int
    assert (ones & zeros & (1 << 128) - 1).bit_count() == 128 - len("0100") - len("10")
