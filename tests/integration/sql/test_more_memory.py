# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A load that needs more of DuckDB's memory than loads get is undone, and run once more with more."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import timedelta

import duckdb
import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import duckdb as duck_module
from limio_limitrail.landing.sql import duckdb_settings
from limio_limitrail.landing.sql.errors import Cause, DatabaseError
from limio_limitrail.landing.sql.model import OnMissing, Scope
from limio_limitrail.transfers import ChildTable
from tests.support.child_rows import Orders
from tests.support.databases import HELD, NOON, kept_open

INT, T = Kind.INTEGER, Kind.TEXT
ROWS = 20_000
HOUR = timedelta(hours=1)
AGAIN = "the load is run again with more memory"

pytestmark = pytest.mark.other_processes


@pytest.fixture(params=["duckdb", HELD])
def duck(opened, request):
    return opened(request.param)


@pytest.fixture
def little_memory(monkeypatch):
    """Give loads what no load of many rows gets by with."""
    for name in ("MEMORY", "MERGE_MEMORY", "COPY_MEMORY"):
        monkeypatch.setattr(duckdb_settings, name, 2)


def columns(ids, *, seed):
    draw = random.Random(seed)
    return {"id": (INT, list(ids)), "v": (T, [f"{draw.getrandbits(2400):0600x}" for _ in ids])}


@pytest.mark.parametrize("mode", ["merge", "append", "replace", "history"])
def test_a_load_is_run_again(duck, mode, little_memory, caplog):
    duck.land(mode, {"id": (INT, [0]), "v": (T, ["old"])})
    caplog.clear()
    counts = []
    result = duck.land(mode, columns(range(ROWS), seed=1), run="2", progress=counts.append)
    assert AGAIN in caplog.text
    assert (result.rows, counts[-1]) == (ROWS, ROWS)
    expected = ROWS + (mode == "append")
    assert duck.query("SELECT count(*), count(DISTINCT id) FROM subs") == [(expected, ROWS)]


def test_an_update_in_place_is_run_again(duck, little_memory, caplog):
    duck.land("merge", columns(range(ROWS), seed=1))
    duck.execute("CREATE UNIQUE INDEX by_id ON subs (id)")
    caplog.clear()
    result = duck.land("merge", columns(range(ROWS), seed=2), run="2")
    assert AGAIN in caplog.text
    assert result.updated == ROWS
    assert duck.query("SELECT count(*) FROM subs WHERE _run_id = '2'") == [(ROWS,)]


def test_a_second_refusal_is_told(opened, little_memory, monkeypatch, caplog):
    duck = opened("duckdb")
    monkeypatch.setattr(duckdb_settings, "MOST_MEMORY", 2)
    with pytest.raises(DatabaseError) as caught:
        duck.land("merge", columns(range(ROWS), seed=1))
    assert caught.value.cause is Cause.MEMORY
    assert "Set memory_limit in the connection's extra to more than it is now" in str(caught.value)
    assert caplog.text.count(AGAIN) == 1
    assert duck.query("SELECT count(*) FROM duckdb_tables()") == [(0,)]


def merges(database, folder):
    scope = Scope(digest="0" * 16, text="the list", task="sync/subs", is_only_list=True)
    more = {"full_scan": True, "scope": scope, "on_missing": OnMissing.DELETE, "time": "u"}

    def part(ids, value, day):
        return {"id": (INT, list(ids)), "v": (T, [value] * len(ids)), "u": (T, [f"2026-01-0{day}T00:00:00Z"] * len(ids))}

    database.land("merge", part(range(10), "old", 1), run="sync/subs/1", **more)
    return lambda: database.land(
        "merge", part(range(2, 8), "new", 2), part(range(20, 24), "new", 2), run="sync/subs/2", at=NOON + HOUR, **more
    )


def keeps_history(database, folder):
    database.land("history", columns(range(5), seed=1), run="1")
    return lambda: database.land("history", columns(range(3, 9), seed=2), run="2", at=NOON + HOUR)


def has_children(database, folder):
    orders = Orders(db=database, folder=folder, tables={"items": ChildTable("items")})
    orders.land([{"id": number, "items": [number, "x"]} for number in range(4)])
    return lambda: orders.land([{"id": 2, "items": ["y"]}, {"id": 9, "items": [1, 2, 3]}], run="run-2", at=NOON + HOUR)


def content(database):
    tables = [name for (name,) in database.query("SELECT table_name FROM duckdb_tables() ORDER BY 1")]
    return {name: database.rows(name, own=True) for name in tables}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("prepare", "name"), [(merges, "duckdb"), (merges, HELD), (keeps_history, "duckdb"), (has_children, "duckdb")]
)
def test_a_refusal_of_any_statement(file_database, tmp_path, monkeypatch, name, prepare):
    """Whichever statement needs more memory: nothing of the first run is left in the second."""
    original = duck_module.DuckSession.query

    def land(folder, *, refused):
        folder.mkdir()
        database, statements = file_database(name, folder=folder), 0

        def query(session, sql, *values):
            nonlocal statements
            statements += not sql.startswith(("SET", "RESET"))
            if statements == refused:
                statements += 1

                def refuse():
                    with suppress(duckdb.Error):
                        # As a refusal does, it aborts the transaction.
                        session._connection.execute("SELECT error('refused')")
                    raise duckdb.OutOfMemoryException("failed to allocate")

                session.guarded(refuse)
            return original(session, sql, *values)

        with kept_open(database):
            run = prepare(database, folder)
            with monkeypatch.context() as patch:
                patch.setattr(duck_module.DuckSession, "query", query)
                result = run()
            return result, content(database), statements

    expected, rows, statements = land(tmp_path / "whole", refused=0)
    for refused in range(1, statements, 9):
        assert land(tmp_path / str(refused), refused=refused)[:2] == (expected, rows), refused


@pytest.mark.parametrize("name", ["duckdb", HELD])
def test_no_load_gets_more_than_the_machine_has(opened, monkeypatch, name):
    """A container that uses more memory than it may is killed, and no message says why."""
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100M")
    limits = []
    original = duck_module.DuckSession.execute

    def execute(session, sql, *values):
        if sql.startswith("SET memory_limit"):
            limits.append(int(sql.split("'")[1].removesuffix("MB")))
        return original(session, sql, *values)

    monkeypatch.setattr(duck_module.DuckSession, "execute", execute)
    monkeypatch.setattr(duck_module.DuckSession, "limit_memory", lambda session, **_: session.take_more_memory())
    duck = opened(name)
    for run in ("1", "2"):
        parts = [columns(range(start, start + 10), seed=1) for start in (0, 10, 20)]
        assert duck.land("merge", *parts, run=run).rows == 30
    assert max(limits) == 49


def test_a_limit_of_the_connection_is_kept(opened, caplog):
    duck = opened("duckdb")
    with pytest.raises(DatabaseError) as caught:
        duck.land("merge", columns(range(ROWS), seed=1), hook=duck.hook(settings={"memory_limit": "2MB", "threads": 1}))
    assert caught.value.cause is Cause.MEMORY
    assert AGAIN not in caplog.text
