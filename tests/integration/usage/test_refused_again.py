# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The same refusal for row after row stops the task early, and a row that was refused once does not fail every later day."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import count

import pytest

from limio_limitrail.emulator import Reply
from tests.support.pages import blocks
from tests.support.usage import make_rows

DATABASES = ["duck", "lite", "pg"]
AT_ONCE = 8


def html(status, numbers):
    return Reply(status, b"<html><h1>Nothing here</h1><p>Reference #%d.9f</p></html>" % next(numbers), content_type="text/html")


def plain(status, numbers):
    return Reply(status, json.dumps({"message": f"no Route matched {next(numbers):x}"}).encode())


BEFORE_THE_API = {
    "a gateway's page": lambda numbers: html(404, numbers),
    "an empty 404": lambda _: Reply(404, b""),
    "JSON that is not the API's": lambda numbers: plain(404, numbers),
    "ids that look like words": lambda numbers: Reply(400, b'{"error": "bad %c"}' % b"abcdefghij"[next(numbers) % 10]),
    "a wrong method": lambda numbers: html(405, numbers),
    "gone": lambda numbers: html(410, numbers),
    "too large, says nginx": lambda numbers: html(413, numbers),
    "problem details of a framework": lambda _: Reply(
        404, b'{"type": "about:blank", "title": "Not Found", "status": 404}', content_type="application/problem+json"
    ),
    "two gateways by turns": lambda numbers: html(404, numbers) if next(numbers) % 2 else plain(405, numbers),
}  # fmt: skip


