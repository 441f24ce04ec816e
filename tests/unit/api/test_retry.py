# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is sent again, how often, and after which wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
import tenacity
from hypothesis import example, given
from hypothesis import strategies as st

from limio_limitrail.api import errors, retry
from limio_limitrail.api.request_context import RequestContext
from limio_limitrail.api.retry import Repeat, RetryLimits, call_with_retries, parse_retry_after
from limio_limitrail.emulator import Fault

ORDERS = "/objects/limio/orders"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def api_requests(server) -> int:
    return sum(entry["path"].startswith("/api/") for entry in server.counters.log)


# -- Retry-After -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("Sun, 01 Nov 2026 12:01:30 GMT", 90.0),
        ("Sun, 01 Nov 2026 12:01:30 -0000", 90.0),
        ("Sun, 01 Nov 2026 11:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("1.5", 1.5),
        ("7, 9", 9),
        ("0" * 5000 + "7", 7),
        ("9" * 5000, 999_999_999_999),
        ("7;q=1", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("٣", None),
        ("Sun, 99 Nov 2026 12:01:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text, seconds):
    assert parse_retry_after(text, now=NOW) == seconds


@given(st.text(max_size=60))
@example("9" * 5000)
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Fri, 31 Dec 9999 23:59:59 -9999")
def test_no_retry_after_is_ever_negative_or_an_exception(text):
    seconds = parse_retry_after(text, now=NOW)
    assert seconds is None or 0 <= seconds < 10**13


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda when: when.replace(microsecond=0, tzinfo=UTC)))
def test_every_http_date_is_read(when):
    assert parse_retry_after(format_datetime(when, usegmt=True), now=NOW) == max(0, (when - NOW).total_seconds())


# -- what is tried again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "tries", "kind"),
    [
        (408, 5, errors.TransportError),
        (429, 10, errors.RateLimitError),
        (502, 3, errors.ServerError),
        (503, 5, errors.ServerError),
        (504, 5, errors.ServerError),
    ],
)
def test_what_may_pass_is_tried_again_up_to_a_bound(make_client, limio_emulator, waits, status, tries, kind):
    limio_emulator.faults.add(Fault("status", "/api/", status=status, times=None))
    client = make_client(limio_emulator)
    with pytest.raises(kind) as caught:
        client.send(path=ORDERS)
    assert api_requests(limio_emulator) == tries
    assert len(waits) == tries - 1 == client.counters.retries
    assert all(seconds > 0 for seconds in waits)
    assert caught.value.status == status
    assert f"Emulated fault {status}" in str(caught.value)
    assert limio_emulator.counters.connections == 1


@pytest.mark.parametrize("kind", ["reset", "truncated"])
def test_a_connection_that_breaks_is_tried_again(make_client, limio_emulator, waits, kind):
    limio_emulator.faults.add(Fault(kind, "/api/", times=2))
    answer = make_client(limio_emulator).send(path=ORDERS, params={"limit": "5"})
    assert len(answer.json()["items"]) == 5
    assert api_requests(limio_emulator) == 3
    assert len(waits) == 2


@pytest.mark.parametrize(("kind", "reason"), [("reset", "connection broke"), ("truncated", "broke off before its end")])
def test_a_connection_that_stays_broken_is_an_error(make_client, limio_emulator, kind, reason):
    limio_emulator.faults.add(Fault(kind, "/api/", times=None))
    with pytest.raises(errors.TransportError, match=reason):
        make_client(limio_emulator).send(path=ORDERS)
    assert api_requests(limio_emulator) == 5


def test_silence_is_a_timeout(make_client, silent_port, waits):
    client = make_client(SimpleNamespace(url=f"http://127.0.0.1:{silent_port}"), read=0.05)
    with pytest.raises(errors.TransportError, match="no response within the read timeout") as caught:
        client.send(path=ORDERS)
    assert len(waits) == 4
    assert not caught.value.permanent


def test_a_closed_port_is_a_transport_error(make_client, make_site, waits):
    closed = make_site()
    closed._server.server_close()
    with pytest.raises(errors.TransportError, match="refused"):
        make_client(closed).send(path=ORDERS)
    assert len(waits) == 4


