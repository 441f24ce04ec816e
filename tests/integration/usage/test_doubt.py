# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A row that may have been carried out stays in doubt: whatever the API says of its key, whatever time it is, whoever asks."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from limio_limitrail.emulator import Fault, Reply
from tests.support.pages import blocks
from tests.support.usage import COMMIT, SIGKILL, Code, make_rows

LEDGER = "limitrail_usage_ledger"
HOUR = 3_600_000
STATUSES = (200, 400, 404, 409, 410, 422, 423)
HELD = ("nothing", "sending", "unknown", "parked", "rejected", "rejected while in doubt")
IN_DOUBT = ("sending", "unknown", "parked")
POLICIES = {
    "park": {"on_unknown": "park"},
    "resend": {"on_unknown": "resend"},
    "replay parked": {"on_unknown": "park", "replay": "parked"},
    "resend, replay parked": {"on_unknown": "resend", "replay": "parked"},
    "replay rejected": {"on_unknown": "park", "replay": "rejected"},
    "resend, replay rejected": {"on_unknown": "resend", "replay": "rejected"},
}


def problem(status: int, code: str = "KEY_KNOWN") -> Reply:
    body = {"title": "Conflict", "detail": "The key is known", "status": status, "errorCode": code}
    return Reply(status, json.dumps(body).encode(), content_type="application/problem+json")


def ages(place) -> dict[str, int | None]:
    found = place.database.query(f"SELECT idempotency_key, in_doubt_since FROM {LEDGER}")
    return {row["idempotency_key"]: row["in_doubt_since"] for row in found}


def now() -> int:
    return int(time.time() * 1000)


def hold(place, key: str, held: str) -> None:
    """Let the ledger hold a row as it is left by what went before."""
    change = {
        "nothing": f"DELETE FROM {LEDGER}",
        "rejected": f"UPDATE {LEDGER} SET state = 'rejected', http_status = 400, detail = 'no account', attempts = 3",
        "rejected while in doubt": f"UPDATE {LEDGER} SET state = 'rejected', in_doubt_since = {now() - HOUR}",
    }.get(
        held,
        f"UPDATE {LEDGER} SET state = '{held}', in_doubt_since = {now() - HOUR}, lease_until = 1, decision = NULL, "
        "http_status = NULL, detail = 'no answer'",
    )
    place.database.execute(f"{change} WHERE idempotency_key = '{key}'")


