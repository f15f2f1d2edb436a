import json
import math
import uuid

import pytest
from auth_issuer import ACCOUNT, AUDIENCE, ISSUER, NOW, claims
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.auth.claims import Principal, Use, parse
from sidecar.errors import Refusal, RefusalCode

LEEWAY = 60
MISSING = None


def judge(payload, *, bot=False, now=NOW):
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    judged = parse(body, issuers={ISSUER, "other"}, audiences={AUDIENCE, "web"})
    judged.check(bot=bot, now=now, leeway_seconds=LEEWAY)
    return judged


def outcome(payload, *, bot=False, now=NOW):
    """The principal, or the code of the refusal."""
    try:
        return judge(payload, bot=bot, now=now)
    except Refusal as refusal:
        return refusal.code


def is_principal(judged):
    return isinstance(judged, Principal)


RIGHT = Principal(
    account_id=ACCOUNT,
    use=Use.USER,
    session_id="5b0c3c0e-session",
    name="alice",
    nick="Alice",
    issued_at=NOW,
    expires_at=NOW + 300,
    valid_from=NOW,
)


def test_right_claims_become_a_principal():
    assert judge(claims()) == RIGHT


@pytest.mark.parametrize(
    "issuer", ["", "Solar-Network", "solar-network ", 1, ["solar-network"], {"a": 1}, True, MISSING]
)
def test_another_issuer_is_refused(issuer):
    assert outcome(claims(iss=issuer)) is RefusalCode.UNAUTHORIZED
    assert outcome(json.dumps(claims() | {"iss": issuer}).encode()) is RefusalCode.UNAUTHORIZED


@pytest.mark.parametrize("audience", ["api", "web", ["api"], ["x", "web"], ["api", "web"]])
def test_an_audience_of_ours_among_any_is_enough(audience):
    assert judge(claims(aud=audience)) == RIGHT


@pytest.mark.parametrize(
    "audience", ["", "API", "ap", [], ["x"], ["api", 1], [["api"]], {"api": 1}, 1, True, MISSING]
)
def test_another_audience_is_refused(audience):
    assert outcome(claims(aud=audience)) is RefusalCode.UNAUTHORIZED


# Every pair of claims that may say the use, every scheme: who gets in.
USES = [
    ({}, Use.USER),
    ({"type": "user"}, Use.USER),
    ({"type": "api_key"}, Use.API_KEY),
    ({"type": "refresh"}, None),
    ({"token_use": "user"}, Use.USER),
    ({"token_use": "api_key"}, Use.API_KEY),
    ({"token_use": "refresh"}, None),
    ({"type": "user", "token_use": "refresh"}, Use.USER),
    ({"type": "refresh", "token_use": "user"}, None),
    ({"type": "api_key", "token_use": "user"}, Use.API_KEY),
    ({"type": "user", "token_use": "api_key"}, Use.USER),
    ({"type": "User"}, None),
    ({"type": "access"}, None),
    ({"type": ""}, None),
    ({"type": None}, None),
    ({"type": 0, "token_use": "user"}, None),
    ({"type": ["user"]}, None),
    ({"type": True}, None),
    ({"token_use": None}, None),
]


@pytest.mark.parametrize(("members", "use"), USES)
def test_only_user_tokens_pass_as_bearer_and_only_api_keys_as_bot(members, use):
    payload = json.dumps(claims(type=MISSING) | members).encode()
    as_bearer, as_bot = outcome(payload), outcome(payload, bot=True)
    assert as_bearer == (RIGHT if use is Use.USER else RefusalCode.UNAUTHORIZED)
    assert as_bot == (replace(RIGHT, use=Use.API_KEY) if use is Use.API_KEY else RefusalCode.UNAUTHORIZED)


def test_only_an_api_key_may_live_for_ever():
    assert judge(claims(type="api_key", exp=MISSING), bot=True).expires_at is None
    assert outcome(claims(exp=MISSING)) is RefusalCode.UNAUTHORIZED
    assert (
        outcome(json.dumps(claims(type="api_key") | {"exp": None}).encode(), bot=True)
        is RefusalCode.UNAUTHORIZED
    )
    assert outcome(claims(type="api_key", exp=NOW - LEEWAY), bot=True) is RefusalCode.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"exp": NOW - LEEWAY + 1}, True),
        ({"exp": NOW - LEEWAY + 0.5}, True),
        ({"exp": NOW - LEEWAY}, RefusalCode.TOKEN_EXPIRED),
        ({"exp": 0}, RefusalCode.TOKEN_EXPIRED),
        ({"nbf": NOW + LEEWAY}, True),
        ({"nbf": NOW + LEEWAY + 1}, RefusalCode.UNAUTHORIZED),
        ({"nbf": 0}, True),
        ({"nbf": -62135596800}, True),
        ({"iat": NOW + LEEWAY}, True),
        ({"iat": NOW + LEEWAY + 1}, RefusalCode.UNAUTHORIZED),
        ({"iat": MISSING}, True),
        ({"exp": 253402300799}, True),
        ({"exp": 253402300800}, RefusalCode.UNAUTHORIZED),
        ({"exp": NOW - LEEWAY, "nbf": NOW + LEEWAY + 1}, RefusalCode.UNAUTHORIZED),
        ({"exp": NOW - LEEWAY, "aud": "x"}, RefusalCode.UNAUTHORIZED),
        ({"exp": NOW - LEEWAY, "type": "refresh"}, RefusalCode.UNAUTHORIZED),
        ({"exp": NOW - LEEWAY, "type": "api_key"}, RefusalCode.UNAUTHORIZED),
        ({"exp": NOW - LEEWAY, "sub": "x"}, RefusalCode.UNAUTHORIZED),
    ],
)
def test_times_are_judged_with_leeway_and_expiry_only_when_all_else_is_right(changes, expected):
    judged = outcome(claims(**changes))
    assert is_principal(judged) if expected is True else judged is expected


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("form", [str, float, lambda at: f"{at}.0", lambda at: at])
def test_a_time_may_be_a_number_or_a_number_in_a_string(claim, form):
    assert is_principal(outcome(claims(**{claim: form(NOW)})))


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "literal",
    [
        *('"soon"', '""', '" 1800000000"', '"1.8e9"', '"1800000000\\n"', '"inf"', '"nan"', '"0x1"', '"1_0"'),
        *('"\u0661\u0668"', "true", "false", "null", "[]", "[1800000000]", "{}", "NaN", "1e999", "-1e999"),
        *("1e300", "9" * 400, '"' + "9" * 400 + '"'),
    ],
)
def test_a_time_of_another_shape_is_refused(claim, literal):
    rest = json.dumps(claims(**{claim: MISSING}))[:-1]
    assert outcome(f'{rest},"{claim}":{literal}}}'.encode()) is RefusalCode.UNAUTHORIZED