@pytest.mark.parametrize(
    ("status", "kind", "hopeless"),
    [
        (400, errors.InvalidRequestError, True),
        (402, errors.InvalidRequestError, True),
        (403, errors.ScopeError, True),
        (404, errors.NotFoundError, False),
        (405, errors.InvalidRequestError, True),
        (409, errors.ConflictError, False),
        (410, errors.NotFoundError, False),
        (413, errors.PageTooLargeError, False),
        (422, errors.InvalidRequestError, True),
        (304, errors.ProtocolError, False),
        (500, errors.ServerError, False),
        (501, errors.ServerError, False),
        (505, errors.ServerError, False),
    ],
)
def test_everything_else_is_sent_once(make_client, limio_emulator, waits, status, kind, hopeless):
    body = b"" if status == 304 else None
    limio_emulator.faults.add(Fault("status", "/api/", status=status, times=None, body=body))
    client = make_client(limio_emulator)
    with pytest.raises(kind) as caught:
        client.send(path=ORDERS)
    assert api_requests(limio_emulator) == 1
    assert limio_emulator.counters.tokens_minted == 1
    assert waits == []
    assert type(caught.value) is kind
    assert caught.value.permanent is hopeless


def test_a_403_never_mints_again(make_client, limio_emulator):
    limio_emulator.faults.add(Fault("status", "/api/", status=403, times=None))
    client = make_client(limio_emulator)
    for _ in range(3):
        with pytest.raises(errors.ScopeError):
            client.send(path=ORDERS)
    assert limio_emulator.counters.tokens_minted == 1


def test_a_401_mints_once_more_and_the_request_goes_again(make_client, limio_emulator, waits):
    client = make_client(limio_emulator)
    client.send(path=ORDERS)
    limio_emulator.expire_tokens()
    limio_emulator.counters.reset()
    assert client.send(path=ORDERS).status == 200
    assert limio_emulator.counters.tokens_minted == 1
    assert api_requests(limio_emulator) == 2
    assert waits == []


def test_a_401_after_a_fresh_token_is_hopeless(make_client, limio_emulator, waits):
    limio_emulator.faults.add(Fault("status", "/api/", status=401, times=None))
    with pytest.raises(errors.CredentialsError) as caught:
        make_client(limio_emulator).send(path=ORDERS)
    assert caught.value.permanent
    assert api_requests(limio_emulator) == 2
    assert limio_emulator.counters.tokens_minted == 2
    assert waits == []


# -- waits -----------------------------------------------------------------------------------------------------------


def test_the_wait_that_the_api_asked_for_is_kept(make_client, limio_emulator, waits):
    limio_emulator.faults.add(Fault("status", "/api/", status=429, headers={"Retry-After": "7"}, times=3))
    make_client(limio_emulator).send(path=ORDERS)
    assert len(waits) == 3
    assert all(7 <= seconds <= 7.8 for seconds in waits)
    assert len(set(waits)) == 3, "no jitter"


@pytest.mark.parametrize("header", ["0", "0.0", "Sun, 01 Nov 2026 12:00:00 GMT"])
def test_no_wait_at_all_is_none_that_the_api_asks_for(make_client, limio_emulator, waits, header):
    """The same request at once would be refused again."""
    limio_emulator.faults.add(Fault("status", "/api/", status=429, headers={"Retry-After": header}, times=5))
    make_client(limio_emulator, limits=RetryLimits(first_wait=8.0)).send(path=ORDERS)
    assert len(waits) == 5
    assert min(waits) >= 4


def test_a_date_is_waited_for(make_client, limio_emulator, waits):
    when = datetime.now(UTC) + timedelta(seconds=100)
    limio_emulator.faults.add(Fault("status", "/api/", status=503, headers={"Retry-After": format_datetime(when, usegmt=True)}))
    make_client(limio_emulator).send(path=ORDERS)
    assert 60 <= waits[0] <= 111


def test_a_wait_beyond_the_cap_is_left_to_the_task(make_client, limio_emulator, waits):
    limio_emulator.faults.add(Fault("status", "/api/", status=429, headers={"Retry-After": "301"}, times=None))
    with pytest.raises(errors.RateLimitError) as caught:
        make_client(limio_emulator).send(path=ORDERS)
    assert waits == []
    assert caught.value.retry_after == 301
    assert "301 s" in str(caught.value)


def test_a_wait_beyond_the_budget_is_not_begun(make_client, limio_emulator, waits):
    limio_emulator.faults.add(Fault("status", "/api/", status=429, headers={"Retry-After": "20"}, times=None))
    client = make_client(limio_emulator, limits=RetryLimits(budget=19))
    with pytest.raises(errors.RateLimitError):
        client.send(path=ORDERS)
    assert waits == []


def test_the_budget_bounds_all_tries_together(monkeypatch):
    now = [0.0]
    for module in (tenacity, retry):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def fail() -> None:
        now[0] += 10
        raise errors.TransportError(RequestContext(api="Limio"))

    limits = RetryLimits(attempts=1000, budget=100)
    with pytest.raises(errors.TransportError):
        call_with_retries(fail, limits=limits, sleep=sleep)
    assert 50 < now[0] <= 110


