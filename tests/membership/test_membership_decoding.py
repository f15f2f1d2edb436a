from __future__ import annotations

import json

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from sidecar._proto.dyson.chat.v1 import membership_pb2 as pb
from sidecar.membership import decoding
from sidecar.membership.model import MemberKey
from sidecar.membership.service import KEYS_AT_A_TIME
from sidecar.rfc3339 import rfc3339
from tests.harness import LoopTurns, guid

KEY = MemberKey("10bb1000-0000-4000-8000-00000000000a", "a11ce000-0000-4000-8000-000000000001")

NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PROFILES = st.dictionaries(st.text(), JSON, max_size=3)


def message(**fields) -> pb.Membership:
    return pb.Membership(room_id=KEY.room_id, account_id=KEY.account_id, **fields)


def decoded(one: pb.Membership, *, max_profile_bytes: int = 0):
    return decoding.membership(one, KEY, max_profile_bytes=max_profile_bytes)


def with_profile(profile: dict[str, object]) -> pb.Membership:
    struct = Struct()
    struct.update(profile)
    return message(account=pb.Account(profile=struct))


@given(PROFILES)
def test_a_profile_comes_through_as_the_json_it_was(profile):
    assert json.loads(decoded(with_profile(profile)).profile) == profile


@given(st.dictionaries(st.text(), st.integers(-(2**53), 2**53)))
def test_integers_stay_integers(profile):
    assert b"." not in decoded(with_profile({"n": list(profile.values())})).profile


@given(PROFILES)
def test_the_same_profile_always_has_the_same_bytes(profile):
    backwards = dict(reversed(profile.items()))
    assert decoded(with_profile(profile)) == decoded(with_profile(backwards))


@given(PROFILES, st.integers(1, 200))
def test_a_profile_is_never_longer_than_the_limit(profile, limit):
    whole = decoded(with_profile(profile)).profile
    assert decoded(with_profile(profile), max_profile_bytes=limit).profile == (
        whole if len(whole) <= limit else b"{}"
    )


def test_numbers_json_does_not_have_become_null():
    struct = Struct()
    for name, number in (("a", float("nan")), ("b", float("inf")), ("c", 2.0**60)):
        struct.fields[name].number_value = number
    struct.fields["d"]
    profile = decoded(message(account=pb.Account(profile=struct))).profile
    assert json.loads(profile) == {"a": None, "b": None, "c": 2.0**60, "d": None}


def test_texts_are_cut_at_256_characters():
    one = decoded(message(nick="n" * 300, account=pb.Account(name="é" * 300, nick="x" * 256)))
    assert (len(one.nick), len(one.account_name), len(one.account_nick)) == (256, 256, 256)


@pytest.mark.parametrize("seconds", [0, -62_135_596_800, 253_402_300_799, 2**62, -(2**62)])
def test_any_time_can_be_written(seconds):
    one = message()
    one.timeout_until.seconds = seconds
    one.timeout_until.nanos = 999_999_999
    rfc3339(decoded(one).timeout_until)


def test_what_is_not_set_is_none_and_the_epoch_is_a_time():
    one = message()
    assert (decoded(one).joined_at, decoded(one).leave_at, decoded(one).updated_at) == (None, None, None)
    one.joined_at.SetInParent()
    assert decoded(one).joined_at == 0.0


@pytest.mark.parametrize("text", ["", "a11ce000", KEY.account_id + "0", "{" + KEY.account_id + "}", "𝟎" * 32])
def test_what_is_not_a_guid_is_nobody(text):
    with pytest.raises(decoding.WrongAnswerError):
        decoding.membership(pb.Membership(room_id=KEY.room_id, account_id=text), KEY, max_profile_bytes=0)


async def test_the_loop_has_its_turn_while_a_long_answer_is_decoded():
    keys = [MemberKey(guid(), guid()) for _ in range(256)]
    messages = [pb.Membership(room_id=key.room_id, account_id=key.account_id) for key in keys]
    with LoopTurns() as turns:
        found = await decoding.memberships(messages, keys, max_profile_bytes=0)
    assert list(found) == keys
    assert turns.number >= 256 / KEYS_AT_A_TIME - 1
