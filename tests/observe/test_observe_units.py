"""Small parts: quantiles of a timing, counters by label, the life of a certificate."""

from __future__ import annotations

import math
import ssl
import time

import pytest

from sidecar.observe.certificates import lives
from sidecar.observe.tally import Tally, Timing
from tests.authority import Authority


def test_a_quantile_is_the_bound_below_which_that_share_lies():
    timing = Timing((1.0, 2.0, 4.0))
    assert timing.quantile(0.5) is None
    for value in (0.5, 1.0, 1.5, 3.0):
        timing.observe(value)
    assert timing.quantile(0.5) == 1.0
    assert timing.quantile(0.75) == 2.0
    assert timing.quantile(1.0) == 4.0
    timing.observe(100.0)
    assert timing.quantile(1.0) == math.inf


def test_a_bucket_holds_its_own_bound():
    timing = Timing((1.0, 2.0))
    for value in (1.0, 2.0, 2.1):
        timing.observe(value)
    family = timing.family("x", "")
    assert [sample.value for sample in family.samples] == [1, 2, 3, 3, pytest.approx(5.1)]


def test_a_counter_has_what_is_expected_at_zero_and_counts_the_rest_as_it_comes():
    tally = Tally(("a",))
    tally.expect("b")
    tally.add("b")
    tally.expect("b")
    tally.add("c")
    assert dict(tally.items()) == {("a",): 0, ("b",): 1, ("c",): 1}
    assert tally.total() == 2


def _of_no_version(pem: bytes) -> bytes:
    """The certificate, said to be of X.509's version 9."""
    version = b"\xa0\x03\x02\x01"
    der = ssl.PEM_cert_to_DER_cert(pem.decode()).replace(version + b"\x02", version + b"\x08", 1)
    return ssl.DER_cert_to_PEM_cert(der).encode()


def test_of_a_chain_the_certificate_that_ends_first_counts():
    long, short = Authority(days=300).pem, Authority(days=3).pem
    key = Authority().issue("somebody").key
    found = lives(chain=long + short, none=None, garbage=b"nonsense", key_only=key, odd=_of_no_version(short))
    assert found.keys() == {"chain"}
    assert found["chain"].end - time.time() < 3.1 * 86400
    assert found["chain"].start < time.time()
