# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""No token and no client secret is left anywhere: logs, XComs, Airflow's database, ledger, previews, files."""

from __future__ import annotations

import contextlib
import json
import urllib.parse

import pytest

from limio_limitrail.emulator import Fault, LimitRailClient, Reply
from tests.support.secrets_left import FORMS, files_below, holders
from tests.support.tiers import EVERYTHING
from tests.support.usage import COMMIT, make_rows

SECRET = "Opaque+Client/Secret=42"


def leaks(place, *tables: str) -> set[str]:
    """Name the files and tables that hold a secret, in whatever form."""
    contents = files_below(place.folder)
    for table in ("limitrail_usage_ledger", "limitrail_usage_preview", *tables):
        with contextlib.suppress(Exception):  # there may be none
            contents[table] = repr(place.database.query(f"SELECT * FROM {table}")).encode()
    secrets = (SECRET, *place.server.limitrail.tokens)
    assert len(secrets) > 1
    return holders(contents, secrets)


def echo(place, status: int) -> None:
    """Have the API repeat what it was sent, in every member that is read; for each row in another form."""

    def answer(call):
        if not call.path.startswith("/v1/") or (number := json.loads(call.body)["amount"]) % 2 == 0:
            return None
        form = list(FORMS.values())[int(number) // 2 % len(FORMS)]
        sent = form(call.headers["authorization"].removeprefix("Bearer "))
        body = dict.fromkeys(("title", "detail", "errorCode", "resourceKey", "field", "traceId", "type", "instance"), sent)
        # Where the decision is clear, the row is carried out, whatever else the answer says.
        decision = "ALLOWED" if number % 4 == 1 else sent
        body |= {"message": sent, "decision": decision, "reservationId": sent, "fees": [sent], sent: sent}
        kind = "application/problem+json" if status >= 400 else "application/json"
        header = urllib.parse.quote(sent)
        return Reply(status, json.dumps(body).encode(), {"X-Trace-Id": header, "X-Request-Id": header}, content_type=kind)

    place.server.on_request(answer)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("operation", "statuses"),
    [
        ("commit", (200, 400, 401, 403, 404, 409, 422, 429, 500) if EVERYTHING else (200, 403, 422, 500)),
        ("preview", (200, 400)),
        ("reserve", (200, 404)),
    ],
)
def test_an_api_that_repeats_what_it_was_sent(place_of, operation, statuses):
    rows = [(account, day, operation, str(n)) for n, (account, day, operation, _) in enumerate(make_rows(60))]
    client = LimitRailClient("lr_demo", SECRET, "demo")
    for number, status in enumerate(statuses):
        if number == 0:
            place = place_of("duck", rows, clients=(client,))
        place.server._hooks.clear()
        echo(place, status)
        place.write_dag(operation=operation, ledger_table=f"ledger_{status}", preview_table=f"preview_{status}", max_rejected=0)
        stop = {"limio_limitrail.usage.committer.LONGEST_REFUSAL": 0.5, "limio_limitrail.usage.committer.MOST_DOUBTS": 3}
        last = place.attempt(f"run-{status}", patch=stop)
        assert last.code == 0
        if status == 200 and operation == "preview":
            kept = place.database.query("SELECT answer, fees, decision FROM preview_200 WHERE state = 'parked'")
            assert kept
        if status == 200:
            table = f"ledger_{status}" if operation != "preview" else f"preview_{status}"
            done = place.database.query(f"SELECT state, reservation_id FROM {table} WHERE http_status = 200")
            assert {row["state"] for row in done} == {"committed", "parked"}
    assert place.sent("/v1/")
    tables = [f"{kind}_{status}" for kind in ("ledger", "preview") for status in statuses]
    assert leaks(place, *tables) == set()


def test_runs_that_fail_in_many_ways(place_of):
    place = place_of("pg", make_rows(60), clients=(LimitRailClient("lr_demo", SECRET, "demo"),))
    place.write_dag(on_unknown="resend")
    place.server.faults.add(Fault("reset_after", COMMIT, times=2))
    place.server.faults.add(Fault("status", COMMIT, status=500, after=20, times=2))
    place.server.faults.add(Fault("bad_json", COMMIT, after=30, times=1))
    place.server.faults.add(Fault("html", COMMIT, after=35, times=1))
    place.server.faults.add(Fault("redirect", COMMIT, location="https://elsewhere.example/", after=36, times=1))
    place.server.faults.add(Fault("truncated", COMMIT, after=40, times=1))
    assert place.attempt("one").code == 0
    assert place.attempt("two", kill=["seconds", 0.1]).code in (0, -9)
    place.server.expire_tokens()
    for number, status in enumerate((400, 401, 500)):
        fault = place.server.faults.add(Fault("status", "/connect/token", status=status, body={"error": SECRET}, times=None))
        assert place.attempt(f"token-{number}").state == "failed"
        place.server.faults.remove(fault.number)
    place.write_dag(scope=SECRET.replace("+", " "))
    place.attempt("scope")
    assert leaks(place) == set()