def test_the_first_try_counts_in_the_budget(monkeypatch):
    now = [0.0]
    for module in (tenacity, retry):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def fail() -> None:
        now[0] += 10
        raise errors.TransportError(RequestContext(api="Limio"))

    with pytest.raises(errors.TransportError):
        call_with_retries(fail, limits=RetryLimits(attempts=1000, budget=35, first_wait=0.0), sleep=lambda _: None)
    assert now[0] == 40


@pytest.mark.parametrize(("took", "tries"), [(89, 2), (91, 1)])
def test_no_try_begins_with_next_to_no_time_left(monkeypatch, took, tries):
    """It would be cut short, and leave a write in doubt for nothing."""
    now = [0.0]
    made = []
    for module in (tenacity, retry):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def fail() -> None:
        made.append(now[0])
        now[0] += took
        raise errors.TransportError(RequestContext(api="Limio"))

    limits = RetryLimits(attempts=1000, budget=100, first_wait=0.0, longest_wait=0.0)
    with pytest.raises(errors.TransportError):
        call_with_retries(fail, limits=limits, sleep=lambda _: None)
    assert len(made) == tries


def test_waits_grow_and_stay_bounded():
    waits: list[float] = []

    def fail() -> None:
        raise errors.TransportError(RequestContext(api="Limio"))

    with pytest.raises(errors.TransportError):
        call_with_retries(fail, limits=RetryLimits(attempts=40, budget=10**6), sleep=waits.append)
    assert 0.25 <= waits[0] <= 0.75
    assert max(waits) <= 30.25
    assert max(waits) > 5
    assert len(set(waits)) == len(waits) == 39


# -- writes and tokens -----------------------------------------------------------------------------------------------


def test_a_write_is_sent_once(make_client, limio_emulator, waits):
    limio_emulator.faults.add(Fault("status", "/api/", status=503, times=None))
    with pytest.raises(errors.ServerError):
        make_client(limio_emulator).send(method="POST", path=ORDERS, json={"a": 1})
    assert api_requests(limio_emulator) == 1
    assert waits == []


def test_a_write_with_a_key_is_tried_again_with_the_same_key(make_client, limio_emulator, waits):
    limio_emulator.faults.add(Fault("status", "/api/", status=503, times=None))
    with pytest.raises(errors.ServerError):
        make_client(limio_emulator).send(method="POST", path=ORDERS, json={"a": 1}, idempotency_key="row-1")
    sent = [entry["headers"].get("idempotency-key") for entry in limio_emulator.counters.log if entry["path"] != "/oauth2/token"]
    assert sent == ["row-1"] * 5


@pytest.mark.parametrize(("status", "tries"), [(503, 5), (429, 10), (502, 3), (408, 5), (425, 5), (407, 1)])
def test_a_token_endpoint_that_fails_is_not_tried_more_often_because_a_request_waits_for_it(
    make_client, limio_emulator, waits, status, tries
):
    limio_emulator.faults.add(Fault("status", "/oauth2/token", status=status, times=None))
    with pytest.raises(errors.ApiError) as caught:
        make_client(limio_emulator).send(path=ORDERS)
    assert limio_emulator.counters.requests == tries
    assert len(waits) == tries - 1
    assert not caught.value.permanent


def test_a_token_endpoint_that_recovers_costs_nothing_but_time(make_client, limio_emulator):
    for kind in ("reset", "truncated", "status"):
        limio_emulator.faults.add(Fault(kind, "/oauth2/token"))
    assert make_client(limio_emulator).send(path=ORDERS).status == 200
    assert api_requests(limio_emulator) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refused_client_is_hopeless_and_asked_once(make_client, limio_emulator, status):
    limio_emulator.faults.add(Fault("status", "/oauth2/token", status=status, body={"error": "invalid_client"}, times=None))
    with pytest.raises(errors.CredentialsError, match="token endpoint refused the client") as caught:
        make_client(limio_emulator).send(path=ORDERS)
    assert caught.value.permanent
    assert "invalid_client" in str(caught.value)
    assert limio_emulator.counters.requests == 1


def test_a_token_endpoint_that_redirects_is_not_followed(make_client, limio_emulator, site):
    limio_emulator.faults.add(Fault("redirect", "/oauth2/token", status=307, location=f"{site.url}/oauth2/token", times=None))
    with pytest.raises(errors.ProtocolError, match="redirects, which is not followed"):
        make_client(limio_emulator).send(path=ORDERS)
    assert site.seen == []
    assert limio_emulator.counters.requests == 1


