# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A token's life: read, kept, renewed early, shared between threads, never shown."""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import threading
import time
import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limio_limitrail.api.auth import DEFAULT_LIFETIME, ApiKey, ClientCredentials, Token, TokenSource, mint, parse_token
from limio_limitrail.api.errors import CredentialsError, ProtocolError, ScopeError
from limio_limitrail.api.redact import safe_text
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.secret import Secret
from limio_limitrail.api.transport import Transport

TOKEN = "opaque-Token_1234567890"


def parsed(**answer: object) -> Token:
    return parse_token(
        json.dumps({"access_token": TOKEN, "token_type": "Bearer", **answer}).encode(),
        context=RequestContext(api="Limio", path="/t"),
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def source(*, lifetime: float = 3600, clock: Clock | None = None, told: list[str] | None = None) -> TokenSource:
    serial = iter(range(1, 1000))

    def mint() -> Token:
        return Token(value=Secret(f"token-{next(serial)}"), lifetime=lifetime, scopes=("a", "b"))

    mask = (lambda _: None) if told is None else told.append
    return TokenSource(mint=mint, client_secret=Secret("the-secret"), mask=mask, clock=clock or Clock())


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER", " bEaReR "])
def test_the_kind_is_compared_without_case(kind):
    assert parsed(token_type=kind).value.reveal() == TOKEN


def test_the_kind_may_be_missing():
    assert parsed(token_type=None).value.reveal() == TOKEN


@pytest.mark.parametrize("prefix", ["Bearer ", "bearer ", "BEARER  "])
def test_a_value_with_the_word_bearer_is_taken_without_it(prefix):
    token = parsed(access_token=prefix + TOKEN).value
    assert token.reveal() == TOKEN
    assert source().header(token).reveal() == f"Bearer {TOKEN}"


@pytest.mark.parametrize("lifetime", [None, "", "soon", 0, -5, True, 1e12, [], {}, "nan", 10**400])
def test_a_lifetime_that_is_none_counts_as_an_hour(lifetime):
    assert parsed(expires_in=lifetime).lifetime == DEFAULT_LIFETIME == 3600


@pytest.mark.parametrize(("lifetime", "seconds"), [(60, 60), ("1800", 1800), (12.5, 12.5)])
def test_a_lifetime_may_be_a_number_or_a_text(lifetime, seconds):
    assert parsed(expires_in=lifetime).lifetime == seconds


def test_scopes_are_listed_where_the_answer_lists_them():
    assert parsed(scope="MMA checkout").scopes == ("MMA", "checkout")
    assert parsed().scopes is None
    assert parsed(scope=["MMA"]).scopes is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"access_token": "' + TOKEN.encode(),
        json.dumps({"access_token": TOKEN, "token_type": "mac"}).encode(),
        json.dumps({"access_token": TOKEN, "token_type": ["Bearer"]}).encode(),
        json.dumps({"access_token": f"{TOKEN}\r\nX-Evil: 1"}).encode(),
        json.dumps({"access_token": f"{TOKEN} {TOKEN}"}).encode(),
        json.dumps({"access_token": f"{TOKEN}é"}).encode(),
        json.dumps({"access_token": "Bearer "}).encode(),
        json.dumps({"access_token": ""}).encode(),
        json.dumps({"access_token": None, "token": TOKEN}).encode(),
        json.dumps({"access_token": {"value": TOKEN}}).encode(),
    ],
)
def test_what_is_no_token_is_refused_without_being_repeated(body):
    with pytest.raises(ProtocolError) as caught:
        parse_token(body, context=RequestContext(api="Limio", path="/oauth2/token"))
    assert "token response" in str(caught.value)
    assert TOKEN not in f"{caught.value} {caught.value!r} {''.join(traceback.format_exception(caught.value))}"


