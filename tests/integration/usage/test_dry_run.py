# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""``dry_run=True``: what a run would do, without a request, a token, a table or an entry."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from tests.support.usage import QUERY, Code, make_rows

DATABASES = ["duck", "lite", "pg"]
LEDGER = "limitrail_usage_ledger"
OUTLET = Code('[Asset("committed")]')
MASKED = Code('["externalAccount", "metadata"]')


def files_of(place) -> dict[str, str]:
    """The files of the database, and what is in them."""
    if place.database.conn_id == "pg":
        return {}
    host = Path(place.database.connection["host"])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in host.parent.glob(f"{host.name}*")}


def tables_of(place) -> set[str]:
    schema = "pg_catalog.pg_tables" if place.database.conn_id == "pg" else "duckdb_tables()"
    sql = "SELECT name FROM sqlite_master" if place.database.conn_id == "lite" else f"SELECT * FROM {schema}"
    return {row.get("name") or row.get("tablename") or row["table_name"] for row in place.database.query(sql)}


def forecast(place, run_id: str = "dry", **parameters) -> dict:
    """Try the task dry, and check that it leaves no trace."""
    usual = {"dry_run": True, "outlets": OUTLET, **parameters}
    place.write_dag(**usual)
    before = files_of(place), tables_of(place), place.database.ledger(), list(place.server.counters.log)
    last = place.attempt(run_id)
    assert last.state == "success", last.error
    assert (files_of(place), tables_of(place), place.database.ledger(), list(place.server.counters.log)) == before
    assert last.summary["dry_run"] is True
    return last.summary


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", DATABASES)
def test_a_first_send(place_of, conn_id):
    rows = make_rows(7)
    rows += [rows[2], ("acme-9", "x", "PAYMENT", "NULL"), ("acme-8", "x", "PAYMENT", "NULL")]
    place = place_of(conn_id, rows)
    summary = forecast(place)
    assert place.home.do("describe", "usage", "dry").task("commit")["events"] == []
    numbers = ("rows", "duplicates", "new", "known", "cannot_be_sent", "would_be_sent", "left_for_later")
    assert [summary[name] for name in numbers] == [9, 1, 7, {}, 2, 0, 0]
    assert summary["prevented_by"] == ["2 rows cannot be sent as they are"]
    [reason] = summary["reasons"]
    assert (reason["reason"], reason["count"]) == ("column 'amount' has no value, and the body needs one", 2)
    assert reason["examples"][0] == 'row 9 {"account":"acme-8","day":"x"}'
    output = place.output()
    assert "a run would fail, and send nothing: 2 rows cannot be sent" in output
    assert "dry run, nothing was sent or stored: of 9 rows 7 new" in output
    # What it says is what a run does.
    place.write_dag()
    assert place.attempt("real").state == "failed"
    assert place.sent() == []

    place.database.fill(rows[:8])
    summary = forecast(place, "dry-two", limit=5)
    assert [summary[name] for name in numbers] == [7, 1, 7, {}, 0, 5, 2]
    assert summary["prevented_by"] == []
    assert [request["row"] for request in summary["requests"]] == [1, 2, 3]
    place.write_dag(limit=5)
    last = place.attempt("real-two")
    assert (last.summary["sent"], last.summary["left_for_later"]) == (5, 2)
    sent = {entry.key: entry for entry in place.server.limitrail.journal}
    for request in summary["requests"]:
        done = sent[request["idempotency_key"]]
        assert (request["path"], request["body"]) == ("/v1/usage/commit", done.body.decode())
    # Another run of the task has the rest; so has this one as far as the limit goes.
    assert forecast(place, "dry-three", limit=5)["would_be_sent"] == 2


CHANGES = {
    "committed": "state = 'committed'",
    "denied": "state = 'denied'",
    "rejected": "state = 'rejected'",
    "changed": "state = 'committed', body_digest = 'v2:another:path'",
    "parked": "state = 'parked', detail = 'no answer', in_doubt_since = 1, finished_at = NULL",
    "unknown": "state = 'unknown', detail = 'no answer'",
    "old": "state = 'unknown', detail = 'no answer', in_doubt_since = 1",
    "dead": "state = 'sending', lease_until = 1",
    "given up": "state = 'given_up'",
    "new": None,
}
"""What people and tasks may have left of a row."""


