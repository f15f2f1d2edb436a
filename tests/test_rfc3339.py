"""Times as the network writes them."""

from __future__ import annotations

import pytest

from sidecar.rfc3339 import rfc3339


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1795918445.25, "2026-11-29T02:14:05.250Z"),
        (1795918445.001, "2026-11-29T02:14:05.001Z"),  # a little less as a float
        (1795918445.9999, "2026-11-29T02:14:05.999Z"),
        (1795918445.9999999, "2026-11-29T02:14:06.000Z"),
        (-0.001, "1969-12-31T23:59:59.999Z"),
        (-62_135_596_800.0, "0001-01-01T00:00:00.000Z"),
        (253_402_300_799.0, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_to_the_millisecond_the_microseconds_beyond_it_cut_off(seconds, written):
    assert rfc3339(seconds) == written
