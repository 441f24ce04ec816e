# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Settle rows that an API has left in doubt, by a task and by the command line: no row is carried out twice, and none is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from limio_limitrail.emulator import Fault
from tests.support.usage import COMMIT, make_rows

ROWS = make_rows(24)
LEDGER = "limitrail_usage_ledger"


def in_doubt(place_of, conn_id, rows=ROWS):
    """A place where every third answer got lost, after or before the row was carried out."""
    place = place_of(conn_id, rows, idempotency="off")
    place.server.faults.add(Fault("reset_after", COMMIT, times=4))
    place.server.faults.add(Fault("status", COMMIT, status=500, after=4, times=4))
    place.write_dag(max_parked="100%")
    assert place.attempt("one").state == "success"
    place.server.faults.clear()
    return place


def parked(place):
    return [key for key, entry in place.database.ledger().items() if entry["state"] == "parked"]


def truth(place):
    """What a person finds who looks each parked row up in the API."""
    done = place.journal()
    return {key: "committed" if key in done else "send" for key in parked(place)}


def settle_task(place, **parameters):
    given = {"sql_conn_id": place.database.conn_id, **parameters}
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
    place.home.write_dag(f"LimitRailSettleUsageOperator(task_id='settle', {shown})", dag_id="month", name="dag_month")


def settle(place, run_id="one", **how):
    return place.home.attempt("settle", run_id=run_id, dag_id="month", **how)


def columns(place, *names):
    return {
        row["idempotency_key"]: row for row in place.database.query(f"SELECT idempotency_key, {', '.join(names)} FROM {LEDGER}")
    }


OTHERS = pytest.mark.exhaustive


@pytest.mark.parametrize("conn_id", ["lite", pytest.param("duck", marks=OTHERS), pytest.param("pg", marks=OTHERS)])
def test_a_task_settles_and_the_next_run_sends_what_is_free(place_of, conn_id):
    place = in_doubt(place_of, conn_id)
    found = truth(place)
    assert set(found.values()) == {"committed", "send"}
    settle_task(place, decisions=[{"key": key, "decision": decision, "note": "looked up"} for key, decision in found.items()])
    sent = len(place.sent())
    done = settle(place)
    summary = done.task("settle")["xcom"]
    wanted = {word: list(found.values()).count(word) for word in ("committed", "send")}
    assert (done.task("settle")["state"], summary["settled_as"], summary["stale"]) == ("success", wanted, 0)
    assert [run["rows"] for run in summary["to_send"]] == [wanted["send"]]
    assert len(place.sent()) == sent
    # Again, as a person who clears the task does: nothing is settled twice.
    again = settle(place).task("settle")["xcom"]
    assert (again["settled"], again["already"]) == (0, len(found))
    states = place.database.states()
    assert states == {"committed": len(ROWS) - wanted["send"], "free": wanted["send"]}
    # Two runs at once, and a third: each free row is sent once.
    place.write_dag(max_parked="100%")
    assert place.attempt("two").summary["sent"] == wanted["send"]
    assert place.attempt("three").summary["sent"] == 0
    assert len(place.journal()) == len(ROWS)
    assert place.database.states() == {"committed": len(ROWS)}
    # The task that was cleared much later does nothing to rows that are done.
    late = settle(place).task("settle")["xcom"]
    assert (late["settled"], late["already"], late["stale"]) == (0, len(found), 0)
    who = {row["settled_by"] for key, row in columns(place, "settled_by").items() if key in found}
    assert who == {"task month.settle in run one"}


def test_a_form_that_nobody_has_answered_settles_nothing(place_of):
    place = in_doubt(place_of, "lite")
    place.home.write_dag(
        """
        @task
        def form():
            return None

        LimitRailSettleUsageOperator(task_id="settle", sql_conn_id="lite", decisions=form())
        LimitRailSettleUsageOperator(
            task_id="rendered", sql_conn_id="lite", decisions="{{ ti.xcom_pull(task_ids='form') }}", ledger_table="no_such_table"
        )
        """,
        dag_id="form",
        name="dag_form",
    )
    assert place.home.run("form").result["state"] == "success"
    assert set(place.database.states()) == {"committed", "parked"}


