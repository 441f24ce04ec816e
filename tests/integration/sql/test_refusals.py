# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a database refuses is told with table, column and step, with what stands in the way, and without a value."""

from __future__ import annotations

import re
import sqlite3
import threading
import traceback
from pathlib import Path

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LandingError
from limio_limitrail.landing.sql.errors import Cause, DatabaseError

pytestmark = pytest.mark.every_driver


def told(error: BaseException) -> str:
    """Everything that a log could hold of an error."""
    chain, link = [], error
    while link is not None:
        chain.append(repr(link))
        link = link.__cause__ or link.__context__
    return "".join([*chain, *traceback.format_exception(error)])


INT, T = Kind.INTEGER, Kind.TEXT
CANARY = "canary-7f3a"
RETRY = "Nothing was written; a retry goes on from the finished parts"


def refused(load) -> DatabaseError:
    with pytest.raises(DatabaseError) as error:
        load()
    assert CANARY not in told(error.value)
    assert RETRY in str(error.value) or error.value.cause is Cause.UNCERTAIN
    return error.value


FUNCTION = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$; "
IN_THE_WAY = {
    "a view": ("CREATE VIEW watch AS SELECT id, seats FROM subs", {"psycopg3": "view watch", "psycopg2": "view watch",
               "sqlite": "view watch", "standard": ""}),
    "a view of a view": ("CREATE VIEW watch AS SELECT seats FROM subs; CREATE VIEW above AS SELECT seats FROM watch",
                         {"psycopg3": "view watch", "sqlite": "above|watch"}),
    "a materialized view": ("CREATE MATERIALIZED VIEW watch AS SELECT seats FROM subs", {"psycopg3": "materialized view watch"}),
    "an index": ("CREATE INDEX watch ON subs(seats)", {"duckdb": "index watch", "duckdb files": "index watch",
                 "sqlite": "index watch"}),
    "an index on another column": ("CREATE INDEX watch ON subs(id)", {"duckdb": "index watch"}),
    "a generated column": ("ALTER TABLE subs ADD COLUMN watch bigint GENERATED ALWAYS AS (seats + 1) STORED",
                           {"psycopg3": "watch"}),
    "a policy": ("CREATE POLICY watch ON subs USING (seats > 0)", {"psycopg3": "policy watch"}),
    "a trigger of a column": (
        f"{FUNCTION}CREATE TRIGGER watch BEFORE UPDATE OF seats ON subs FOR EACH ROW EXECUTE FUNCTION f()",
        {"psycopg3": "trigger watch"},
    ),
    "a trigger": ("CREATE TRIGGER watch AFTER INSERT ON subs BEGIN SELECT new.seats; END", {"sqlite": "trigger watch"}),
    "a rule": ("CREATE RULE watch AS ON UPDATE TO subs WHERE new.seats > 5 DO INSTEAD NOTHING",
               {"psycopg3": "rule watch|table subs"}),
    "a check": ("ALTER TABLE subs ADD CONSTRAINT watch CHECK (seats > 0)", {"psycopg3": "constraint watch"}),
}  # fmt: skip


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("name", "statements", "named"),
    [
        pytest.param(name, statements, named, id=f"{what}, {name}")
        for what, (statements, by_name) in IN_THE_WAY.items()
        for name, named in by_name.items()
    ],
)
def test_what_stands_in_the_way_of_a_wider_column(opened, name, statements, named):
    db = opened(name)
    db.land("merge", {"id": (T, ["a"]), "seats": (INT, [1])})
    db.execute(*([statements] if "$$" in statements or "BEGIN" in statements else statements.split("; ")))
    before, types = db.rows(own=True), db.types()
    error = refused(lambda: db.land("merge", {"id": (T, ["a"]), "seats": (T, [CANARY])}, run="2"))
    assert error.cause is Cause.OBSTACLE
    assert "while widening subs.seats to " in str(error)
    assert re.search(named, str(error))
    assert "run the task again, and create it again" in str(error)
    assert (db.rows(own=True), db.types()) == (before, types)


def test_a_duckdb_view_stays_usable_and_in_nobodys_way(duck):
    duck.land("merge", {"id": (T, ["a"]), "seats": (INT, [1])})
    duck.execute("CREATE VIEW watch AS SELECT seats FROM subs")
    assert duck.land("merge", {"id": (T, ["a"]), "seats": (T, ["many"])}, run="2").columns_widened == ("seats",)
    assert duck.query("SELECT seats FROM watch") == [("many",)]


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("psycopg3", "id TEXT, v TEXT CONSTRAINT once UNIQUE", "once"),
        ("psycopg2", "id TEXT, v TEXT CONSTRAINT once UNIQUE", "once"),
        ("duckdb", "id TEXT, v TEXT UNIQUE", "unique constraint on 'v'"),
        ("sqlite", "id TEXT, v TEXT UNIQUE", "subs.v"),
        ("psycopg3", "id TEXT, v TEXT CONSTRAINT short CHECK (length(v) < 3)", "short"),
    ],
)
def test_the_tables_other_constraints(opened, name, table, said):
    db = opened(name)
    db.execute(f"CREATE TABLE subs ({table})")
    if "UNIQUE" in table:
        db.execute(f"INSERT INTO subs VALUES ('z', '{CANARY}')")
    error = refused(lambda: db.land("merge", {"id": (T, ["a", "b"]), "v": (T, [CANARY, "w"])}))
    assert said in str(error)
    assert "while merging into subs" in str(error)