@pytest.mark.covering
@pytest.mark.sampled(2)
@pytest.mark.parametrize("conn_id", DATABASES)
@pytest.mark.parametrize("on_unknown", ["park", "resend"])
@pytest.mark.parametrize("replay", [None, "rejected", "parked"])
def test_a_run_does_what_the_dry_run_said(place_of, conn_id, on_unknown, replay):
    place = place_of(conn_id, make_rows(60))
    place.write_dag(task_id="before")
    assert place.home.attempt("before", run_id="zero", dag_id="usage").task("before")["state"] == "success"
    chance = random.Random(f"{conn_id} {on_unknown} {replay}")
    left = {key: chance.choice(list(CHANGES)) for key in sorted(place.database.ledger())}
    changes = ((CHANGES[name], f"WHERE idempotency_key = '{key}'") for key, name in left.items())
    place.database.execute(
        *(f"UPDATE {LEDGER} SET {change} {where}" if change else f"DELETE FROM {LEDGER} {where}" for change, where in changes)
    )
    late = ", ".join(f"('late-{n}', 'd', 'PAYMENT', 1)" for n in range(3))
    place.database.execute(f"INSERT INTO usage VALUES {late}")
    place.server.limitrail.add_accounts([f"late-{n}" for n in range(3)])
    parameters = {"on_unknown": on_unknown, "replay": replay, "max_parked": "100%", "max_changed": "100%", "limit": 12}
    said = forecast(place, **parameters)
    counts = {name: list(left.values()).count(name) for name in CHANGES}
    assert said["new"] == counts["new"] + 3
    assert sum(said["known"].values()) + said["new"] == said["rows"] == 63
    assert said["known"].get("given_up", 0) == counts["given up"]
    assert (said["changed"], said["waiting"]) == (counts["changed"], 0)
    assert said["uncertain"] == counts["parked"] + counts["unknown"] + counts["old"] + counts["dead"]
    assert said["examples"].keys() <= {"new", "changed", "uncertain", "would_be_parked"}
    place.write_dag(**parameters)
    parked = place.database.states()["parked"]
    last = place.attempt("real")
    assert last.state == "success", last.error
    assert (last.summary["sent"], last.summary["left_for_later"]) == (said["would_be_sent"], said["left_for_later"])
    assert last.summary["changed"] == said["changed"]
    states = {key: entry["state"] for key, entry in place.database.ledger().items()}
    replayed = [key for key, name in left.items() if name == "parked" and states[key] == "committed"]
    assert list(states.values()).count("parked") == parked - len(replayed) + said["would_be_parked"]


def test_rows_that_others_are_sending_are_waited_for(place_of):
    place = place_of("pg", make_rows(4))
    place.write_dag()
    assert place.attempt("zero").state == "success"
    some = sorted(place.database.ledger())[:3]
    place.database.execute(
        f"UPDATE {LEDGER} SET state = 'sending', lease_until = extract(epoch FROM clock_timestamp()) * 1000 + 50000 "
        f"WHERE idempotency_key IN ({', '.join(map(repr, some))})"
    )
    said = forecast(place)
    assert (said["waiting"], said["uncertain"], said["known"]) == (3, 0, {"sending": 3, "committed": 1})
    assert len(said["examples"]["waiting"]) == 3


def test_everything_that_would_keep_a_run_from_sending(place_of):
    place = place_of("lite", make_rows(30))
    place.write_dag()
    assert place.attempt("zero").state == "success"
    clash = f"SELECT account, day || '' AS day, operation, amount FROM usage UNION ALL SELECT account, day, operation, 7 FROM ({QUERY} LIMIT 2)"  # noqa: E501
    said = forecast(place, "clash", sql=clash)
    [problem] = said["prevented_by"]
    assert "have the same key and different bodies (2 such rows in all)" in problem
    said = forecast(place, "duplicates", sql="SELECT * FROM usage UNION ALL SELECT * FROM usage", max_duplicates=3)
    assert "30 of 60 rows repeat earlier ones exactly" in said["prevented_by"][0]
    # The same rows under other keys.
    said = forecast(place, "rekeyed", key_namespace="other")
    assert (said["rekeyed"], said["would_be_sent"], said["known"]) == (30, 0, {"committed": 30})
    assert "30 of 30 rows are in the ledger" in said["prevented_by"][0]
    assert forecast(place, "settle", key_namespace="other", on_rekeyed="settle")["prevented_by"] == []
    assert forecast(place, "send", key_namespace="other", on_rekeyed="send")["would_be_sent"] == 30