# -- which failures may be followed by another try -------------------------------------------------------------------


def failing(*failures, then="done"):
    """A call that fails in these ways, one after the other, and counts how often it was made."""
    left = list(failures)

    def call():
        call.made += 1
        if left:
            raise left.pop(0)
        return then

    call.made = 0
    return call


def error(kind, status=None, *, reached=True, retry_after=None):
    return kind(RequestContext(api="LimitRail", status=status, reached=reached, retry_after=retry_after))


REACHED = {
    "refused": error(errors.TransportError, reached=False),
    "token": error(errors.ServerError, 503, reached=False),
    "429": error(errors.RateLimitError, 429),
    "timeout": error(errors.TransportError),
    "502": error(errors.ServerError, 502),
    "503": error(errors.ServerError, 503),
    "504": error(errors.ServerError, 504),
    "500": error(errors.ServerError, 500),
    "400": error(errors.InvalidRequestError, 400),
    "401": error(errors.CredentialsError, 401),
    "409": error(errors.ConflictError, 409),
    "protocol": error(errors.ProtocolError),
}


@pytest.mark.parametrize(
    ("repeat", "repeated"),
    [
        (Repeat.ANY, {"refused", "token", "429", "timeout", "502", "503", "504"}),
        (Repeat.IF_NOT_PROCESSED, {"refused", "token", "429"}),
        (Repeat.NONE, set()),
    ],
)
@pytest.mark.parametrize("failure", REACHED)
def test_only_what_repeat_allows_is_tried_again(repeat, repeated, failure):
    call = failing(REACHED[failure])
    limits = RetryLimits(first_wait=0.0)
    if failure in repeated:
        assert call_with_retries(call, limits=limits, repeat=repeat, sleep=lambda _: None) == "done"
        assert call.made == 2
        return
    with pytest.raises(errors.ApiError) as caught:
        call_with_retries(call, limits=limits, repeat=repeat, sleep=lambda _: None)
    assert caught.value is REACHED[failure]
    assert call.made == 1


def test_a_write_in_doubt_ends_a_chain_of_harmless_failures():
    call = failing(REACHED["refused"], REACHED["429"], REACHED["timeout"])
    with pytest.raises(errors.TransportError) as caught:
        call_with_retries(call, limits=RetryLimits(first_wait=0.0), repeat=Repeat.IF_NOT_PROCESSED, sleep=lambda _: None)
    assert caught.value.context.reached
    assert call.made == 3


def test_what_a_wait_raises_ends_the_request():
    class EndedError(Exception):
        pass

    def sleep(_):
        raise EndedError

    call = failing(REACHED["429"])
    with pytest.raises(EndedError):
        call_with_retries(call, limits=RetryLimits(), repeat=Repeat.IF_NOT_PROCESSED, sleep=sleep)
    assert call.made == 1


@pytest.mark.parametrize(
    ("more", "tries"),
    [
        ({"method": "GET"}, 5),
        ({"method": "POST"}, 1),
        ({"method": "POST", "idempotency_key": "k"}, 5),
        ({"method": "POST", "repeat": Repeat.ANY}, 5),
        ({"method": "POST", "idempotency_key": "k", "repeat": Repeat.IF_NOT_PROCESSED}, 1),
        ({"method": "GET", "repeat": Repeat.NONE}, 1),
    ],
)
def test_a_client_repeats_reads_and_writes_with_a_key(make_client, site, more, tries):
    token = b'{"access_token":"site-token-1234567890","token_type":"Bearer","expires_in":3600}'
    site.respond = lambda request: (200, {}, token) if request["target"] == "/oauth2/token" else (503, {}, b"")
    with pytest.raises(errors.ServerError):
        make_client(site).send(path="/x", **more)
    assert sum(request["target"] == "/api/x" for request in site.seen) == tries


def test_the_limits_and_waits_of_one_request(make_client, site, waits):
    token = b'{"access_token":"site-token-1234567890","token_type":"Bearer","expires_in":3600}'
    site.respond = lambda request: (200, {}, token) if request["target"] == "/oauth2/token" else (429, {"Retry-After": "7"}, b"")
    own: list[float] = []
    client = make_client(site)
    with pytest.raises(errors.RateLimitError):
        client.send(path="/x", limits=RetryLimits(rate_limit_attempts=3), sleep=own.append)
    assert len(own) == 2 == client.counters.retries
    assert all(seconds >= 7 for seconds in own)
    assert waits == []