def test_a_sqlite_trigger_says_what_it_likes(lite):
    lite.execute("CREATE TABLE subs (id TEXT, v TEXT)")
    lite.execute(f"CREATE TRIGGER watch BEFORE INSERT ON subs BEGIN SELECT RAISE(ABORT, '{CANARY}'); END")
    assert "SQLITE_CONSTRAINT_TRIGGER" in str(refused(lambda: lite.land("append", {"id": (T, ["a"]), "v": (T, [CANARY])})))


def end_other_sessions(db) -> None:
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )


@pytest.mark.parametrize("there", [False, True])
def test_the_connection_ends_while_rows_are_copied(postgres, there):
    if there:
        postgres.execute("CREATE TABLE subs (id bigint)")
    parts = [{"id": (INT, list(range(at, at + 1000)))} for at in (0, 1000)]
    error = refused(lambda: postgres.land("merge", *parts, progress=lambda _: end_other_sessions(postgres)))
    assert error.cause is Cause.LOST
    assert "the connection to Postgres ended" in str(error)
    assert f"while copying rows into {'the staging table of ' if there else ''}subs" in str(error)
    assert postgres.land("merge", *parts).inserted == 2000


def test_the_connection_ends_while_rows_are_written(postgres):
    postgres.execute(
        "CREATE TABLE subs (id bigint)",
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NEW; END $$",
        "CREATE TRIGGER die BEFORE INSERT ON subs FOR EACH ROW EXECUTE FUNCTION die()",
    )
    error = refused(lambda: postgres.land("append", {"id": (INT, [1])}))
    assert (error.cause, error.step) == (Cause.LOST, "while appending to subs")


def test_the_connection_ends_while_it_commits(postgres):
    """A deferred trigger runs in the commit: whether the rows are there, only a look can tell."""
    postgres.execute(
        "CREATE TABLE subs (id bigint)",
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON subs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()",
    )
    error = refused(lambda: postgres.land("merge", {"id": (INT, [1])}))
    assert error.cause is Cause.UNCERTAIN
    assert "while committing" in str(error)
    assert "A retry is safe" in str(error)
    assert "Nothing was written" not in str(error)


@pytest.mark.parametrize(
    ("fields", "cause", "said"),
    [
        ({"host": "127.0.0.1", "port": 1}, Cause.UNREACHABLE, "no server listens there"),
        ({"host": "/nonexistent"}, Cause.UNREACHABLE, "no server listens there"),
        ({"host": "no.such.host.invalid"}, Cause.UNREACHABLE, "the host's name is not known"),
        ({"schema": "nodb"}, Cause.NO_DATABASE, "no such database"),
        ({"login": "nobody", "password": CANARY}, Cause.CREDENTIALS, "refused the login"),
    ],
)
def test_a_postgres_that_does_not_let_in(postgres, fields, cause, said):
    postgres.connection.update(fields)
    error = refused(lambda: postgres.land("merge", {"id": (INT, [1])}))
    assert error.cause is cause
    assert said in str(error)
    assert "could not be opened (OperationalError) while loading subs" in str(error)


@pytest.mark.parametrize(
    ("options", "cause", "step"),
    [
        ("statement_timeout=20", Cause.TIMEOUT, "while locking subs"),
        ("lock_timeout=20", Cause.TIMEOUT, "while locking subs"),
        ("default_transaction_read_only=on", Cause.READ_ONLY, None),
    ],
)
def test_the_servers_limits(postgres, options, cause, step):
    postgres.execute("CREATE TABLE subs (id bigint)")
    holder = postgres.hook().get_conn()
    if step is not None:
        holder.cursor().execute("LOCK TABLE subs")
    error = refused(
        lambda: postgres.land("merge", {"id": (INT, [1]), "v": (INT, [1])}, hook=postgres.hook(options=f"-c {options}"))
    )
    assert error.cause is cause
    assert error.step.startswith(step or "while ")
    holder.close()


def test_a_quota_on_the_servers_disk(postgres):
    postgres.execute("CREATE TABLE subs (id bigint, v text)")
    hook = postgres.hook(options="-c temp_file_limit=0 -c work_mem=64kB")
    columns = {"id": (INT, list(range(40_000))), "v": (T, ["x" * 100] * 40_000)}
    error = refused(lambda: postgres.land("append", columns, hook=hook))
    assert (error.cause, "while checking the staged rows of subs") == (Cause.FULL, error.step)
    assert "temp_file_limit" in str(error)


