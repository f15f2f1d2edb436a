import pytest
from multidict import CIMultiDict
from sanic.compat import Header

from sidecar.auth.credentials import Credential, Source, find_credential, offers_bearer

PROTOCOL = "Sec-WebSocket-Protocol"


def find(*headers, query=None, cookie=None):
    return find_credential(CIMultiDict(headers), query, cookie)


@pytest.mark.parametrize(
    ("value", "token", "bot"),
    [
        ("Bearer a.b.c", "a.b.c", False),
        ("bearer a.b.c", "a.b.c", False),
        ("BEARER   a.b.c  ", "a.b.c", False),
        ("Bot a.b.c", "a.b.c", True),
        ("bOT a.b.c", "a.b.c", True),
        ("[Bearer a.b.c]", "a.b.c", False),
        ('"Bearer a.b.c"', "a.b.c", False),
        ("[Bot a.b.c]", "a.b.c", True),
        ('" Bearer a.b.c "', "a.b.c", False),
        ("Bearer\ta.b.c", "a.b.c", False),
    ],
)
def test_authorization_is_read_in_every_form_gateways_send(value, token, bot):
    assert find(("Authorization", value)) == Credential(token, Source.AUTHORIZATION, bot)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bot",
        "Basic dXNlcjpwYXNz",
        "a.b.c",
        "[]",
        '""',
        '"',
        "[",
        "[Bearer]",
        "Bearera.b.c",
    ],
)
def test_an_empty_value_or_another_scheme_is_passed_over(value):
    assert find(("Authorization", value)) is None
    assert find(("Authorization", value), query="q") == Credential("q", Source.QUERY)
    assert find(("Authorization", value), ("X-Original-Authorization", "Bearer o")).token == "o"


def test_the_places_are_searched_in_order():
    headers = [
        ("Authorization", "Bearer first"),
        ("X-Forwarded-Authorization", "Bearer second"),
        ("X-Original-Authorization", "Bearer third"),
    ]
    protocol = (PROTOCOL, "bearer, fifth")
    found = []
    while headers:
        found.append(find(*reversed(headers), protocol, query="fourth", cookie="sixth").token)
        del headers[0]
    found.append(find(protocol, query="fourth", cookie="sixth").token)
    found.append(find(protocol, query="", cookie="sixth").token)
    found.append(find(query="", cookie="sixth").token)
    assert found == ["first", "second", "third", "fourth", "fifth", "sixth"]


def test_each_place_is_named():
    assert find(query="t").source is Source.QUERY
    assert find((PROTOCOL, "bearer, t")).source is Source.SUBPROTOCOL
    assert find(cookie="t") == Credential("t", Source.COOKIE, bot=False)
    assert find(query="", cookie="") is None
    assert find() is None


@pytest.mark.parametrize(
    ("lines", "token"),
    [
        (["bearer, a.b.c"], "a.b.c"),
        (["bearer,a.b.c"], "a.b.c"),
        (["bearer", "a.b.c"], "a.b.c"),
        (["chat , bearer\t, a.b.c, more"], "a.b.c"),
        (["chat", "bearer,", " a.b.c"], "a.b.c"),
        (["bearer"], None),
        (["bearer, "], None),
        (["a.b.c, bearer"], None),
        (["Bearer, a.b.c"], None),  # subprotocol names are case-sensitive, RFC 6455 4.2.2
        (["chat"], None),
        ([], None),
    ],
)
def test_the_subprotocol_after_bearer_is_the_token_over_all_header_lines(lines, token):
    found = find(*((PROTOCOL, line) for line in lines))
    assert (found and found.token) == token


def test_bearer_is_selected_whenever_it_is_offered():
    assert offers_bearer(CIMultiDict([(PROTOCOL, "chat"), (PROTOCOL, "bearer, t")]))
    assert offers_bearer(CIMultiDict([(PROTOCOL, "bearer"), ("Authorization", "Bearer t")]))
    assert not offers_bearer(CIMultiDict([(PROTOCOL, "Bearer, bearers")]))
    assert not offers_bearer(CIMultiDict())


def test_sanic_headers_are_read():
    headers = Header(
        [("authorization", "Basic x"), ("authorization", "Bot t"), ("sec-websocket-protocol", "bearer")]
    )
    assert find_credential(headers, None, None) == Credential("t", Source.AUTHORIZATION, bot=True)
    assert offers_bearer(headers)


def test_a_credential_does_not_print_its_token():
    assert "secret" not in repr(Credential("secret", Source.QUERY))