def test_numbers_in_strings_elsewhere_are_tolerated():
    assert judge(claims(ver="3", epoch="17", perk_level="2", is_superuser=True, x=1e308)) == RIGHT


@given(
    st.uuids(), st.sampled_from([str, lambda u: u.hex]), st.sampled_from([str.lower, str.upper, str.title])
)
def test_every_form_of_a_guid_is_one_account(account, form, case):
    assert judge(claims(sub=case(form(account)))).account_id == str(account)


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-fA-F{}()-]{30,40}"))
@example("{0f8fad5b-d9cb-469f-a165-70867728950e}")
@example("urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e")
@example("0f8fad5b-d9cb-469f-a165-70867728950e\n")
@example("0f8fad5bd9cb-469f-a165-70867728950e")
@example("0f8fad5b-d9cb469fa16570867728950e")
@example("0f8fad5bd9cb469fa16570867728950")
@example("\u0660f8fad5b-d9cb-469f-a165-70867728950e")
def test_a_sub_of_another_shape_is_refused(sub):
    try:
        is_guid = sub.isascii() and sub.lower() in {str(uuid.UUID(sub)), uuid.UUID(sub).hex}
    except ValueError:
        is_guid = False
    assert is_principal(outcome(claims(sub=sub))) == is_guid


@pytest.mark.parametrize("sub", [MISSING, 1, True, [ACCOUNT], {"id": ACCOUNT}, ""])
def test_a_sub_that_is_no_string_is_refused(sub):
    assert outcome(claims(sub=sub)) is RefusalCode.UNAUTHORIZED


@pytest.mark.parametrize(
    ("members", "session"),
    [
        ({"sid": "s", "jti": "j"}, "s"),
        ({"sid": "5B0C3C0E11114222833344445555ABCD"}, "5b0c3c0e-1111-4222-8333-44445555abcd"),
        ({"jti": "j"}, "j"),
        ({"sid": None, "jti": "j"}, "j"),
        ({"sid": "", "jti": "j"}, "j"),
        ({}, None),
        ({"sid": None, "jti": None}, None),
    ],
)
def test_the_session_is_sid_else_jti(members, session):
    assert judge(json.dumps(claims(sid=MISSING) | members).encode()).session_id == session


@pytest.mark.parametrize("sid", [1, True, ["s"], {}, "s" * 257, "a\nb", "\x00", "\ud800"])
def test_a_session_id_that_cannot_be_passed_on_is_refused(sid):
    assert outcome(claims(sid=sid)) is RefusalCode.UNAUTHORIZED
    assert outcome(claims(sid=MISSING, jti=sid)) is RefusalCode.UNAUTHORIZED


any_text = st.text(st.characters(categories=None), max_size=400)


@given(any_text, any_text)
@example("\ud800", "\udc00\ud800")
@example("x" * 257, "\U0001f600" * 300)
def test_names_are_unicode_of_bounded_length(name, nick):
    principal = judge(claims(name=name, nick=nick))
    for given_name, safe in ((name, principal.name), (nick, principal.nick)):
        safe.encode("utf-8")
        assert len(safe) <= 256
        if given_name.isascii():
            assert safe == given_name[:256]


@pytest.mark.parametrize("name", [MISSING, 1, True, ["a"], {"a": 1}])
def test_a_name_that_is_no_string_is_no_name(name):
    principal = judge(claims(name=name, nick=name))
    assert (principal.name, principal.nick) == ("", "")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(categories=None), max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CLAIMS = ["iss", "aud", "sub", "exp", "nbf", "iat", "type", "token_use", "sid", "jti", "name", "nick"]


@given(st.dictionaries(st.sampled_from(CLAIMS), json_values, max_size=4), st.booleans())
def test_whatever_the_claims_the_answer_is_a_usable_principal_or_a_refusal(changes, bot):
    judged = outcome(json.dumps(claims() | changes).encode(), bot=bot)
    if not is_principal(judged):
        assert judged in {RefusalCode.UNAUTHORIZED, RefusalCode.TOKEN_EXPIRED}
        return
    assert uuid.UUID(judged.account_id).version or str(uuid.UUID(judged.account_id)) == judged.account_id
    assert judged.use is (Use.API_KEY if bot else Use.USER)
    assert judged.expires_at is not None or bot
    assert all(at is None or math.isfinite(at) for at in (judged.issued_at, judged.expires_at))
    f"{judged.name}{judged.nick}{judged.session_id}".encode()


@given(st.binary(max_size=300))
def test_whatever_the_bytes_the_answer_is_a_refusal(payload):
    assert outcome(payload) is RefusalCode.UNAUTHORIZED
