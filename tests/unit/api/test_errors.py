# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Messages say what happened and what to do, and nothing that must stay secret; errors survive process boundaries."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limio_limitrail.api import errors
from limio_limitrail.api.redact import MAX_LENGTH, holds_secret, remember_secret, safe_text, safe_texts
from limio_limitrail.api.request_context import ProblemDetails, RequestContext
from limio_limitrail.api.responses import Response, classify
from limio_limitrail.api.retry import is_transient
from limio_limitrail.api.secret import Secret
from limio_limitrail.emulator import Fault

LEAVES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ApiError)]
CALL = RequestContext(api="Limio", method="GET", path="/objects/limio/orders", resource="orders", required_scope="MMA")
SECRETS = (Secret("s3cret/value+1"), Secret("Opaque.Token-123"))


@pytest.fixture(autouse=True)
def secrets_are_known():
    for secret in SECRETS:
        remember_secret(secret)


def failure() -> RequestContext:
    return RequestContext(
        api="Limio",
        method="GET",
        path="/x",
        resource="orders",
        status=429,
        reason="because",
        problem=ProblemDetails(message="m", error_code="c", resource_key="k", field="f", trace_id="t"),
        trace_id="trace-1",
        retry_after=7.0,
        required_scope="MMA",
        granted_scopes=("a",),
    )


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_errors_survive_pickle_and_copy(kind):
    error = kind(failure())
    error.retries_exhausted = True
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert (twin.context, twin.status, twin.retry_after, twin.trace_id) == (error.context, 429, 7.0, "trace-1")
        assert twin.retries_exhausted


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_a_message_names_resource_status_trace_and_advice(kind):
    message = str(kind(failure()))
    for part in ("Limio", "orders", "GET /x", "429", "because", "trace-1", "errorCode=c", "resourceKey=k", "field=f"):
        assert part in message
    if kind is not errors.ApiError:
        assert message.rstrip(".").count(". ") >= 1, "no advice"


def said(status: int, body: bytes, **headers: str) -> errors.ApiError:
    return classify(Response(status=status, headers=headers, body=body), context=CALL)


@pytest.mark.parametrize("ahead", [-3600, 0, 3600])
@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0200"])
def test_a_time_to_retry_at_is_by_the_clock_of_the_api(ahead, zone):
    clock = datetime.now(UTC).replace(tzinfo=None, microsecond=0) + timedelta(seconds=ahead)
    date, retry = (when.strftime(f"%a, %d %b %Y %H:%M:%S {zone}") for when in (clock, clock + timedelta(seconds=45)))
    assert said(429, b"", **{"Retry-After": retry, "Date": date}).retry_after == 45


def test_without_a_clock_of_the_api_the_own_one_counts():
    retry = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for headers in ({}, {"Date": "now"}, {"Date": ""}):
        asked = said(503, b"", **{"Retry-After": retry, **headers}).retry_after
        assert asked == pytest.approx(3600, abs=300)


def test_a_403_names_the_scope_needed_and_those_granted(make_client, limio_emulator):
    assert "the token response did not say" in str(said(403, b""))
    limio_emulator.configure(include_scope=True, scopes=("MMA", "checkout"))
    with pytest.raises(errors.ScopeError) as caught:
        make_client(limio_emulator).send(path="/partner-organisations", scope="partner")
    assert "needs the scope 'partner'; the token was granted: MMA checkout" in str(caught.value)


def test_a_502_keeps_what_the_body_said_short_and_masked():
    text = "Invalid limit for jane@example.com with s3cret/value+1 " + "x" * 5000
    error = said(502, b'{"message": "%s", "stack": "do not show"}' % text.encode())
    assert "Invalid limit for ***@*** with ***" in str(error)
    assert "do not show" not in str(error)
    assert len(str(error)) < 700


@pytest.mark.parametrize(
    "body", [b"<html><h1>Whole page</h1></html>", b'["Whole page"]', b'"Whole page"', b"Whole page", b"\xff"]
)
def test_a_body_of_no_known_shape_is_not_repeated(body):
    assert "Whole page" not in str(said(500, body))