def test_what_is_to_be_masked_is_shown_nowhere(place_of):
    place = place_of("duck", [("someone@example.com", "d", "PAYMENT", "123456.75")])
    body = Code(
        '{"who": {"mail": Column("account")}, "lines": [{"sum": Column("amount"), "kind": Column("operation")}], '
        '"more": Json("more")}'
    )
    sql = 'SELECT *, \'{"phone": "+44 20 7946", "plan": "x", "rate": 0.000000000000000000}\' AS more FROM usage'
    said = forecast(
        place,
        sql=sql,
        body=body,
        key_columns="day",
        path="/v1/usage/{account}",
        mask_members=["who", "lines.sum", "more.phone", "(path)"],
    )
    [request] = said["requests"]
    assert request["path"] == "***"
    shown = '{"lines":[{"kind":"PAYMENT","sum":"***"}],"more":{"phone":"***","plan":"x","rate":0.000000000000000000},"who":"***"}'
    assert request["body"] == shown
    told = place.output() + json.dumps(said)
    for value in ("someone", "123456.75", "20 7946"):
        assert value not in told
    place.write_dag(dry_run=True, sql=sql, body=body, key_columns="day", mask_members=["who.email", "lines.amount"])
    last = place.attempt("misspelt")
    assert last.state == "failed"
    assert "the body has no 'who.email', 'lines.amount'; it has 'who', 'who.mail', 'lines'" in last.error
    assert "someone" not in place.output()


def test_columns_that_lack_and_a_table_that_is_no_ledger_fail_as_in_a_run(place_of):
    place = place_of("duck", make_rows(3))
    place.write_dag(dry_run=True, sql="SELECT account, day FROM usage")
    last = place.attempt("one")
    assert (last.state, "the rows have no column 'amount', 'operation'" in last.error) == ("failed", True)
    place.write_dag(dry_run=True, ledger_table="usage")
    last = place.attempt("two")
    assert (last.state, "is no ledger of this version" in last.error) == ("failed", True)
    assert place.server.counters.log == []


def test_who_may_only_read_may_look(place_of):
    place = place_of("pg", make_rows(5))
    place.write_dag(limit=2)
    assert place.attempt("zero").state == "success"
    looker = {**place.database.connection, "login": "looker"}
    place.database.execute("DROP ROLE IF EXISTS looker", "CREATE ROLE looker LOGIN", f"GRANT SELECT ON {LEDGER}, usage TO looker")
    place.home.connect({"pg": looker})
    said = forecast(place, "looker")
    [problem] = said["prevented_by"]
    assert "the connection's user 'looker' may not INSERT, UPDATE, DELETE in the table" in problem
    assert (said["new"], said["known"], said["would_be_sent"]) == (3, {"committed": 2}, 0)
    place.database.execute(f"REVOKE ALL ON {LEDGER}, usage FROM looker", "DROP ROLE looker")
    place.home.connect({"pg": place.database.connection})
    schema = place.database.connection["schema"]
    place.database.execute(f'ALTER DATABASE "{schema}" SET default_transaction_read_only = on')
    said = forecast(place, "read-only", limit=2)
    assert (len(said["prevented_by"]), said["would_be_sent"], said["new"]) == (1, 0, 3)
    assert "the database takes no changes" in said["prevented_by"][0]


def test_no_credentials_are_needed_and_none_are_shown(place_of):
    place = place_of("lite", make_rows(2))
    connection = json.loads(place.server.limitrail_connection_json())
    place.home.connect({"limitrail_default": {**connection, "host": "http://127.0.0.1:1", "password": "wrong-0123456789"}})
    said = forecast(place, body={"x": "a wrong-0123456789 b"})
    assert [request["body"] for request in said["requests"]] == ["left out: it repeats a credential"] * 2
    assert "wrong-0123456789" not in place.output() + json.dumps(said)


def test_a_preview(place_of):
    place = place_of("lite", make_rows(5))
    said = forecast(place, operation="preview", limit=2)
    assert (said["new"], said["would_be_sent"], said["left_for_later"], said["table"]) == (5, 2, 3, "limitrail_usage_preview")
