# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What fails leaves the table as it was, and gives no row away."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import duckdb
import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LandingError, LoadResult, duckdb_connect, duckdb_slices
from limio_limitrail.landing.sql import duckdb as duck_module

pytestmark = [pytest.mark.every_driver, pytest.mark.other_processes]

INT, T, D, B, J = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.BOOLEAN, Kind.JSON
CANARY = "canary-7f3a"


def told(error: BaseException) -> str:
    """Everything that a log could hold of an error."""
    chain, link = [], error
    while link is not None:
        chain.append(repr(link))
        link = link.__cause__ or link.__context__
    return "".join([*chain, *traceback.format_exception(error)])


class BrokenError(Exception):
    pass


def after(rows: int):
    def progress(staged: int) -> None:
        if staged >= rows:
            raise BrokenError

    return progress


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_a_part_that_cannot_be_read_undoes_everything(db, mode):
    db.land("merge", {"id": (INT, [1]), "v": (INT, [1])})
    before, types = db.rows(own=True), db.types()
    with pytest.raises(BrokenError):
        db.land(mode, {"id": (T, ["1"]), "new": (T, ["x"])}, {"id": (T, ["2"])}, run="2", progress=after(2))
    assert (db.rows(own=True), db.types()) == (before, types)
    db.land("replace", {"id": (INT, [5])}, run="3")
    assert [row["id"] for row in db.rows()] == [5]


def test_a_refusal_at_the_very_end_undoes_the_new_columns_too(db):
    """The table's own rule meets the rows only when they are written, after its columns have changed."""
    db.execute("CREATE TABLE subs (id BIGINT, v TEXT NOT NULL)", "INSERT INTO subs VALUES (1, 'a')")
    types = db.types()
    for mode in ("merge", "append", "replace"):
        with pytest.raises(LandingError) as refused:
            db.land(mode, {"id": (INT, [1, 2]), "v": (T, ["b", None]), CANARY: (T, [CANARY, CANARY])}, run="2")
        assert CANARY not in told(refused.value)
        assert "v" in str(refused.value) or db.name == "standard"
    assert (db.rows(), db.types()) == ([{"id": 1, "v": "a"}], types)


LENIENT = {
    "duckdb": ["VARCHAR(4)"],
    # An INTEGER column is SQLite's own, and is widened; a key may be null.
    "sqlite": ["VARCHAR(4)", "v INTEGER", "w TEXT PRIMARY KEY"],
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("id BIGINT, v UUID", T),
        ("id BIGINT, v DATE", T),
        ("id BIGINT, v INTEGER", T),
        ("id BIGINT, v VARCHAR(4)", T),
        ("id BIGINT, v TEXT CHECK (length(v) < 5)", T),
        ("id BIGINT, v TEXT UNIQUE", T),
        ("id BIGINT, v TEXT NOT NULL, w TEXT PRIMARY KEY", T),
    ],
)
def test_no_refusal_quotes_a_row(db, caplog, table, kind):
    caplog.set_level(logging.DEBUG)
    db.execute(f"CREATE TABLE subs ({table})")
    db.land("replace", {"id": (INT, [7]), **({"w": (T, ["w"]), "v": (T, ["v"])} if "w" in table.split() else {})})
    before = db.rows(own=True)
    columns = {"id": (INT, [1, 2]), "v": (kind, [CANARY, CANARY])}
    if any(hint in table for hint in LENIENT.get(db.name, ())):
        assert db.land("merge", columns, run="2").inserted == 2
        return
    with pytest.raises(LandingError) as refused:
        db.land("merge", columns, run="2")
    assert CANARY not in told(refused.value)
    assert CANARY not in caplog.text
    assert db.rows(own=True) == before


def test_logs_hold_no_values(db, caplog):
    caplog.set_level(logging.DEBUG)
    for run in ("1", "2"):
        db.land("merge", {"id": (T, [CANARY, CANARY]), "v": (T, [CANARY, None])}, run=run)
    db.land("merge", {"id": (T, ["b"]), "v": (J, [f'["{CANARY}"]'])}, run="3")
    assert "2 rows came" in caplog.text
    assert CANARY not in caplog.text