@pytest.mark.covering
@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_what_the_api_says_by_what_was_known(place_of, conn_id, name):
    """All cases at once: each row is held in one way, and answered with one status."""
    cases = [(held, status) for held in HELD for status in STATUSES]
    place = place_of(conn_id, make_rows(len(cases)))
    place.write_dag()
    assert place.attempt("one").state == "success"
    keys = {json.loads(entry["row_key"])["account"]: key for key, entry in place.database.ledger().items()}
    of = dict(zip((f"acme-{number}" for number in range(len(cases))), cases, strict=True))
    for account, (held, _) in of.items():
        hold(place, keys[account], held)
    before, seen = ages(place), len(place.sent())

    def answer(call):
        if call.path != COMMIT:
            return None
        status = of[json.loads(call.body)["externalAccount"]][1]
        return None if status == 200 else problem(status)

    place.server.on_request(answer)
    policy = POLICIES[name]
    place.write_dag(max_rejected="100%", max_parked="100%", **policy)
    place.output()
    last = place.attempt("two")
    assert last.state == "success", last.error
    sends = {
        "nothing": True,
        "sending": policy["on_unknown"] == "resend",
        "unknown": policy["on_unknown"] == "resend",
        "parked": policy.get("replay") == "parked",
        "rejected": policy.get("replay") == "rejected",
        "rejected while in doubt": False,
    }
    ledger, after = place.database.ledger(), ages(place)
    for account, (held, status) in of.items():
        entry, case = ledger[keys[account]], (held, status)
        if not sends[held]:
            assert entry["state"] == ("parked" if held in IN_DOUBT else "rejected"), case
            assert after[keys[account]] == before[keys[account]], case
            continue
        assert entry["http_status"] == status, case
        if status == 200:
            assert entry["state"] == "committed", case
        else:
            assert entry["state"] == ("parked" if held in IN_DOUBT else "rejected"), case
            assert entry["error_code"] == "KEY_KNOWN", case
            assert "The key is known" in entry["detail"], case
        assert after[keys[account]] == (before[keys[account]] if entry["state"] == "parked" else None), case
    assert len(place.sent()) - seen == last.summary["sent"] == sum(sends[held] for held, _ in cases)
    assert ("in doubt before it was rejected" in place.output()) == (policy.get("replay") == "rejected")
    # Nobody sends them again by itself, and a run that replays what was rejected sends what was never in doubt.
    seen, parked = len(place.sent()), {key for key, entry in ledger.items() if entry["state"] == "parked"}
    place.write_dag(max_rejected="100%", max_parked="100%", on_unknown=policy["on_unknown"], replay="rejected")
    place.attempt("three")
    assert not parked & {sent["headers"]["idempotency-key"] for sent in place.sent()[seen:]}
    place.journal()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_a_doubt_that_is_older_than_the_keys_window_is_parked(place_of, conn_id):
    since = {
        "a moment ago": lambda: now(),
        "19 hours ago": lambda: now() - 19 * HOUR,
        "21 hours ago": lambda: now() - 21 * HOUR,
        "on Friday": lambda: now() - 62 * HOUR,
        "in an hour": lambda: now() + HOUR,
        "unknown": lambda: 0,
        # A person has changed the state alone.
        "not written down, claimed a moment ago": lambda: "NULL",
        "not written down, claimed on Friday": lambda: "NULL",
        "not written down, claimed twice": lambda: "NULL",
    }
    young = {"a moment ago", "19 hours ago"}
    place = place_of(conn_id, make_rows(2 * len(since)))
    place.write_dag(on_unknown="resend")
    assert place.attempt("one").state == "success"
    keys = {json.loads(entry["row_key"])["account"]: key for key, entry in place.database.ledger().items()}
    of = {f"acme-{number}": list(since)[number % len(since)] for number in range(len(keys))}
    for number, (account, name) in enumerate(of.items()):
        state = "unknown" if number < len(since) else "sending"
        friday = (datetime.now(UTC) - timedelta(hours=62)).isoformat()
        claimed = f", claimed_at = '{friday}'" if "Friday" in name else ""
        place.database.execute(
            f"UPDATE {LEDGER} SET state = '{state}', lease_until = 1, detail = NULL, in_doubt_since = {since[name]()}, "
            f"attempts = {2 if 'twice' in name else 1}{claimed} WHERE idempotency_key = '{keys[account]}'"
        )
    seen = len(place.sent())
    place.write_dag(on_unknown="resend", max_parked="100%")
    last = place.attempt("two")
    assert last.state == "success", last.error
    ledger = place.database.ledger()
    for account, name in of.items():
        entry = ledger[keys[account]]
        assert entry["state"] == ("committed" if name in young else "parked"), name
        if name not in young:
            assert "(resend_within is 20.0 h)" in entry["detail"], name
    assert "for 62.0 h: the API may not know its key any more" in ledger[keys["acme-3"]]["detail"]
    assert "which is in the future" in ledger[keys["acme-4"]]["detail"]
    assert {sent["headers"]["idempotency-key"] for sent in place.sent()[seen:]} == {
        keys[account] for account, name in of.items() if name in young
    }
    place.journal()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("within", "sent"), [(timedelta(days=3), 1), ("P3D", 1), (62.5 * 3600, 1), ("{{ 61 * 3600 }}", 0), (0, 0), ("PT1H", 0)]
)
def test_how_long_keys_are_known_is_the_users_choice(place_of, within, sent):
    place = place_of("duck", make_rows(1))
    place.write_dag()
    assert place.attempt("one").state == "success"
    [key] = place.database.ledger()
    place.database.execute(f"UPDATE {LEDGER} SET state = 'unknown', in_doubt_since = {now() - 62 * HOUR}")
    within = Code(f"timedelta(days={within.days})") if isinstance(within, timedelta) else within
    place.write_dag(on_unknown="resend", idempotency={"resend_within": within}, max_parked=1)
    assert place.attempt("two").summary["sent"] == sent
    assert place.database.ledger()[key]["state"] == ("committed" if sent else "parked")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_the_age_of_a_doubt_counts_from_the_first_request(place_of, conn_id):
    place = place_of(conn_id, make_rows(5))
    place.write_dag(on_unknown="resend", retries=9)
    lost = place.server.faults.add(Fault("status_after", COMMIT, status=500, times=None))
    began = now()
    assert place.attempt("one").summary["unknown"] == 5
    first = ages(place)
    assert all(began - 1000 <= since <= now() + 1000 for since in first.values())
    time.sleep(0.05)
    assert place.attempt("one").summary["unknown"] == 5
    assert ages(place) == first
    assert {entry["attempts"] for entry in place.database.ledger().values()} == {2}
    place.server.faults.remove(lost.number)
    assert place.attempt("one").summary["committed"] == 5
    assert set(ages(place).values()) == {None}
    assert len(place.journal()) == 5