def test_what_does_not_fit_fails_once_and_settles_nothing(place_of):
    place = in_doubt(place_of, "lite")
    key, *_ = parked(place)
    wrong = [
        [{"key": key, "decision": "yes"}],
        [{"key": key, "decision": "send"}, {"key": "nowhere", "decision": "send"}],
    ]
    for number, decisions in enumerate(wrong):
        settle_task(place, decisions=decisions, retries=3)
        assert settle(place, run_id=f"run-{number}").task("settle")["state"] == "failed", decisions
    settle_task(place, decisions=[{"key": key, "decision": "send"}], ledger_table="elsewhere")
    assert settle(place, run_id="elsewhere").task("settle")["state"] == "failed"
    output = place.output()
    for said in (
        "decisions[0] has a decision that must be one of committed",
        "'nowhere' is not in limitrail_usage_ledger",
        "there is no table elsewhere",
    ):
        assert said in output
    assert set(place.database.states()) == {"committed", "parked"}
    assert "elsewhere" not in [row["name"] for row in place.database.query("SELECT name FROM sqlite_master")]


def test_two_people_who_decide_otherwise(place_of):
    place = in_doubt(place_of, "pg")
    code, out, _ = place.home.command("limitrail", "ledger", "list", "--conn-id", "pg", "-o", "json")
    assert code == 0
    seen = json.loads(out)
    assert {row["state"] for row in seen} == {"parked"}
    code, _, err = place.home.command(
        "limitrail", "ledger", "settle", "--conn-id", "pg", "--decision", "give_up", "--by", "bob", "--note", "no", seen[0]["key"]
    )
    assert code == 0, err
    settle_task(place, decisions={"decisions": [{**row, "decision": "committed"} for row in seen], "by": "ada"}, retries=2)
    done = settle(place).task("settle")
    assert (done["state"], done["xcom"]["contradicted"], done["xcom"]["settled"]) == ("failed", 1, len(seen) - 1)
    assert "settled by bob at 20" in done["xcom"]["examples"][0]
    assert "somebody else has settled these rows of limitrail_usage_ledger otherwise" in place.output()
    assert {key: row["settled_by"] for key, row in columns(place, "settled_by").items() if row["settled_by"]} == {
        row["key"]: "ada" if number else "bob" for number, row in enumerate(seen)
    }


# -- the command line ----------------------------------------------------------------------------------------------------


def ledger(place, *words, text=""):
    return place.home.command("limitrail", "ledger", *words, "--conn-id", place.database.conn_id, text=text)


@pytest.mark.parametrize("conn_id", ["duck", pytest.param("lite", marks=OTHERS), pytest.param("pg", marks=OTHERS)])
def test_the_command_line_shows_and_settles(place_of, conn_id):
    place = in_doubt(place_of, conn_id)
    found = truth(place)
    code, out, err = ledger(place, "status", "-o", "json")
    assert code == 0, err
    counts = {row["state"]: (row["rows"], row["need_a_person"]) for row in json.loads(out)}
    assert counts == {"committed": (len(ROWS) - len(found), 0), "parked": (len(found), len(found))}
    for output in ("table", "plain", "yaml"):
        code, out, err = ledger(place, "list", "--state", "parked", "--limit", "3", "-o", output)
        assert (code, "usage" in out) == (0, True), err
        assert "There are more than 3 rows" in err
    code, out, _ = ledger(place, "list", "--state", "parked,unknown", "-o", "json")
    seen = json.loads(out)
    assert {row["key"] for row in seen} == set(found)
    # As a person does in an editor: those that were found there, and the rest in one go.
    done = [{**row, "decision": "committed"} for row in seen if found[row["key"]] == "committed"]
    (place.folder / "done.json").write_text(json.dumps(done), encoding="utf-8-sig")  # as some editors save it
    code, out, err = ledger(place, "settle", "--from-file", str(place.folder / "done.json"), "-o", "json", "--by", "ada")
    assert (code, json.loads(out)) == (0, [{"result": "settled as committed", "rows": len(done)}]), err
    code, _, err = ledger(place, "settle", "--state", "parked", "--decision", "send")
    assert (code, "give --yes" in err, "8" not in out) == (1, True, True)
    assert len(parked(place)) == len(found) - len(done)
    code, _, err = ledger(place, "settle", "--state", "parked", "--decision", "send", "--yes", "--note", "not there")
    assert code == 0, err
    assert "clear the task commit in the run one of the Dag usage" in err
    assert parked(place) == []
    who = columns(place, "settled_by", "settlement")
    assert {who[row["key"]]["settled_by"] for row in done} == {"ada"}
    assert {json.loads(who[key]["settlement"]).get("note") for key in found} == {None, "not there"}
    place.attempt("two")
    assert len(place.journal()) == len(ROWS)
    assert place.database.states() == {"committed": len(ROWS)}