def test_what_problem_details_say_is_kept():
    body = b'{"errorCode":"LIMIT","resourceKey":"seats","traceId":"tr-9","field":"amount","detail":"Too much"}'
    error = said(422, body)
    assert "[said: Too much errorCode=LIMIT resourceKey=seats field=amount] [trace id tr-9]" in str(error)
    assert error.trace_id == "tr-9"


def test_the_trace_id_may_stand_in_a_header():
    assert said(500, b"", **{"x-request-id": "req-5"}).trace_id == "req-5"
    assert len(said(500, b"", **{"x-request-id": "r" * 1000}).trace_id or "") == 100


@pytest.mark.parametrize("name", ["message", "detail", "title", "error", "errorCode", "resourceKey", "field", "traceId"])
@pytest.mark.parametrize("secret", SECRETS, ids=["secret", "token"])
def test_a_body_that_echoes_a_credential_does_not_get_it_into_an_error(name, secret):
    error = said(400, b'{"%s": "got %s from you"}' % (name.encode(), secret.reveal().encode()))
    assert not holds_secret(f"{error} {error!r} {vars(error)}")


@pytest.mark.parametrize("name", ["x-trace-id", "x-request-id", "x-amzn-requestid"])
def test_a_header_that_echoes_a_credential_does_not_get_it_into_an_error(name):
    error = said(500, b"", **{name: SECRETS[1].reveal()})
    assert not holds_secret(f"{error} {error!r} {vars(error)}")


def test_the_query_is_never_in_a_message(make_client, limio_emulator):
    limio_emulator.faults.add(Fault("status", "/api/", status=400, body=b'{"message": "bad /api/x?email=jane&x=1 indeed"}'))
    with pytest.raises(errors.InvalidRequestError) as caught:
        make_client(limio_emulator).send(path="/objects/limio/orders", params={"q": "canary-value"})
    assert "canary-value" not in str(caught.value)
    assert "jane" not in str(caught.value)


# -- masking ---------------------------------------------------------------------------------------------------------

PLAIN = st.text(st.characters(codec="utf-8"), max_size=80)


@given(before=PLAIN, after=PLAIN, secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60))
@example(before="x" * 195, after="", secret="abcdefgh")
@example(before="x" * 1995, after="", secret="abcdefgh")
def test_no_secret_survives_anywhere_in_a_text(before, after, secret):
    remember_secret(held := Secret(secret))
    masked = safe_text(f"{before}{secret}{after}")
    assert held
    assert masked is not None
    # Asterisks that masking itself puts in are no leak.
    assert secret.lower() not in masked.replace("***", "").lower()
    assert len(masked) <= MAX_LENGTH
    assert "\n" not in masked


ECHOED = "Zq7-Of-A-kinD-2x"
PART = st.sampled_from([ECHOED, ECHOED[:7], ECHOED[7:], "res-0123456789abcdef", "eyJ", "secret", ".", "", " ", "%41", "a" * 120])


@given(one=st.lists(PART, max_size=3).map("".join) | st.none() | PLAIN, other=st.lists(PART, max_size=3).map("".join) | PLAIN)
@example(one="res-1", other=f"t-{ECHOED}")
@example(one=f"r-{ECHOED}", other="t-1")
def test_two_texts_together_are_masked_like_each_alone(one, other):
    remember_secret(held := Secret(ECHOED))
    assert held
    assert safe_texts(one, other) == (safe_text(one), safe_text(other))


@given(st.text(max_size=3000))
@example("\u2028\x85\x00\x1b[31m")
def test_any_text_becomes_one_short_line_or_nothing(text):
    masked = safe_text(text)
    assert (masked is None) == (not text.strip())
    assert len(masked or "") <= MAX_LENGTH
    assert len((masked or "").splitlines()) <= 1


@pytest.mark.parametrize(
    "text",
    [
        "Bearer abcdef123456",
        "bearer   abcdef123456",
        "Basic abcdef123456=",
        "token=abcdef123456",
        'client_secret":"abcdef123456"',
        "password: abcdef123456",
        "eyJabcdef123456.eyJabcdef123456.abcdef123456",
        "see /x?recover=abcdef123456",
        "abcdef123456@example.com",
    ],
)
def test_what_looks_like_a_credential_or_a_person_is_masked(text):
    assert "abcdef123456" not in (safe_text(text) or "")