def refusing(place, reply, *, after=0, of=lambda body: True):
    """Refuse requests for rows, instead of carrying them out, once some have been carried out."""
    numbers = count(1)
    return place.server.on_request(
        lambda call: (
            reply(numbers)
            if call.path.startswith("/v1/usage") and len(place.sent("/v1/usage")) > after and of(json.loads(call.body))
            else None
        )
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize("what", BEFORE_THE_API)
def test_what_stands_before_the_api_and_refuses_everything_stops_the_task(place_of, what):
    rows = make_rows(400)
    place = place_of("duck", rows)
    stop = refusing(place, BEFORE_THE_API[what])
    place.write_dag(retries=3, max_rejected="100%")
    last = place.attempt("one")
    assert last.state == "failed", last.error
    most = 20 * (2 if "turns" in what else 1) + AT_ONCE
    assert 20 <= len(place.sent()) <= most
    # What was not sent is free.
    assert place.database.states() == {"rejected": len(place.sent())}
    assert last.summary["rejected"] == len(place.sent())
    assert last.summary["not_tried"] == 400 - len(place.sent())
    assert "20 rows in a row were refused in the same way" in last.error
    assert "a gateway, a proxy or a wrong path" in last.error
    assert "for example row " in last.error
    stop()
    place.write_dag(replay="rejected")
    last = place.attempt("two")
    assert (last.state, last.summary["committed"]) == ("success", 400)
    assert len(place.agree()) == 400


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", DATABASES)
def test_a_gateway_that_breaks_in_mid_run(place_of, conn_id):
    place = place_of(conn_id, make_rows(400))
    stop = refusing(place, BEFORE_THE_API["a gateway's page"], after=150)
    place.write_dag()
    last = place.attempt("one")
    assert last.state == "failed"
    assert len(place.sent()) <= 150 + 20 + 2 * AT_ONCE
    states = place.database.states()
    assert states["committed"] >= 150
    assert sum(states.values()) == len(place.sent())
    stop()
    place.write_dag(replay="rejected")
    assert place.attempt("two").summary["committed"] == 400
    assert len(place.agree()) == 400


@pytest.mark.sampled(1)
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
def test_a_proxy_that_wants_a_password_stops_the_task_and_leaves_all_rows_free(place_of, on_unknown):
    place = place_of("duck", make_rows(100))
    stop = refusing(place, lambda numbers: html(407, numbers), after=30)
    place.write_dag(on_unknown=on_unknown, retries=3, retry_delay=0)
    last = place.attempt("one")
    assert last.state == "up_for_retry"
    assert "the proxy refused to pass the request on" in last.error
    assert len(place.sent()) <= 30 + AT_ONCE
    assert set(place.database.states()) == {"committed"}
    place.agree()
    stop()
    assert place.attempt("one").summary["committed"] == 100
    assert len(place.agree()) == 100


SUSPENDED = Reply(
    409,
    b'{"title": "Suspended", "detail": "Tenant 7 is suspended", "status": 409, "errorCode": "SUSPENDED", "traceId": "t"}',
    content_type="application/problem+json",
)


def test_the_apis_own_words_for_everything_stop_the_task_later(place_of):
    place = place_of("duck", make_rows(400))
    refusing(place, lambda _: SUSPENDED)
    place.write_dag(retries=3)
    last = place.attempt()
    assert last.state == "failed"
    assert 100 <= len(place.sent()) <= 100 + AT_ONCE
    assert place.database.states() == {"rejected": len(place.sent())}
    for said in ("100 rows in a row", "errorCode SUSPENDED", "wrong for all rows"):
        assert said in last.error


def test_an_account_with_many_rows_does_not_stop_the_others(place_of):
    rows = [("acme-0", f"day {n}", "PAYMENT", "1") for n in range(30)]
    rows += [("ghost-1", f"day {n:03}", "PAYMENT", "1") for n in range(150)]
    rows += [("zeta", f"day {n}", "PAYMENT", "1") for n in range(30)]
    place = place_of("duck", rows)
    place.write_dag(max_rejected=150)
    last = place.attempt()
    assert (last.state, last.summary["committed"], last.summary["rejected"]) == ("success", 60, 150)
    place.agree()


def test_successes_in_between_are_no_reason_to_stop(place_of):
    place = place_of("duck", make_rows(100))
    # Nineteen of each twenty, in the order in which they come.
    passes = {f"acme-{n}" for n in range(0, 100, 12)}
    refusing(place, BEFORE_THE_API["an empty 404"], of=lambda body: body["externalAccount"] not in passes)
    place.write_dag(concurrency=1, max_rejected="100%")
    last = place.attempt()
    assert (last.state, last.summary["committed"]) == ("success", len(passes)), last.error


def test_keys_that_the_api_knows_already_are_no_reason_to_stop(place_of):
    place = place_of("duck", make_rows(60))
    place.write_dag(on_unknown="resend")
    assert place.attempt("one").state == "success"
    # As a kill would leave them: in doubt, and first in order.
    place.database.execute(
        "UPDATE limitrail_usage_ledger SET state = 'sending', lease_until = 1, claim_id = 'dead', "
        f"in_doubt_since = {int(time.time() * 1000)} "
        "WHERE row_key < (SELECT row_key FROM limitrail_usage_ledger ORDER BY row_key LIMIT 1 OFFSET 45)"
    )
    place.database.fill([*make_rows(60), *make_rows(20, account="new")])
    place.server.limitrail.add_accounts(f"new-{n}" for n in range(20))
    refusing(place, lambda _: Reply(409, b"{}"), of=lambda body: body["externalAccount"].startswith("acme"))
    place.write_dag(on_unknown="resend", max_parked=45)
    last = place.attempt("two")
    assert last.state == "success", last.error
    assert (last.summary["committed"], last.summary["parked"], last.summary["rejected"]) == (35, 45, 0)


def test_previews_stop_too(place_of):
    place = place_of("duck", make_rows(100))
    refusing(place, BEFORE_THE_API["a gateway's page"])
    place.write_dag(operation="preview", retries=3)
    last = place.attempt()
    assert last.state == "failed"
    assert "20 rows in a row were refused in the same way" in last.error
    assert len(place.sent("/v1/usage/preview")) <= 20 + AT_ONCE


# -- rejected in earlier runs ----------------------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", DATABASES)
def test_a_row_that_was_rejected_once_does_not_fail_every_later_run(place_of, conn_id):
    rows = [*make_rows(10), ("ghost-1", "a", "PAYMENT", "1"), ("ghost-2", "b", "PAYMENT", "1")]
    place = place_of(conn_id, rows)
    place.write_dag(retries=3)
    counted = ("committed", "rejected", "rejected_before", "given_up", "sent")

    def numbers(run_id):
        last = place.attempt(run_id)
        return last, {name: last.summary[name] for name in counted}

    last, found = numbers("one")
    assert (last.state, found) == ("failed", {"committed": 10, "rejected": 2, "rejected_before": 0, "given_up": 0, "sent": 12})
    # A retry, or a person who clears the task, is the same run.
    last, found = numbers("one")
    assert (last.state, found["rejected"], found["rejected_before"], found["sent"]) == ("failed", 2, 0, 0)
    place.output()
    last, found = numbers("two")
    assert last.state == "success", last.error
    assert found == {"committed": 10, "rejected": 0, "rejected_before": 2, "given_up": 0, "sent": 0}
    output = place.output()
    for said in ("2 rows were rejected in earlier", "rejected before: status 404", '"account":"ghost-', "--decision give_up"):
        assert said in output

    # A new one fails the task; the old ones are not in its message.
    place.database.fill([*rows, ("ghost-3", "c", "PAYMENT", "1")])
    last, found = numbers("three")
    assert (last.state, found["rejected"], found["rejected_before"]) == ("failed", 1, 2)
    assert "1 of 13 rows were rejected (max_rejected=0)" in last.error
    assert "earlier runs" not in last.error

    for most, state in ((2, "failed"), (3, "success"), ("20%", "failed"), ("25%", "success"), (0, "failed")):
        place.write_dag(max_rejected_before=most)
        last, found = numbers(f"at-most-{str(most).rstrip('%')}")
        assert (last.state, found["rejected_before"], found["sent"]) == (state, 3, 0), most
        if state == "failed":
            assert f"3 of 13 rows were rejected in earlier runs (max_rejected_before={most})" in last.error

    [in_doubt_before, step] = blocks("docs/how-to/settle-usage.md", section="Rejected rows in SQL", language="sql")
    assert place.database.query(in_doubt_before.text.strip().rstrip(";")) == []
    [key] = [key for key, entry in place.database.ledger().items() if "ghost-1" in entry["row_key"]]
    place.database.execute(step.text.strip().rstrip(";").replace("'...'", f"'{key}'"))
    place.write_dag(max_rejected_before=2, max_in_doubt=0)
    last, found = numbers("four")
    assert (last.state, found["rejected_before"], found["given_up"]) == ("success", 2, 1)
    assert "1 x given_up" in place.output()
    sent = len(place.sent())
    place.write_dag(replay="rejected")
    last, found = numbers("five")
    # Sent again by this run, so that it is this run's again.
    assert (last.state, found["rejected"], found["rejected_before"], found["given_up"]) == ("failed", 2, 0, 1)
    assert len(place.sent()) == sent + 2
    place.write_dag(replay="parked")
    assert place.attempt("six").summary["given_up"] == 1
    assert len(place.sent()) == sent + 2
    assert Counter(json.loads(entry["row_key"])["account"] for entry in place.database.ledger().values())["ghost-1"] == 1