def test_the_command_line_says_what_is_wrong(place_of, tmp_path):
    place = in_doubt(place_of, "lite")
    key, *_ = parked(place)
    place.database.execute(f"UPDATE {LEDGER} SET state = 'rejected' WHERE idempotency_key = '{parked(place)[-1]}'")
    before = place.database.ledger()
    (tmp_path / "broken.json").write_text("[\n{")
    wrong = {
        "give the keys of rows, --from-file, or a filter": ["settle", "--decision", "send"],
        "given: keys, a filter": ["settle", "--decision", "send", "--state", "parked", key],
        "--decision must be one of committed": ["settle", "--decision", "yes", key],
        "--version is that of one row": ["settle", "--decision", "send", "--version", "x", key, "other"],
        "'other' is not in limitrail_usage_ledger": ["settle", "--decision", "send", key, "other"],
        "broken.json is not JSON at line": ["settle", "--from-file", str(tmp_path / "broken.json")],
        "cannot be read: No such file": ["settle", "--from-file", str(tmp_path / "none.json")],
        "each row of the file has its own": ["settle", "--from-file", "-", "--decision", "send"],
        "--state must be one of parked": ["list", "--state", "parkd"],
        "1 of these rejected rows may have been carried out": ["settle", "--state", "rejected", "--decision", "send", "--yes"],
        "--limit must be a whole number": ["list", "--limit", "all"],
        "got '99999999999999999999'": ["list", "--limit", "99999999999999999999"],
        "several with commas, got ' ,'": ["settle", "--state", " ,", "--decision", "send", "--yes"],
        "--older-than must be": ["list", "--older-than", "soon"],
        "there is no table elsewhere": ["status", "--ledger-table", "elsewhere"],
        "is no ledger of this version": ["status", "--ledger-table", "usage"],
    }
    ran = place.home.commands([["limitrail", "ledger", *words, "--conn-id", "lite"] for words in wrong.values()])
    for (said, words), (code, out, err) in zip(wrong.items(), ran, strict=True):
        assert (code, out) == (1, ""), words
        assert said in err, (words, err)
        assert "Traceback" not in err
    for conn_id, said in (("nowhere", "nowhere"), ("limitrail_default", "is not a SQL connection")):
        code, _, err = place.home.command("limitrail", "ledger", "status", "--conn-id", conn_id)
        assert (code, said in err) == (1, True)
    assert place.database.ledger() == before
    # The row is no longer what was looked at.
    code, out, _ = ledger(place, "settle", "--decision", "send", "--version", "0" * 16, key, "-o", "json")
    assert (code, json.loads(out)) == (2, [{"result": "stale", "rows": 1}])


def test_values_that_a_terminal_would_obey_are_shown_as_they_are(place_of):
    place = in_doubt(place_of, "lite")
    hostile = "[red]\x1b[2J[/nonsense] \u202e\r\n\0x"
    with place.database._open() as connection:
        connection.execute(f"UPDATE {LEDGER} SET row_key = ?, detail = ?, run_id = ? WHERE state = 'parked'", [hostile] * 3)
        connection.commit()
    for output in ("table", "plain", "json", "yaml"):
        # As the operator's parameter has it.
        code, out, err = ledger(place, "list", "--operation", "commit", "-o", output)
        assert code == 0, err
        if output in ("json", "yaml"):
            rows = yaml.safe_load(out)
            assert {(row["row_key"], row["run_id"], row["in_doubt"], row["attempts"]) for row in rows} == {
                (hostile, hostile, True, 1)
            }
        assert not {"\x1b[2J", "\r", "\0", "\u202e"} & {mark for mark in ("\x1b[2J", "\r", "\0", "\u202e") if mark in out}
    code, _, err = ledger(place, "settle", "--state", "parked", "--decision", "send", "--yes")
    assert (code, "\x1b" in err) == (0, False)


@pytest.mark.exhaustive
def test_the_command_line_of_a_real_airflow(place_of):
    """With the connection in Airflow's database, whose password nobody sees."""
    place = in_doubt(place_of, "pg")
    settings = {name: value for name, value in place.home._environment.items() if not name.startswith("AIRFLOW_CONN_PG")}

    def airflow(*words):
        command = [sys.executable, "-m", "airflow", *words]
        own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        return subprocess.run(command, env={**own, **settings}, capture_output=True, text=True, timeout=600, check=False)

    secret = {**place.database.connection, "password": "hunter-2-hunter"}
    added = airflow("connections", "add", "billing", "--conn-json", json.dumps(secret))
    assert added.returncode == 0, added.stderr
    shown = airflow("limitrail", "ledger", "status", "--conn-id", "billing", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    assert {row["state"] for row in json.loads(shown.stdout)} == {"committed", "parked"}
    failed = airflow("limitrail", "ledger", "status", "--conn-id", "billing", "--ledger-table", "nowhere")
    assert failed.returncode == 1
    assert "hunter" not in shown.stdout + shown.stderr + failed.stdout + failed.stderr