def test_a_readers_view_stays_whole_until_the_end(postgres):
    postgres.land("replace", {"id": (INT, [1, 2])})
    seen = []

    def look(_):
        seen.append(postgres.query("SELECT count(*) FROM subs"))

    postgres.land("replace", {"id": (INT, [3])}, {"id": (INT, [4])}, {"id": (INT, [5])}, run="2", progress=look)
    assert seen == [[(2,)]] * 3
    assert [row["id"] for row in postgres.rows()] == [3, 4, 5]


def test_a_connection_set_to_commit_by_itself_is_still_one_transaction(postgres):
    if postgres.name == "psycopg2":
        return
    with pytest.raises(BrokenError):
        postgres.land("merge", {"id": (INT, [1])}, hook=postgres.hook(autocommit=True), progress=after(1))
    assert not postgres.exists()


def in_child(target, *arguments):
    child = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    child.start()
    return child


def die_at(point: str, db) -> None:
    """Load a second pull and be killed on the way."""

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    from limio_limitrail.landing.sql.table_load import TableLoad

    if point == "staged":
        db.land("merge", *SECOND, run="2", progress=lambda rows: kill() if rows >= 1500 else None)
    else:
        original = getattr(TableLoad, point)

        def then_die(*args, **arguments):
            original(*args, **arguments)
            kill()

        setattr(TableLoad, point, then_die)
        db.land("merge", *SECOND, run="2")


FIRST = {"id": (INT, list(range(1000))), "v": (INT, [1] * 1000)}
SECOND = [
    {"id": (INT, list(range(500, 1500))), "v": (T, ["x"] * 1000)},
    {"id": (INT, list(range(1500, 2000))), "w": (T, ["y"] * 500)},
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("point", ["staged", "_evolve", "_apply"])
def test_a_killed_load_leaves_the_table_as_it_was(db, point, monkeypatch):
    monkeypatch.setattr(duckdb_slices, "SLICE_SIZE", 10_000)
    monkeypatch.setattr(duckdb_slices, "UPDATE_SIZE", 10_000)
    db.land("merge", FIRST)
    before, types = db.rows(own=True), db.types()
    child = in_child(die_at, point, db)
    child.join(600)
    assert child.exitcode == -signal.SIGKILL
    assert (db.rows(own=True), db.types()) == (before, types)
    result = db.land("merge", *SECOND, run="2")
    assert result == LoadResult(rows=1500, inserted=1000, updated=500, columns_added=("w",), columns_widened=("v",))
    rows = {row["id"]: (row["v"], row.get("w")) for row in db.rows()}
    assert len(rows) == 2000
    assert rows == {
        **dict.fromkeys(range(500), ("1", None)),
        **dict.fromkeys(range(500, 1500), ("x", None)),
        **dict.fromkeys(range(1500, 2000), (None, "y")),
    }


def land_many(db, gate, failures, worker: int) -> None:
    try:
        gate.wait(300)
        for turn in range(5):
            db.land(
                "merge",
                {
                    "id": (INT, list(range(turn * 100, turn * 100 + 300))),
                    "by": (T, [f"{worker}"] * 300),
                    f"w{worker}": (INT, [turn] * 300),
                },
                run=f"{worker}-{turn}",
            )
    except BaseException as error:
        failures.put(repr(error))
        raise


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["psycopg3", "psycopg2", "duckdb", "sqlite"])
def test_two_processes_merge_into_one_table(opened, name):
    """Neither has made the table yet, so they race for that as well."""
    db = opened(name)
    context = multiprocessing.get_context("fork")
    gate, failures = context.Barrier(2), context.Queue()
    children = [in_child(land_many, db, gate, failures, worker) for worker in range(2)]
    for child in children:
        child.join(600)
    assert [child.exitcode for child in children] == [0, 0], failures.get(timeout=5)
    assert sorted(row["id"] for row in db.rows()) == list(range(700))


@pytest.mark.parametrize("name", ["psycopg3", "psycopg2", "duckdb", "sqlite"])
def test_two_threads_merge_into_one_table(opened, name):
    db = opened(name)
    failures: list[BaseException] = []
    gate = threading.Barrier(2)

    def work(worker: int) -> None:
        try:
            gate.wait(300)
            for turn in range(4):
                db.land("merge", {"id": (INT, list(range(200))), "by": (T, [f"{worker} {turn}"] * 200)}, run=f"{worker}")
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert failures == []
    assert sorted(row["id"] for row in db.rows()) == list(range(200))