MAPPINGS = {
    "a mapping": {"already_committed": [{"status": 409, "error_code": "KEY_KNOWN"}]},
    "a template": '{"already_committed": [{"status": {{ 409 }}, "error_code": "KEY_KNOWN"}]}',
    "an object": Code('ResponseMapping(already_committed=[Refusal(status=409, error_code="KEY_KNOWN")])'),
    "any code": {"already_committed": [{"status": 409}]},
    "another code": {"already_committed": [{"status": 409, "error_code": "OTHER"}]},
    "another status": {"already_committed": [{"status": 422, "error_code": "KEY_KNOWN"}]},
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", MAPPINGS)
def test_a_refusal_that_means_that_the_row_was_carried_out(place_of, name):
    place = place_of("duck", make_rows(12))
    before = "from limio_limitrail.usage import Refusal, ResponseMapping"
    place.write_dag(on_unknown="resend", retries=9, response=MAPPINGS[name], before=before, max_parked="100%")
    lost = place.server.faults.add(Fault("status_after", COMMIT, status=500, times=6))
    assert place.attempt().summary["unknown"] == 6
    place.server.faults.remove(lost.number)
    known = {entry.key for entry in place.server.limitrail.journal}
    assert len(known) == 12

    def answer(call):
        return problem(409) if call.path == COMMIT and call.headers["idempotency-key"] in known else None

    place.server.on_request(answer)
    last = place.attempt()
    assert last.state == "success", last.error
    means = "another" not in name
    assert (last.summary["committed"], last.summary["parked"]) == ((12, 0) if means else (6, 6))
    refused = [entry for entry in place.database.ledger().values() if entry["http_status"] == 409]
    assert {entry["state"] for entry in refused} == {"committed" if means else "parked"}
    assert len(refused) == 6
    assert all(entry["error_code"] == "KEY_KNOWN" and "The key is known" in entry["detail"] for entry in refused)
    place.journal()


@pytest.mark.covering
@pytest.mark.sampled(1)
@pytest.mark.parametrize("status", [401, 403, 407, 429])
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_what_says_nothing_of_a_row_leaves_it_as_it_stood(place_of, conn_id, status):
    place = place_of(conn_id, make_rows(3))
    place.write_dag()
    assert place.attempt("one").state == "success"
    keys = list(place.database.ledger())
    for key, held in zip(keys, IN_DOUBT, strict=True):
        hold(place, key, held)
    before, since = place.database.ledger(), ages(place)
    headers = {"Retry-After": "4000"} if status == 429 else {}
    place.server.faults.add(Fault("status", COMMIT, status=status, headers=headers, times=None))
    place.write_dag(on_unknown="resend", replay="parked", retries=9)
    last = place.attempt("two")
    assert last.state in ("failed", "up_for_retry")
    assert place.database.ledger() == before
    assert ages(place) == since


def test_rows_that_were_parked_after_the_run_was_asked_for_are_not_replayed(place_of):
    place = place_of("duck", make_rows(6))
    asked = datetime.now(UTC) - timedelta(seconds=5)
    place.write_dag(max_parked="100%")
    place.server.faults.add(Fault("status_after", COMMIT, status=500, times=6))
    assert place.attempt("other").summary["parked"] == 6
    place.server.faults.clear()
    key, *_ = place.database.ledger()
    # A person has looked this one up, before the run was asked for.
    place.database.execute(
        f"UPDATE {LEDGER} SET finished_at = '{(asked - timedelta(hours=1)).isoformat()}' WHERE idempotency_key = '{key}'"
    )
    place.write_dag(max_parked="100%", replay="parked")
    place.output()
    last = place.attempt("queued", times={"due": asked.isoformat()})
    assert (last.summary["sent"], last.summary["parked"]) == (1, 5)
    assert "it was parked after this run was asked for" in place.output()
    assert place.attempt("later").summary["sent"] == 5
    assert place.database.states() == {"committed": 6}
    place.journal()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_a_row_that_a_person_has_looked_up_is_settled_by_itself(place_of, conn_id):
    place = place_of(conn_id, make_rows(3), idempotency="off")
    place.write_dag(max_parked="100%")
    place.server.faults.add(Fault("reset_after", COMMIT, times=1))
    place.server.faults.add(Fault("reset", COMMIT, times=2))
    assert place.attempt("one").summary["parked"] == 3
    done = {entry.key for entry in place.server.limitrail.journal}
    assert len(done) == 1
    _, is_there, is_not_there = blocks("docs/how-to/settle-usage.md", section="Parked rows in SQL", language="sql")
    for key in place.database.ledger():
        step = (is_there if key in done else is_not_there).text.strip().rstrip(";")
        place.database.execute(step.replace("'...'", f"'{key}'"))
    last = place.attempt("two")
    assert (last.state, last.summary["sent"], last.summary["committed"]) == ("success", 2, 3)
    assert len(place.journal()) == 3


@pytest.mark.exhaustive
@pytest.mark.covering
@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize("conn_id", ["duck", "pg"])
def test_kills_and_an_api_that_refuses_known_keys(place_of, conn_id, status):
    place = place_of(conn_id, make_rows(200))
    known: set[str] = set()

    def answer(call):
        if call.path != COMMIT:
            return None
        key = call.headers["idempotency-key"]
        if key in known:
            return problem(status)
        known.add(key)
        return None

    place.server.on_request(answer)
    place.server.faults.add(Fault("reset_after", COMMIT, times=None, share=0.05, seed=status))
    place.write_dag(on_unknown="resend", retries=99, batch_size=20, max_parked="100%")
    for step, number in (("after sending", 20), ("before recording", 2), ("after claim", 3)):
        assert place.attempt(kill=[step, number]).code == SIGKILL
    last = place.attempt()
    assert last.state == "success", last.error
    ledger = place.agree(doubtful=frozenset({"parked"}))
    assert set(Counter(entry["state"] for entry in ledger.values())) == {"committed", "parked"}
    parked = {key: entry for key, entry in ledger.items() if entry["state"] == "parked"}
    assert all(entry["http_status"] == status and "The key is known" in entry["detail"] for entry in parked.values())
    # Whoever replays what was rejected bills nothing twice.
    place.write_dag(replay="rejected", max_parked="100%")
    assert place.attempt("replay").summary["sent"] == 0
    assert len(place.journal()) == 200