@given(
    st.one_of(
        st.binary(max_size=60),
        st.dictionaries(
            st.sampled_from(["access_token", "token_type", "expires_in", "scope", "x"]),
            st.one_of(
                st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=30), st.just("Bearer")
            ),
        ).map(lambda answer: json.dumps(answer).encode()),
    )
)
@example(b'{"access_token":"x","expires_in":1e400}')
def test_any_answer_is_a_usable_token_or_a_protocol_error(body):
    try:
        token = parse_token(body, context=RequestContext(api="Limio", path="/t"))
    except ProtocolError:
        return
    value = token.value.reveal()
    assert value
    assert value.isascii()
    assert value.isprintable()
    assert " " not in value
    assert 0 < token.lifetime < 10**9


def test_a_token_is_kept_and_renewed_before_its_end():
    clock = Clock()
    tokens = source(clock=clock)
    assert tokens.credential().reveal() == "token-1"
    clock.now += 3600 - 61
    assert tokens.credential().reveal() == "token-1"
    clock.now += 2
    assert tokens.credential().reveal() == "token-2"
    assert tokens.minted == 2


def test_a_short_life_is_renewed_at_nine_tenths():
    clock = Clock()
    tokens = source(lifetime=10, clock=clock)
    tokens.credential()
    clock.now += 8.9
    assert tokens.credential().reveal() == "token-1"
    clock.now += 0.2
    assert tokens.credential().reveal() == "token-2"


def test_the_time_that_minting_takes_counts_as_life():
    clock = Clock()

    def slow() -> Token:
        clock.now += 50
        return Token(value=Secret("slow"), lifetime=100, scopes=None)

    tokens = TokenSource(mint=slow, client_secret=Secret("s"), clock=clock)
    tokens.credential()
    clock.now += 41  # 91 seconds after it was asked for
    tokens.credential()
    assert tokens.minted == 2


def test_only_the_token_in_use_can_be_refused():
    tokens = source()
    first = tokens.credential()
    assert tokens.renew(first)
    second = tokens.credential()
    assert tokens.renew(first)
    assert tokens.credential() == second
    assert tokens.minted == 2


def test_a_token_is_masked_before_anybody_has_it():
    masked: list[str] = []
    held: list[int] = []

    def mask(value: str) -> None:
        held.append(tokens.minted)
        masked.append(value)

    tokens = TokenSource(
        mint=lambda: Token(value=Secret("fresh"), lifetime=60, scopes=None), client_secret=Secret("s"), mask=mask
    )
    assert tokens.credential().reveal() == "fresh"
    assert masked == ["fresh"]
    assert held == [0]


def test_a_token_that_could_not_be_masked_is_not_kept():
    def mask(_: str) -> None:
        raise OSError("no masker")

    tokens = TokenSource(
        mint=lambda: Token(value=Secret("fresh"), lifetime=60, scopes=None), client_secret=Secret("s"), mask=mask
    )
    for _ in range(2):
        with pytest.raises(OSError, match="no masker"):
            tokens.credential()
    assert tokens.minted == 0


def test_twenty_threads_share_one_mint():
    minted: list[int] = []
    gate = threading.Barrier(20)

    def mint() -> Token:
        minted.append(1)
        time.sleep(0.02)  # long enough for the others to come in between, if anything lets them
        return Token(value=Secret("shared"), lifetime=3600, scopes=None)

    tokens = TokenSource(mint=mint, client_secret=Secret("s"))
    seen: list[str] = []

    def ask() -> None:
        gate.wait()
        seen.append(tokens.credential().reveal())

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(minted) == 1
    assert seen == ["shared"] * 20


def test_what_must_not_show_includes_tokens_replaced_since():
    tokens = source()
    first = tokens.credential()
    tokens.renew(first)
    second = tokens.credential()
    said = " ".join(secret.reveal() for secret in (Secret("the-secret"), first, second))
    assert safe_text(said) == "*** *** ***"


