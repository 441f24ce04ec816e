# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What fails at once, what is tried again, and what neither of them tells anybody."""

from __future__ import annotations

import json

import pytest

from limio_limitrail.emulator import Fault
from tests.support.secrets_left import files_below, holders

TASKS = """
ways = dict(sql_conn_id="duck", page_size=50, retries=2, retry_delay=timedelta(0))
LimioToSqlOperator(task_id="good", resource="subscriptions", table="good", **ways)
LimioToSqlOperator(task_id="forbidden", resource="customers", table="t", **ways)
LimioToSqlOperator(task_id="refused", resource="orders", table="t", **ways)
LimioToSqlOperator(task_id="wrong_secret", resource="subscriptions", table="t", limio_conn_id="wrong_secret", **ways)
LimioToSqlOperator(task_id="wrong_field", resource="subscriptions", table="t", limio_conn_id="wrong_field", **ways)
LimioToSqlOperator(task_id="no_such_resource", resource="subscription", table="t", **ways)
LimioToSqlOperator(task_id="wrong_mode", resource="subscriptions", table="t", mode="upsert", **ways)
LimioToSqlOperator(task_id="unfiltered", resource="subscriptions", table="t", since="2026-01-01", **ways)
LimioToObjectStorageOperator(task_id="wrong_format", resource="orders", destination="file:///nowhere", format="csv", retries=2)
LimioToSqlOperator(task_id="broken", resource="events", table="t", **ways)
LimioToSqlOperator(task_id="bad_json", resource="identities", table="t", **{**ways, "retries": 0})
def fail(frame):
    raise ValueError(frame.iloc[0].to_json())
LimioToSqlOperator(task_id="transform", resource="schedules", table="t", transform=fail, **{**ways, "retries": 0})
LimioToSqlOperator(task_id="recovers", resource="address", table="recovers", **ways)
"""

AT_ONCE = [
    "forbidden", "refused", "wrong_secret", "wrong_field", "no_such_resource", "wrong_mode", "unfiltered", "wrong_format",
]  # fmt: skip


@pytest.fixture
def broken_home(make_home, limio_emulator, tmp_path):
    def list_of(kind):
        return f"/api/objects/limio/{kind}"

    limio_emulator.configure(client_secret="s3cret/with+odd=chars&long")
    for fault in (
        Fault(kind="status", match=list_of("customers"), status=403, times=None),
        Fault(kind="status", match=list_of("orders"), status=401, times=None),
        Fault(kind="status", match=list_of("events"), status=500, times=None, body={"secret": "body-of-the-error"}),
        Fault(kind="bad_json", match=list_of("identities"), times=None),
        Fault(kind="status", match=list_of("address"), status=500, times=1),
    ):
        limio_emulator.faults.add(fault)
    host = {"conn_type": "limio", "host": limio_emulator.url, "login": limio_emulator.client_id}
    home = make_home(
        limio_emulator,
        wrong_secret={**host, "password": "not-the-secret-at-all"},
        wrong_field={**host, "password": "never-used-secret", "extra": {"timeout": "soon"}},
    )
    home.write_dag(TASKS)
    return home


def test_failures_end_as_they_should_and_nothing_secret_is_left(broken_home, limio_emulator, tmp_path):
    done = broken_home.run()
    assert done.result["state"] == "failed"
    for name in AT_ONCE:
        task = done.task(name)
        assert (name, task["state"], task["tries"]) == (name, "failed", 1)
    paths = [(entry["path"].rpartition("/")[2], entry["status"]) for entry in limio_emulator.counters.log]
    assert paths.count(("customers", 403)) == 1
    assert paths.count(("orders", 401)) == 2, "one with the first token, one with a fresh one"
    assert done.task("broken")["tries"] == 3
    assert paths.count(("events", 500)) == 3
    assert (done.task("recovers")["state"], done.task("recovers")["tries"]) == ("success", 2)
    assert done.task("good")["state"] == "success"
    output = broken_home.output()
    assert "transform raised ValueError at dag_file.py, line" in output
    assert "body-of-the-error" not in output
    names = [record["id"] for record in limio_emulator.tenant.rows_of("schedules")]
    assert not any(f'"id":"{name}"' in output for name in names)

    secrets = {limio_emulator.client_secret, "not-the-secret-at-all", "never-used-secret", *limio_emulator.minted_tokens}
    assert len(secrets) > 8
    searched = files_below(tmp_path)
    assert {"output.log", "airflow.db", "warehouse.duckdb"} <= {path.rpartition("/")[2] for path in searched}
    assert holders(searched, secrets) == set()


def test_a_rate_limit_beyond_the_budget_is_left_to_airflow(make_home, limio_emulator):
    limio_emulator.faults.add(Fault(kind="status", match="/api/objects", status=429, headers={"retry-after": "100000"}))
    home = make_home(limio_emulator)
    home.write_dag(
        'LimioToSqlOperator(task_id="load", resource="customers", sql_conn_id="duck", table="t", retries=1, retry_delay=NOW)'
    )
    done = home.run().task("load")
    assert (done["state"], done["tries"]) == ("success", 2)


def test_what_a_task_waited_for_is_counted_and_its_log_is_in_groups(home, limio_emulator):
    limio_emulator.faults.add(Fault(kind="status", match="/api/objects", status=429, headers={"retry-after": "1"}))
    home.write_dag('LimioToSqlOperator(task_id="load", resource="customers", sql_conn_id="duck", table="t")')
    done = home.run().task("load")
    assert done["state"] == "success"
    assert done["xcom"]["retries"] == 1
    assert 1.0 <= done["xcom"]["waited"] < done["xcom"]["seconds"]
    said = [line for line in home.output().splitlines() if "limio_limitrail" in line]
    begun = [line.split("::group::")[1].split("  ")[0] for line in said if "::group::" in line]
    assert begun == ["Pull customers", "Load into t"]
    assert sum("::endgroup::" in line for line in said) == 2
    assert "rows came in" in said[-1]


def test_a_refused_token_endpoint_ends_the_task(make_home, limio_emulator):
    limio_emulator.faults.add(
        Fault(kind="status", match="/oauth2/token", status=400, body={"error": "invalid_client"}, times=None)
    )
    home = make_home(limio_emulator)
    home.write_dag(
        'LimioToSqlOperator(task_id="load", resource="customers", sql_conn_id="duck", table="t", retries=3, retry_delay=NOW)'
    )
    done = home.run().task("load")
    assert (done["state"], done["tries"]) == ("failed", 1)
    assert limio_emulator.counters.requests == 1
    assert json.dumps(done["xcom"]) == "null"