def test_rights_that_are_missing(postgres):
    postgres.execute(
        "CREATE TABLE subs (id bigint)", "CREATE ROLE peon LOGIN", "REVOKE CREATE ON SCHEMA public FROM public",
        "GRANT USAGE ON SCHEMA public TO peon",
    )  # fmt: skip
    postgres.connection["login"] = "peon"
    try:
        with pytest.raises(LandingError, match="may not create one in the schema 'public'; grant CREATE"):
            postgres.land("merge", {"id": (INT, [1])}, table="fresh")
        assert refused(lambda: postgres.land("merge", {"id": (INT, [1])})).cause is Cause.RIGHTS
        postgres.connection["login"] = "postgres"
        postgres.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON subs TO peon")
        postgres.connection["login"] = "peon"
        error = refused(lambda: postgres.land("merge", {"id": (INT, [1]), "new": (INT, [1])}))
        assert error.step == "while adding subs._extracted_at" or error.step == "while adding subs.new"
        assert "must be owner of table subs" in str(error)
        assert "only the table's owner can add and widen columns" in str(error)
    finally:
        postgres.connection["login"] = "postgres"
        postgres.execute("DROP OWNED BY peon", "DROP ROLE peon")


def test_a_sqlite_file_that_cannot_be_used(lite, tmp_path):
    columns = {"id": (INT, [1])}
    lite.connection["host"] = str(tmp_path / "none" / "warehouse.sqlite")
    error = refused(lambda: lite.land("merge", columns))
    assert (error.cause, "unable to open database file" in str(error)) == (Cause.NO_FILE, True)
    lite.connection["host"] = str(tmp_path / "text.sqlite")
    Path(lite.connection["host"]).write_bytes(b"no database at all" * 1000)
    assert "file is not a database" in str(refused(lambda: lite.land("merge", columns)))


def test_a_sqlite_disk_that_is_full(lite):
    """SQLite counts pages of a file and of its temporary tables apart, and says the same of either."""
    lite.land("merge", {"id": (INT, [1])})
    hook = lite.hook()
    connect = hook.get_conn

    def get_conn():
        connection = connect()
        connection.execute("PRAGMA max_page_count = 3")
        return connection

    hook.get_conn = get_conn
    error = refused(lambda: lite.land("merge", {"id": (INT, [2]), "v": (T, ["x" * 100_000])}, run="2", hook=hook))
    assert (error.cause, "SQLITE_FULL" in str(error)) == (Cause.FULL, True)
    assert lite.rows() == [{"id": 1}]


def test_a_sqlite_file_that_is_held(lite, monkeypatch):
    monkeypatch.setattr("limio_limitrail.landing.sql.sqlite.LOCK_WAIT", 0)
    lite.land("merge", {"id": (INT, [1])})
    writer = sqlite3.connect(lite.connection["host"], isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert refused(lambda: lite.land("merge", {"id": (INT, [2])})).cause is Cause.TIMEOUT
    writer.close()


@pytest.mark.other_processes
def test_a_duckdb_that_has_no_room(duck):
    """DuckDB goes on from disk where its memory ends, up to a limit."""
    hook = duck.hook(settings={"memory_limit": "10MB", "threads": 1, "max_temp_directory_size": "0KB"})
    columns = {"id": (INT, list(range(200_000))), "v": (T, [f"{CANARY} {at}" * 5 for at in range(200_000)])}
    duck.land("merge", {"id": (INT, [-1])})
    error = refused(lambda: duck.land("merge", columns, run="2", hook=hook))
    assert error.cause in (Cause.FULL, Cause.MEMORY)
    assert duck.rows() == [{"id": -1}]


def test_a_duckdb_file_in_a_folder_that_is_not_there(duck, tmp_path):
    duck.connection["host"] = str(tmp_path / "none" / "warehouse.duckdb")
    with pytest.raises(LandingError, match=r"DuckDB cannot open .*No such file"):
        duck.land("merge", {"id": (INT, [1])})


def test_threads_that_are_refused_do_not_keep_the_lock(duck):
    duck.land("merge", {"id": (T, ["a"]), "seats": (INT, [1])})
    duck.execute("CREATE INDEX watch ON subs(seats)")
    for _ in range(2):
        refused(lambda: duck.land("merge", {"id": (T, ["a"]), "seats": (T, ["x"])}, run="2"))
    duck.execute("DROP INDEX watch")
    done = threading.Thread(target=duck.land, args=("merge", {"id": (T, ["a"]), "seats": (T, ["x"])}), kwargs={"run": "2"})
    done.start()
    done.join(600)
    assert duck.rows() == [{"id": "a", "seats": "x"}]
