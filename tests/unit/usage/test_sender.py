# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One row's tries and what they mean together: a refusal after a try without an answer settles nothing."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from limio_limitrail.api.client import ApiClient, AsyncApiClient
from limio_limitrail.api.errors import TransportError
from limio_limitrail.api.responses import Response
from limio_limitrail.api.retry import RetryLimits
from limio_limitrail.usage import Refusal, ResponseMapping
from limio_limitrail.usage import sender as sender_module
from limio_limitrail.usage.conventions import find_operation
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import OnUnknown, State
from limio_limitrail.usage.send_loop import Abort, RateLimited, SendingStoppedError, Uncertain
from limio_limitrail.usage.sender import UsageSender
from tests.support.ledgers import make_row
from tests.support.usage_world import FakeAuth

ALLOWED = b'{"decision": "ALLOWED"}'
PROBLEM = json.dumps({"title": "No", "detail": "the key is known", "errorCode": "KEY_REUSED", "traceId": "t-9"}).encode()
MAPPED = ResponseMapping(already_committed=[Refusal(status=409, error_code="KEY_REUSED"), Refusal(status=500)])
LOST, REFUSED = "no answer", "no connection"


def send(*answers, on_unknown=OnUnknown.RESEND, response=ResponseMapping(), waited=(), **more):  # noqa: B008 - it is frozen
    """Send a row whose tries are answered so: a status, or why there was no answer. Give the result and the tries."""
    left, tries = list(answers), []

    async def exchange(*, method, url, headers, context, **_):
        tries.append(url)
        answer = left.pop(0)
        if isinstance(answer, str):
            raise TransportError(replace(context, reason=answer, reached=answer != REFUSED))
        return Response(status=answer, headers={}, body=ALLOWED if answer < 300 else PROBLEM)

    client = ApiClient(
        api="LimitRail",
        base_url="http://limitrail.invalid",
        transport=None,
        auth=FakeAuth(),
        limits=RetryLimits(attempts=4, bad_gateway_attempts=4, first_wait=0.0, longest_wait=0.0),
    )
    sender = UsageSender(
        client=AsyncApiClient(client, transport=SimpleNamespace(exchange=exchange)),
        operation=find_operation("commit"),
        key_header="Idempotency-Key",
        on_unknown=on_unknown,
        response=response,
        **more,
    )
    waits = list(waited)

    async def wait(seconds):
        if waits:
            waits.pop(0)()

    return asyncio.run(sender(make_row("a"), wait)), len(tries)


REFUSALS = (400, 404, 409, 410, 413, 415, 422, 423, 425, 451)


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("on_unknown", OnUnknown)
def test_a_refusal_of_a_row_that_was_never_sent_rejects_it(status, on_unknown):
    for before in ([], [REFUSED]):
        outcome, tries = send(*before, status, on_unknown=on_unknown)
        assert (outcome.state, outcome.http_status, outcome.error_code) == (State.REJECTED, status, "KEY_REUSED")
        assert tries == len(before) + 1


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("before", [[LOST], [504], [503], [LOST, REFUSED], [LOST, 429], [LOST, LOST, 502]])
def test_a_refusal_after_a_try_without_an_answer_leaves_the_row_in_doubt(status, before):
    outcome, tries = send(*before, status)
    assert isinstance(outcome, Outcome)
    assert (outcome.state, outcome.http_status, outcome.error_code) == (State.PARKED, status, "KEY_REUSED")
    assert "the key is known" in outcome.detail
    assert "may have been carried out" in outcome.detail
    assert tries == len(before) + 1


@pytest.mark.parametrize("last", [401, 403, 407, REFUSED])
def test_what_says_nothing_of_the_row_leaves_it_as_the_try_before_left_it(last):
    answers = [LOST, last] if isinstance(last, int) else [LOST, *[last] * 3]
    result, _ = send(*answers)
    assert isinstance(result, Uncertain)
    assert result.outcome.state is State.UNKNOWN
    assert LOST in result.outcome.detail
    assert result.outcome.http_status is None


@pytest.mark.parametrize("last", [401, 403, 407])
def test_what_says_nothing_of_the_row_stops_the_task_where_nothing_was_sent_before(last):
    result, tries = send(last, on_unknown=OnUnknown.PARK)
    assert isinstance(result, Abort)
    assert result.cause.status == last
    assert tries == 1


def test_a_row_that_was_refused_for_haste_waits_in_line():
    result, tries = send(429)
    assert isinstance(result, RateLimited)
    assert tries == 1


@pytest.mark.parametrize(("status", "committed"), [(409, True), (500, True), (422, False), (400, False)])
@pytest.mark.parametrize("before", [[], [LOST], [504], [LOST, LOST]])
@pytest.mark.parametrize("on_unknown", OnUnknown)
def test_a_refusal_that_means_known_commits_the_row_whatever_was_before(status, committed, before, on_unknown):
    if before and on_unknown is OnUnknown.PARK:
        result, tries = send(*before, on_unknown=on_unknown, response=MAPPED)
        assert result.outcome.state is State.PARKED
        assert tries == 1
        return
    outcome, tries = send(*before, status, on_unknown=on_unknown, response=MAPPED)
    assert tries == len(before) + 1
    assert (outcome.http_status, outcome.error_code, outcome.trace_id) == (status, "KEY_REUSED", "t-9")
    if committed:
        assert outcome.state is State.COMMITTED
        assert outcome.detail == "refused as already committed: No: the key is known"
    else:
        assert outcome.state is (State.PARKED if before else State.REJECTED)


@pytest.mark.parametrize(("within", "tries"), [(3600, 2), (59, 1), (0, 1), (60, 2)])
def test_a_try_without_an_answer_is_not_followed_by_one_after_the_keys_window(monkeypatch, within, tries):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(sender_module, "uptime", lambda: clock.now)
    result, made = send(LOST, 200, resend_within=within, waited=[lambda: setattr(clock, "now", 1060.0)])
    assert made == tries
    if tries == 2:
        assert result.state is State.COMMITTED
    else:
        assert isinstance(result, Uncertain)
        assert result.outcome.state is State.UNKNOWN


def test_tries_that_never_left_have_no_age(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(sender_module, "uptime", lambda: clock.now)
    result, made = send(REFUSED, 200, resend_within=0, waited=[lambda: setattr(clock, "now", 1e9)])
    assert (result.state, made) == (State.COMMITTED, 2)


def test_a_claim_that_is_lost_between_two_tries(monkeypatch):
    def lost():
        raise SendingStoppedError

    result, made = send(LOST, 200, waited=[lost])
    assert isinstance(result, Uncertain)
    assert (result.outcome.state, made) == (State.UNKNOWN, 1)
    with pytest.raises(SendingStoppedError):
        send(REFUSED, 200, waited=[lost])
