from __future__ import annotations

import pytest

from tests.bus.test_bus_model import ACCOUNTS, Network


@pytest.fixture
def network() -> Network:
    """Replicas of a simulated network, somebody in the room on each of the first two."""
    network = Network()
    for number in range(2):
        network.replicas[number].join(ACCOUNTS[number])
    network.settle(2)
    return network
