# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows in doubt that no run of today has: every run speaks of them, and can be told to fail."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.usage import SIGKILL, make_rows

LEDGER = "limitrail_usage_ledger"
DATABASES = ["duck", "lite", "pg"]
HOUR, DAY = 3_600_000, 86_400_000
NO_AGES = {"under_1h": 0, "under_1d": 0, "under_7d": 0, "older": 0}


def day(number, count=5):
    """The rows of one day."""
    return [(f"acme-{n}", f"day {number}", "PAYMENT", "1") for n in range(count)]


def change(place, account, number=1, **values):
    """Change the entry of a row as a person or a crash might."""
    literals = {name: "NULL" if value is None else repr(value) for name, value in values.items()}
    settings = ", ".join(f"{name} = {value}" for name, value in literals.items())
    place.database.execute(
        f"UPDATE {LEDGER} SET {settings} WHERE row_key LIKE '%\"{account}\"%' AND row_key LIKE '%\"day {number}\"%'"
    )


def ago(milliseconds):
    return datetime.now(UTC) - timedelta(milliseconds=milliseconds)


def text_of(when):
    return when.isoformat(" ")


def stamp(when):
    return int(when.timestamp() * 1000)


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", DATABASES)
def test_rows_in_doubt_of_other_days_are_told_by_age_and_can_fail_the_task(place_of, conn_id):
    place = place_of(conn_id, day(1, 14))
    place.write_dag()
    assert place.attempt("one").state == "success"
    counted = {
        "acme-0": {"state": "sending", "lease_until": 1, "in_doubt_since": stamp(ago(HOUR // 6))},
        "acme-1": {"state": "sending", "lease_until": 1, "in_doubt_since": stamp(ago(HOUR // 2))},
        "acme-2": {"state": "unknown", "in_doubt_since": None, "claimed_at": text_of(ago(3 * HOUR))},
        "acme-3": {"state": "parked", "in_doubt_since": None, "claimed_at": text_of(ago(3 * DAY))},
        # The age counts from the first sending, not from the last.
        "acme-4": {"state": "parked", "in_doubt_since": stamp(ago(9 * DAY)), "claimed_at": text_of(ago(HOUR // 2))},
        "acme-5": {"state": "parked", "in_doubt_since": None, "claimed_at": None},
        # A clock was wrong.
        "acme-6": {"state": "parked", "in_doubt_since": stamp(ago(-5 * HOUR))},
        # Somebody has mistyped a state: nobody knows what is so.
        "acme-7": {"state": "comitted", "in_doubt_since": None, "claimed_at": text_of(ago(2 * DAY))},
        "acme-8": {"state": "sending", "lease_until": None, "in_doubt_since": stamp(ago(2 * DAY))},
    }
    for account, values in counted.items():
        change(place, account, **values)
    change(place, "acme-9", state="given_up")
    change(place, "acme-10", state="rejected")
    change(place, "acme-11", state="parked", operation="usage.reserve")
    change(place, "acme-12", state="parked")  # among today's rows
    ages = {"under_1h": 2, "under_1d": 1, "under_7d": 3, "older": 3}
    before = {key: entry for key, entry in place.database.ledger().items() if entry["state"] != "committed"}
    place.output()

    place.database.fill([*day(2), day(1, 14)[12]])
    place.write_dag(max_parked=1)
    last = place.attempt("two")
    assert last.state == "success", last.error
    assert (last.summary["left_in_doubt"], last.summary["left_in_doubt_ages"]) == (9, ages)
    assert (last.summary["committed"], last.summary["parked"]) == (5, 1)
    output = place.output()
    assert f"are in doubt in {LEDGER}: 9 (" in output
    for said in ("4 parked", "3 sending", "1 unknown", "1 comitted", "2 under 1h, 1 under 1d, 3 under 7d, 3 older"):
        assert said in output
    assert '"account":"acme-5"' in output or '"account":"acme-6"' in output
    [query] = {line.partition("see them in SQL: ")[2].strip() for line in output.splitlines() if "see them in SQL: " in line}
    shown = place.database.query(query[: query.index(" ORDER BY claimed_at") + len(" ORDER BY claimed_at")])
    assert len(shown) == 10
    assert {key: place.database.ledger()[key] for key in before} == before

    place.database.fill(day(3))
    place.write_dag(max_in_doubt=9, retries=3)
    last = place.attempt("three")
    # One more, which run two had among its rows.
    assert (last.state, last.summary["left_in_doubt"], last.summary["committed"]) == ("failed", 10, 5)
    assert f"are in doubt in {LEDGER}: 10 (" in last.error
    assert "max_in_doubt=9" in last.error
    place.write_dag(max_in_doubt="10")
    assert place.attempt("four").state == "success"

    place.database.execute(
        f"UPDATE {LEDGER} SET state = 'committed' WHERE operation = 'usage.commit' AND state NOT IN ('rejected', 'given_up')"
    )
    place.output()
    place.write_dag(max_in_doubt=0)
    last = place.attempt("five")
    assert last.state == "success", last.error
    assert (last.summary["left_in_doubt"], last.summary["left_in_doubt_ages"]) == (0, NO_AGES)
    assert "in doubt" not in place.output()


@pytest.mark.exhaustive
@pytest.mark.parametrize("conn_id", DATABASES)
def test_a_killed_day_is_spoken_of_by_all_that_follow(place_of, conn_id):
    place = place_of(conn_id, make_rows(40))
    place.write_dag()
    assert place.attempt("monday", kill=["before sending", 20]).code == SIGKILL
    left = place.database.states()["sending"]
    assert left > 0
    # Its lease is over.
    place.database.execute(f"UPDATE {LEDGER} SET lease_until = 1 WHERE state = 'sending'")
    for number, rows in enumerate((day(2), [], day(3)), start=2):
        place.database.fill(rows)
        place.server.limitrail.add_accounts({row[0] for row in rows})
        last = place.attempt(f"day-{number}")
        assert last.state == "success", last.error
        assert last.summary["left_in_doubt"] == left
        assert last.summary["left_in_doubt_ages"] == {**NO_AGES, "under_1h": left}
        assert f"are in doubt in {LEDGER}: {left} (" in place.output()
    place.write_dag(max_in_doubt=0, operation="preview")
    last = place.attempt("a-look")
    assert (last.state, last.summary["left_in_doubt"]) == ("success", 0)


def test_what_somebody_settles_while_the_task_runs_does_not_fail_it(place_of):
    place = place_of("pg", day(1))
    place.write_dag()
    assert place.attempt("one").state == "success"
    change(place, "acme-0", state="parked")
    place.database.fill(day(2))
    settled = []

    def settle(call):
        if call.path.endswith("/commit") and not settled:
            settled.append(time.monotonic())
            change(place, "acme-0", state="committed")

    place.server.on_request(settle)
    place.write_dag(max_in_doubt=0)
    last = place.attempt("two")
    assert (last.state, last.summary["left_in_doubt"]) == ("success", 0), last.error


@pytest.mark.exhaustive
def test_it_is_said_before_a_task_fails_for_another_reason(place_of):
    place = place_of("duck", day(1))
    place.write_dag()
    assert place.attempt("one").state == "success"
    change(place, "acme-0", state="parked")
    place.database.fill(day(2))
    place.output()
    place.write_dag(path="/v1/nowhere", max_in_doubt=0)
    last = place.attempt("two")
    assert last.state == "failed"
    assert last.summary["left_in_doubt"] == 1
    assert f"are in doubt in {LEDGER}: 1 (" in place.output()