def test_other_writers_wait_for_a_load(postgres):
    """A write from elsewhere that came between staging and writing would make the load's count of keys wrong."""
    postgres.land("merge", {"id": (INT, [1])})
    blocked = []

    def write(_):
        with contextlib.closing(postgres.hook().get_conn()) as connection:
            cursor = connection.cursor()
            cursor.execute("SET lock_timeout = '200ms'")
            try:
                cursor.execute("INSERT INTO subs (id) VALUES (2)")
            except Exception as error:  # noqa: BLE001
                blocked.append(type(error).__name__)

    postgres.land("merge", {"id": (INT, [2])}, run="2", progress=write)
    assert blocked == ["LockNotAvailable"]


HOLD = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another_process(file: str):
    with subprocess.Popen([sys.executable, "-c", HOLD, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        yield holder
        if holder.poll() is None and holder.stdin is not None and not holder.stdin.closed:
            holder.stdin.close()


def test_duckdb_waits_for_its_file(duck, caplog):
    caplog.set_level(logging.INFO)
    file = duck.connection["host"]
    with held_by_another_process(file) as holder:
        timer = threading.Timer(1.0, holder.stdin.close)
        timer.start()
        assert duck.land("merge", {"id": (INT, [1])}).inserted == 1
    assert f"Another process has the DuckDB file {file} open; waiting up to 300 seconds" in caplog.text


def test_duckdb_gives_up_in_the_end(duck, monkeypatch):
    monkeypatch.setattr(duck_module, "OPEN_WAIT", 0.5)
    file = duck.connection["host"]
    with held_by_another_process(file), pytest.raises(LandingError, match="lets one process write") as refused:
        duck.land("merge", {"id": (INT, [1])})
    assert file in str(refused.value)


def test_duckdb_holds_its_file_only_while_it_loads(duck):
    duck.land("merge", {"id": (INT, [1])})
    with held_by_another_process(duck.connection["host"]):
        time.sleep(0)


def test_duckdb_in_memory_is_refused(duck):
    hook = duck.hook()
    hook.database = ":memory:"
    with pytest.raises(LandingError, match="names no file"):
        duck.land("merge", {"id": (INT, [1])}, hook=hook)


def test_duckdb_tables_with_a_key_of_their_own(duck):
    duck.execute("CREATE TABLE subs (id BIGINT PRIMARY KEY, v VARCHAR)")
    for run, text in (("1", "a"), ("2", "b")):
        result = duck.land("merge", {"id": (INT, [1, 2]), "v": (T, [text, "same"])}, run=run)
    assert result == LoadResult(rows=2, updated=1, unchanged=1)


@pytest.mark.parametrize("dialect", ["mysql", "mssql"])
def test_databases_that_cannot_tell_keys_apart_are_refused(dialect):
    class Hook:
        conn_type = dialect
        dialect_name = dialect

    from limio_limitrail.landing.sql.sessions import session_class

    with pytest.raises(LandingError, match=f"{dialect} is not a database that a pull can be loaded into"):
        session_class(Hook())


def test_duckdb_that_may_only_read_is_refused(duck):
    hook = duck.hook(read_only=True)
    with pytest.raises(LandingError, match="read-only"):
        duck.land("merge", {"id": (INT, [1])}, hook=hook)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_load_that_waited_sees_what_the_other_wrote(postgres, level):
    """Whatever the database's usual isolation: a snapshot from before the wait would lack the other load's rows."""
    postgres.execute(f"ALTER DATABASE {postgres.connection['schema']} SET default_transaction_isolation TO '{level}'")
    waiting = threading.Thread(target=postgres.land, args=("merge", {"id": (INT, [1, 2])}), kwargs={"run": "2"})

    def let_the_other_wait(_):
        waiting.start()
        for _ in range(200):
            if postgres.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == [(1,)]:
                return
            time.sleep(0.05)
        raise AssertionError

    postgres.land("merge", {"id": (INT, [1, 3])}, progress=let_the_other_wait)
    waiting.join(600)
    assert [row["id"] for row in postgres.rows()] == [1, 2, 3]


def test_a_message_from_the_tables_own_rule_is_not_passed_on(postgres, caplog):
    """What a trigger says is anybody's guess, rows included."""
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["a"])})
    postgres.execute(
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no %', NEW.v; END $$",
        "CREATE TRIGGER tell BEFORE INSERT ON subs FOR EACH ROW EXECUTE FUNCTION tell()",
    )
    with pytest.raises(LandingError, match="P0001") as refused:
        postgres.land("merge", {"id": (INT, [2]), "v": (T, [CANARY])}, run="2")
    assert CANARY not in told(refused.value)
    assert CANARY not in caplog.text