@pytest.mark.parametrize("form", ["a+b/c=d e", "a%2Bb%2Fc%3Dd%20e", "a%2bb%2fc%3dd+e", "A+B/C=D E"])
def test_a_secret_is_masked_as_a_form_or_a_url_writes_it(form):
    remember_secret(held := Secret("a+b/c=d e"))
    assert safe_text(f"got {form}!") == "got ***!"
    assert held


@pytest.mark.parametrize("value", [None, 1, [], {}, "", "  \n"])
def test_only_a_text_says_something(value):
    assert safe_text(value) is None


# -- LimitRail's error bodies ----------------------------------------------------------------------------------------


def problem_of(body: bytes) -> ProblemDetails:
    call = RequestContext(api="LimitRail", method="POST", path="/v1/usage/commit")
    return classify(Response(status=400, headers={}, body=body), context=call).context.problem


def test_of_a_private_request_only_codes_are_kept():
    body = b'{"message": "zoe is locked", "instance": "/x/zoe", "field": "zoe", "errorCode": "L7", "traceId": "t1"}'
    call = RequestContext(api="Limio", method="GET", path="/x/{id}", private=True)
    message = str(classify(Response(status=400, headers={}, body=body), context=call))
    assert "(GET /x/{id}) answered 400" in message
    assert "L7" in message
    assert "t1" in message
    assert "zoe" not in message


def test_all_members_of_a_problem_are_kept():
    problem = problem_of(
        b'{"type":"https://limitrail.example/problems/limit?x=1#y","title":"Limit exceeded","detail":"meter m1 is full",'
        b'"instance":"/v1/usage/42?token=abc","errorCode":"LIMIT","resourceKey":"m1","field":"amount","traceId":"t-1"}'
    )
    assert problem == ProblemDetails(
        message="meter m1 is full",
        title="Limit exceeded",
        type="https://limitrail.example/problems/limit",
        instance="/v1/usage/42",
        error_code="LIMIT",
        resource_key="m1",
        field="amount",
        trace_id="t-1",
    )
    assert str(problem) == (
        "meter m1 is full title=Limit exceeded errorCode=LIMIT resourceKey=m1 field=amount "
        "type=https://limitrail.example/problems/limit instance=/v1/usage/42"
    )


@pytest.mark.parametrize(
    ("body", "message", "title"),
    [
        (b'{"title":"Only a title"}', "Only a title", None),
        (b'{"title":"Same","detail":"Same"}', "Same", None),
        (b'{"title":"T","detail":"D"}', "D", "T"),
        (b'{"title":"T","detail":"","message":"M"}', "M", "T"),
        (b'{"title":7,"detail":["D"]}', None, None),
    ],
)
def test_the_title_is_told_where_it_says_more(body, message, title):
    problem = problem_of(body)
    assert (problem.message, problem.title) == (message, title)


@pytest.mark.parametrize("value", [b'"about:blank"', b"null", b"7", b'""', b'"  "', b'"?only=query"', b'"#x"', b'["a"]'])
def test_a_type_that_says_nothing_is_left_out(value):
    problem = problem_of(b'{"type":' + value + b',"instance":' + value + b"}")
    assert (problem.type, problem.instance) == (None, None)


def test_a_problem_repeats_no_credential():
    body = b'{"type":"https://x/Opaque.Token-123","instance":"/Opaque.Token-123","title":"Opaque.Token-123","detail":"d"}'
    assert "Opaque.Token-123" not in repr(problem_of(body))


def test_a_404_of_limitrail_speaks_of_the_tenant():
    limitrail = str(errors.NotFoundError(RequestContext(api="LimitRail", status=404)))
    assert "account of another tenant looks the same as none" in limitrail
    limio = str(errors.NotFoundError(RequestContext(api="Limio", status=404)))
    assert "another tenant" not in limio


def test_a_proxy_that_asks_for_credentials_has_not_passed_the_request_on():
    error = said(407, b"<html>Proxy Authentication Required</html>")
    assert isinstance(error, errors.TransportError)
    assert not error.context.reached
    assert not error.permanent
    assert not is_transient(error)
    assert "the proxy refused to pass the request on" in str(error)