def test_a_forked_child_mints_a_token_of_its_own():
    tokens = source()
    assert tokens.credential().reveal() == "token-1"
    reader, writer = os.pipe()
    with tokens._mint_lock:  # as another thread of the parent may hold it
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs fails instead of making the parent hang
            os.write(writer, tokens.credential().reveal().encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"token-2"
    assert os.waitpid(child, 0)[1] == 0
    assert tokens.credential().reveal() == "token-1"


@pytest.mark.parametrize(
    "thing",
    [
        Secret("the-secret"),
        ApiKey(Secret("the-secret")),
        Token(value=Secret("the-secret"), lifetime=1, scopes=None),
        TokenSource(mint=lambda: None, client_secret=Secret("the-secret")),  # type: ignore[arg-type, return-value]
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_nothing_shows_or_carries_a_secret(thing):
    assert "the-secret" not in f"{thing} {thing!r} {[thing]}"
    for carry in (pickle.dumps, copy.deepcopy):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            carry(thing)
    with pytest.raises(TypeError):
        json.dumps(thing)


def test_a_key_is_sent_as_it_is():
    key = ApiKey(Secret("publishable"))
    assert key.header(key.credential()).reveal() == "publishable"
    assert key.renew(key.credential()) is False
    assert key.granted_scopes() is None


@pytest.fixture
def minted(site):
    """Mint a token at a site that gives one answer."""

    def make(answer: object, *, status: int = 200, scope: str | None = "a b") -> Token:
        site.respond = lambda _: (status, {}, json.dumps(answer).encode())
        credentials = ClientCredentials(
            auth_url=f"{site.url}/connect/token", client_id="lr", client_secret=Secret("the-secret"), scope=scope
        )
        return mint(api="LimitRail", credentials=credentials, transport=Transport(user_agent="tests/1"))

    return make


def answered(**more: object) -> dict[str, object]:
    return {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 60, **more}


@pytest.mark.parametrize(
    ("scope", "granted"), [("a b", ("a", "b")), ("b c a", ("b", "c", "a")), (" a  b ", ("a", "b")), (None, None), (["a"], None)]
)
def test_a_token_with_all_scopes_or_without_a_word_about_them_is_taken(minted, site, scope, granted):
    assert minted(answered(scope=scope)).scopes == granted
    assert site.seen[-1]["body"].endswith(b"&scope=a+b")


@pytest.mark.parametrize(("scope", "missing"), [("a", "b"), ("", "a b"), ("A B", "a b"), ("c", "a b")])
def test_each_scope_that_the_token_lacks_is_named(minted, site, scope, missing):
    with pytest.raises(ScopeError) as caught:
        minted(answered(scope=scope))
    failure = caught.value.context
    assert caught.value.permanent
    assert failure.required_scope == missing
    assert failure.granted_scopes == tuple(scope.split())
    assert f"lacks requested scopes: {missing.replace(' ', ', ')}" in str(caught.value)
    assert len(site.seen) == 1


def test_scopes_that_nobody_asked_for_are_no_matter(minted, site):
    assert minted(answered(scope="x"), scope=None).scopes == ("x",)
    assert b"scope" not in site.seen[-1]["body"]


@pytest.mark.parametrize("status", [400, 401, 403])
def test_refused_scopes_are_no_refused_client(minted, site, status):
    with pytest.raises(ScopeError, match=r"refuses the requested scopes.*'a b'"):
        minted({"error": "invalid_scope"}, status=status)
    assert len(site.seen) == 1
    for answer in ({"error": "invalid_client"}, {"error": ["invalid_scope"]}, ["invalid_scope"]):
        with pytest.raises(CredentialsError):
            minted(answer, status=status)
    with pytest.raises(CredentialsError):
        minted({"error": "invalid_scope"}, status=status, scope=None)


def test_granted_scopes_that_repeat_a_credential_are_masked(minted):
    with pytest.raises(ScopeError) as caught:
        minted(answered(scope=f"the-secret {TOKEN} a"))
    assert caught.value.context.granted_scopes == ("***", "***", "a")
    assert minted(answered(scope=f"b {TOKEN} a")).scopes == ("b", "***", "a")