def test_a_trigger_that_swallows_rows_is_noticed(postgres):
    postgres.land("merge", {"id": (INT, [1])})
    postgres.execute(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER swallow BEFORE INSERT ON subs FOR EACH ROW WHEN (NEW.id = 3) EXECUTE FUNCTION swallow()",
    )
    for mode in ("merge", "append", "replace"):
        with pytest.raises(LandingError, match="2 rows were to be written and the database counts 1"):
            postgres.land(mode, {"id": (INT, [2, 3])}, run="2")
    assert [row["id"] for row in postgres.rows()] == [1]


def test_a_file_that_another_process_is_about_to_make_a_database(duck, tmp_path):
    """Between its creation and its first page, the file is no database yet."""
    whole = tmp_path / "whole.duckdb"
    duck.hook_class(database=str(whole)).get_conn().close()
    file = Path(duck.connection["host"])
    file.write_bytes(b"\0" * 4096)
    timer = threading.Timer(1.0, lambda: whole.replace(file))
    timer.start()
    assert duck.land("merge", {"id": (INT, [1])}).inserted == 1


def test_a_file_that_is_no_database(duck, monkeypatch):
    monkeypatch.setattr(duckdb_connect, "CREATION_WAIT", 0.5)
    Path(duck.connection["host"]).write_bytes(b"no database at all" * 1000)
    with pytest.raises(LandingError, match="is not a DuckDB database"):
        duck.land("merge", {"id": (INT, [1])})


def test_a_database_that_is_damaged(duck, monkeypatch):
    """DuckDB speaks of a block then, which is no lock to wait for."""
    monkeypatch.setattr(duck_module, "OPEN_WAIT", 0.0)
    duck.land("merge", {"id": (INT, [1])})
    file = Path(duck.connection["host"])
    content = bytearray(file.read_bytes())
    content[4096:12288] = bytes(8192)
    file.write_bytes(content)
    with pytest.raises(LandingError, match=r"DuckDB cannot open .*(checksum|[Cc]orrupt|header)"):
        duck.land("merge", {"id": (INT, [2])})


def test_a_folder_with_lock_in_its_name_that_is_not_there(duck, monkeypatch, tmp_path):
    monkeypatch.setattr(duck_module, "OPEN_WAIT", 0.0)
    duck.connection["host"] = str(tmp_path / "blocks" / "warehouse.duckdb")
    with pytest.raises(LandingError, match=r"DuckDB cannot open .*No such file"):
        duck.land("merge", {"id": (INT, [1])})


def test_a_database_that_cannot_be_opened_does_not_tell_its_token(duck, caplog):
    """MotherDuck cannot be had here: its extension is missing, and DuckDB's message is made worse than it is."""
    duck.connection.update(host="", password=CANARY, schema="mine")
    hook = duck.hook()
    open_really = hook.get_conn

    def get_conn():
        try:
            return open_really()
        except duckdb.IOException as error:
            message = f"{error} ({hook.get_database()})".replace("\n", " ")
        raise duckdb.IOException(message)

    hook.get_conn = get_conn
    with pytest.raises(LandingError, match=r"DuckDB cannot open md:mine: .*[Ee]xtension .*\(md:mine\)") as refused:
        duck.land("merge", {"id": (INT, [1])}, hook=hook)
    assert CANARY not in told(refused.value)
    assert CANARY not in caplog.text


@pytest.mark.exhaustive
def test_sqlite_waits_for_another_writer(lite):
    """For longer than the driver does by itself, which is five seconds."""
    lite.land("merge", {"id": (INT, [1])})
    writer = sqlite3.connect(lite.connection["host"], check_same_thread=False, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(6.0, writer.execute, args=("ROLLBACK",))
    timer.start()
    assert lite.land("merge", {"id": (INT, [2])}).inserted == 1
    timer.join()
    writer.close()
