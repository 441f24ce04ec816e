# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tasks that copy their parts into Postgres while pages come: what a retry finds, and what is left when they fail."""

from __future__ import annotations

import psycopg
import pytest

from limio_limitrail.emulator import Fault
from tests.support.pages import blocks

SIGKILL = -9
WAYS = 'sql_conn_id="pg", page_size=17, part_rows=34, retry_delay=NOW'


@pytest.fixture
def query(postgres_connection):
    def run(sql):
        login = {"host": postgres_connection["host"], "user": postgres_connection["login"]}
        with psycopg.connect(**login, dbname=postgres_connection["schema"]) as connection:
            return connection.execute(sql).fetchall()

    return run


@pytest.fixture
def pg_home(make_home, limio_emulator, postgres_connection):
    return make_home(limio_emulator, pg=postgres_connection)


def leftovers(query):
    """What the query in the docs finds."""
    [block] = blocks("docs/how-to/sql.md", section="When rows are copied", language="sql")
    return query(block.text)


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_a_killed_task_leaves_what_its_retry_uses(pg_home, limio_emulator, query):
    pg_home.write_dag(f'LimioToSqlOperator(task_id="load", resource="subscriptions", table="subs", mode="append", {WAYS})')
    expected = {row["id"] for row in limio_emulator.tenant.rows_of("subscriptions")}
    for number, step in enumerate([["before load", 1], ["after state", 4], ["after load", 1]], start=1):
        assert pg_home.attempt("load", run_id=f"run-{number}", kill=step).code == SIGKILL
        assert (step[0] != "before load") or leftovers(query), "everything but the last part is there"
        assert pg_home.attempt("load", run_id=f"run-{number}").task("load")["state"] == "success"
        [(rows, ids)] = query("SELECT count(*), count(DISTINCT id) FROM subs")
        assert (rows, ids) == (number * len(expected), len(expected))
        assert leftovers(query) == []


def test_a_failed_task_leaves_nothing(pg_home, limio_emulator, query):
    pages = "/api/objects/limio/"
    limio_emulator.faults.add(Fault("status", match=f"{pages}subscriptions", after=8, status=403, times=None))
    limio_emulator.faults.add(Fault("status", match=f"{pages}customers", after=8, status=500, times=2))
    pg_home.write_dag(
        f"""
        LimioToSqlOperator(task_id="forbidden", resource="subscriptions", table="forbidden", retries=2, {WAYS})
        LimioToSqlOperator(task_id="recovers", resource="customers", table="recovers", retries=2, {WAYS})
        LimioToSqlOperator(
            task_id="no_such_mask", resource="orders", table="no_such_mask", mask={{"no.such": "drop"}}, {WAYS}
        )
        LimioToSqlOperator(task_id="dry", resource="orders", table="dry", dry_run=True, {WAYS})
        LimioToSqlOperator(task_id="afterwards", resource="orders", table="afterwards", load="after_pull", {WAYS})
        LimioToSqlOperator(task_id="duck", resource="orders", table="t", load="while_pulling", sql_conn_id="duck")
        """
    )
    done = pg_home.run()
    states = {name: done.task(name)["state"] for name in ("forbidden", "recovers", "no_such_mask", "dry", "afterwards", "duck")}
    assert states == {
        "forbidden": "failed", "recovers": "success", "no_such_mask": "failed", "dry": "success", "afterwards": "success",
        "duck": "failed",
    }  # fmt: skip
    assert "load='while_pulling' is for Postgres" in pg_home.output()
    assert leftovers(query) == []
    assert {name for (name,) in query("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname !~ '^(pg|sql|_limio)_'")} == {
        "recovers", "afterwards",
    }  # fmt: skip
    [(rows,)] = query("SELECT count(*) FROM recovers")
    assert rows == len(list(limio_emulator.tenant.rows_of("customers")))
