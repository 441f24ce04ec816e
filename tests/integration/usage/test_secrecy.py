# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""No token and no client secret is left anywhere: logs, XComs, Airflow's database, ledger, previews, files."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from usage import COMMIT, make_rows

from limio_limitrail.emulator import Fault, Reply
from limio_limitrail.emulator.limitrail_options import LimitRailClient

SECRET = "Opaque+Client/Secret=42"


def forms(secret: str) -> set[bytes]:
    """How a secret may look when it is repeated."""
    written = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()}
    return {text.encode() for text in written}


def leaks(place) -> list[str]:
    """Name the files that hold a secret."""
    secrets = set().union(*(forms(one) for one in (SECRET, *place.server.limitrail.tokens)))
    assert len(secrets) > 4
    found = []
    for path in place.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [str(path) for secret in secrets if secret in content]
    for table in ("limitrail_usage_ledger", "limitrail_usage_preview"):
        try:
            content = repr(place.database.query(f"SELECT * FROM {table}")).encode()
        except Exception:  # noqa: BLE001 - there may be none
            continue
        found += [table for secret in secrets if secret in content]
    return found


def echo(place, status: int) -> None:
    """Have the API repeat what it was sent, in every member that is read."""

    def answer(call):
        if not call.path.startswith("/v1/") or json.loads(call.body)["amount"] % 2 == 0:
            return None
        sent = call.headers["authorization"]
        body = dict.fromkeys(("title", "detail", "errorCode", "resourceKey", "field", "traceId"), sent.removeprefix("Bearer "))
        body |= {"message": sent, "decision": sent, "reservationId": sent, "fees": [sent], sent: sent}
        kind = "application/problem+json" if status >= 400 else "application/json"
        return Reply(status, json.dumps(body).encode(), {"X-Trace-Id": sent}, content_type=kind)

    place.server.on_request(answer)


@pytest.mark.parametrize(
    ("mode", "statuses"),
    [("commit", (200, 400, 401, 403, 404, 409, 422, 429, 500)), ("preview", (200, 400)), ("reserve", (200, 404))],
)
def test_an_api_that_repeats_what_it_was_sent(place_of, mode, statuses):
    rows = [(account, day, operation, str(n)) for n, (account, day, operation, _) in enumerate(make_rows(30))]
    client = LimitRailClient("lr_demo", SECRET, "demo")
    for number, status in enumerate(statuses):
        if number == 0:
            place = place_of("duck", rows, clients=(client,))
        place.server._hooks.clear()
        echo(place, status)
        place.write_dag(mode=mode, ledger_table=f"ledger_{status}", preview_table=f"preview_{status}", max_rejected=0)
        stop = {"limio_limitrail.ledger.batch.LONGEST_REFUSAL": 0.5, "limio_limitrail.ledger.batch.MOST_DOUBTS": 3}
        last = place.attempt(f"run-{status}", patch=stop)
        assert last.code == 0
        if status == 200 and mode == "preview":
            kept = place.database.query("SELECT answer, fees, decision FROM preview_200 WHERE state = 'parked'")
            assert kept
    assert place.sent("/v1/")
    assert leaks(place) == []


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
    assert leaks(place) == []
