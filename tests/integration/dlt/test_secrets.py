# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""dlt looks nothing up, tells nobody, and leaves no credential in any file, log or error."""

from __future__ import annotations

import json
import socket

import pytest

from tests.support.secrets_left import forms_of

PASSWORD = "pass-0f-the-warehouse"
SECRET_STEPS = ("after dlt extract", "before dlt copy", "before dlt statements", "after dlt load")

WATCH = """
import json, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        about = arguments[1] if event == "socket.connect" else arguments[0]
        with open({log!r}, "a") as file:
            file.write(json.dumps(str(about)) + chr(10))

sys.addaudithook(watch)
"""


def left(home):
    """The files of the home that hold the password, in any form."""
    found = []
    for path in home.path.rglob("*"):
        if path.is_file() and any(form in path.read_bytes() for form in forms_of(PASSWORD)):
            found.append(str(path.relative_to(home.path)))
    return found


@pytest.mark.exhaustive
@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_no_file_log_or_error_holds_the_password(dlt_home, limio_emulator, warehouse):
    dlt_home.connect({"away": {**warehouse.details, "host": "127.0.0.1", "port": 9, "password": PASSWORD}})
    dlt_home.write_dag(
        """
        for conn_id in ("pg", "away"):
            LimioToDltOperator(
                task_id=conn_id, resource="subscriptions", destination="postgres", destination_conn_id=conn_id,
                dataset="lake", table="subs",
            )
        """
    )
    for number, step in enumerate(SECRET_STEPS):
        dlt_home.attempt("pg", run_id=f"run-{number}", kill=[step, 1])
        working = [path for path in (dlt_home.path / "tmp").rglob("*") if path.name.startswith("dlt-")]
        assert working, step
        assert all(path.stat().st_mode & 0o077 == 0 for path in working)
        assert left(dlt_home) == [], step
        done = dlt_home.attempt("pg", run_id=f"run-{number}")
        assert done.task("pg")["state"] == "success", dlt_home.output()[-4000:]
    refused = dlt_home.attempt("away", run_id="refused")
    assert PASSWORD not in json.dumps(refused.result)
    assert "OperationalError" in refused.result["error"]
    assert left(dlt_home) == []
    stored = warehouse.query('SELECT * FROM lake."_dlt_version"') + warehouse.query('SELECT * FROM lake."_dlt_loads"')
    assert not any(form.decode() in repr(stored) for form in forms_of(PASSWORD))


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_nothing_is_looked_up_and_nobody_else_is_called(dlt_home, limio_emulator, warehouse, tmp_path):
    log = tmp_path / "sockets.log"
    other = tmp_path / "other.duckdb"
    dlt_home.write_dag(
        WATCH.format(log=str(log))
        + """
LimioToDltOperator(
    task_id="load", resource="subscriptions", destination="duckdb", destination_conn_id="duck", dataset="lake", table="subs",
)
"""
    )
    for name, value in {
        "RUNTIME__DLTHUB_TELEMETRY": "true",
        "RUNTIME__SLACK_INCOMING_HOOK": "https://slack.example/hook",
        "RUNTIME__SENTRY_DSN": "https://key@sentry.example/1",
        "DESTINATION__DUCKDB__CREDENTIALS": str(other),
        "DESTINATION__STAGING_DATASET_NAME_LAYOUT": "elsewhere",
        "SCHEMA__NAMING": "snake_case",
        "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "false",
        "DLT_DATA_DIR": str(tmp_path / "dlt_data"),
        "DLT_PROJECT_DIR": str(tmp_path / "dlt_project"),
    }.items():
        dlt_home.set(name, value)
    done = dlt_home.attempt("load")
    assert done.task("load")["state"] == "success", dlt_home.output()[-4000:]
    called = {json.loads(line) for line in log.read_text().splitlines()}
    assert called, "the API itself was called"
    assert [one for one in called if not ("127.0.0.1" in one or one in ("localhost", "::1", socket.gethostname()))] == []
    assert not other.exists()
    assert not (tmp_path / "dlt_data").exists()
    assert not (tmp_path / "dlt_project").exists()
    assert "elsewhere" not in {name for [name] in warehouse.query("SELECT schema_name FROM information_schema.schemata")}
    assert warehouse.count("lake.subs") == 200
