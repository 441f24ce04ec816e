# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tasks that copy their parts into the database while pages come: what a retry finds, and what is left when they fail."""

from __future__ import annotations

import duckdb
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
    [block] = blocks("docs/how-to/sql.md", section="Into Postgres", language="sql")
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


CREATED = """
CREATE TABLE created (what text);
GRANT ALL ON created TO PUBLIC;
CREATE FUNCTION note_created() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO created SELECT object_identity FROM pg_event_trigger_ddl_commands() WHERE schema_name = 'public';
END $$;
CREATE EVENT TRIGGER note_created ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION note_created();
"""


@pytest.fixture
def created(postgres_connection):
    """The tables that were created since the test began, other than in a transaction that was rolled back."""
    login = {"host": postgres_connection["host"], "user": postgres_connection["login"]}
    with psycopg.connect(**login, dbname=postgres_connection["schema"], autocommit=True) as connection:
        connection.execute(CREATED)
        yield lambda: [name for (name,) in connection.execute("SELECT what FROM created").fetchall()]
        connection.execute("DROP EVENT TRIGGER note_created")


@pytest.mark.exhaustive
def test_which_tasks_stage_rows_while_pages_come(pg_home, created):
    pg_home.write_dag(
        """
        from limio_limitrail.transfers import ChildTable
        more = dict(resource="subscriptions", sql_conn_id="pg", page_size=17, part_rows=34, retry_delay=NOW)
        LimioToSqlOperator(task_id="new", table="new", **more)
        LimioToSqlOperator(task_id="again", table="again", time_column="id", **more)
        LimioToSqlOperator(task_id="dry", table="dry", dry_run=True, **more)
        LimioToSqlOperator(task_id="afterwards", table="afterwards", load="after_pull", **more)
        LimioToSqlOperator(task_id="history", table="history", mode="history", **more)
        LimioToSqlOperator(task_id="children", table="parents", child_tables={"children": ChildTable("data.items")}, **more)
        """
    )
    found = {}
    for number, task in enumerate(["new", "again", "again", "dry", "afterwards", "history", "children"]):
        before = len(created())
        done = pg_home.attempt(task, run_id=f"run-{number}")
        assert done.result["error"] is None, (task, done.result["error"])
        names = {name.removeprefix("public.").partition("staging_")[0] for name in created()[before:]}
        found[task] = sorted(names & {"_limio_", "new", "again", "dry", "afterwards", "history", "children", "parents"})
    assert found == {
        # The staging table becomes the new one.
        "new": ["_limio_"],
        "again": ["_limio_"],
        "dry": [],
        "afterwards": ["afterwards"],
        "history": ["history"],
        "children": ["children", "parents"],
    }
    assert "are not used" not in pg_home.output()


def test_a_failed_task_leaves_nothing(pg_home, limio_emulator, query):
    pages = "/api/objects/limio/"
    # So that parts are staged before the task fails.
    limio_emulator.faults.add(Fault("latency", match=pages, seconds=0.05, times=None))
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
        LimioToSqlOperator(task_id="lite", resource="orders", table="t", load="while_pulling", sql_conn_id="lite")
        """
    )
    done = pg_home.run()
    states = {name: done.task(name)["state"] for name in ("forbidden", "recovers", "no_such_mask", "dry", "afterwards", "lite")}
    assert states == {
        "forbidden": "failed", "recovers": "success", "no_such_mask": "failed", "dry": "success", "afterwards": "success",
        "lite": "failed",
    }  # fmt: skip
    assert "load='while_pulling' is for Postgres" in pg_home.output()
    assert leftovers(query) == []
    assert {name for (name,) in query("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname !~ '^(pg|sql|_limio)_'")} == {
        "recovers", "afterwards",
    }  # fmt: skip
    [(rows,)] = query("SELECT count(*) FROM recovers")
    assert rows == len(list(limio_emulator.tenant.rows_of("customers")))


HELD = 'sql_conn_id="duck", load="while_pulling", page_size=17, part_rows=34, retry_delay=NOW'


@pytest.fixture
def ask(tmp_path):
    """Asks the DuckDB file, which no task may have open any more."""

    def run(sql):
        with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as connection:
            return connection.execute(sql).fetchall()

    return run


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
@pytest.mark.parametrize("mode", ["merge", "append"])
def test_a_killed_task_leaves_its_file_as_it_was(home, limio_emulator, ask, mode):
    home.write_dag(f'LimioToSqlOperator(task_id="load", resource="subscriptions", table="subs", mode="{mode}", {HELD})')
    expected = len({row["id"] for row in limio_emulator.tenant.rows_of("subscriptions")})
    for number, step in enumerate([["after state", 4], ["after load", 1], ["before load", 1], ["after state", 2]], start=1):
        assert home.attempt("load", run_id=f"run-{number}", kill=step).code == SIGKILL
        runs = number if step[0] == "after load" else number - 1
        left = dict(ask("SELECT table_name, estimated_size FROM duckdb_tables() WHERE NOT starts_with(table_name, '_limio_w')"))
        assert left.pop("subs", 0) == (min(runs, 1) if mode == "merge" else runs) * expected
        assert not left, "what was staged was not committed"
        assert home.attempt("load", run_id=f"run-{number}").task("load")["state"] == "success"
        [(rows, ids)] = ask("SELECT count(*), count(DISTINCT id) FROM subs")
        assert (rows, ids) == ((number if mode == "append" else 1) * expected, expected)
        assert ask("SELECT table_name FROM duckdb_tables() WHERE table_name ^@ '_limio_staging'") == []


def test_a_held_file(home, limio_emulator, ask):
    pages = "/api/objects/limio/"
    limio_emulator.faults.add(Fault("status", match=f"{pages}customers", after=8, status=403, times=None))
    limio_emulator.faults.add(Fault("status", match=f"{pages}orders", after=8, status=500, times=2))
    home.write_dag(
        f"""
        again = LimioToSqlOperator(task_id="again", resource="subscriptions", table="subs", {HELD})
        LimioToSqlOperator(task_id="first", resource="subscriptions", table="subs", {HELD}) >> again
        again >> LimioToSqlOperator(task_id="forbidden", resource="customers", table="forbidden", {HELD})
        again >> LimioToSqlOperator(task_id="recovers", resource="orders", table="recovers", retries=2, {HELD})
        """
    )
    done = home.run()
    states = {name: done.task(name)["state"] for name in ("first", "again", "forbidden", "recovers")}
    assert states == {"first": "success", "again": "success", "forbidden": "failed", "recovers": "success"}
    assert "Traceback" not in "".join(line for line in home.output().splitlines() if "staging" in line)
    tables = {name for (name,) in ask("SELECT table_name FROM duckdb_tables()")}
    assert {name for name in tables if not name.startswith("_limio_whole")} == {"subs", "recovers"}
    for table, resource in (("subs", "subscriptions"), ("recovers", "orders")):
        [(rows,)] = ask(f"SELECT count(*) FROM {table}")
        assert rows == len(list(limio_emulator.tenant.rows_of(resource)))
