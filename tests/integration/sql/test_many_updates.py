# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Updates of more rows than DuckDB may keep in memory until the commit do what an UPDATE does."""

from __future__ import annotations

from datetime import timedelta

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import duckdb_updates
from limio_limitrail.landing.sql.dialect import Update
from limio_limitrail.landing.sql.errors import Cause, DatabaseError
from limio_limitrail.landing.sql.model import OnMissing, Scope
from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.sessions import open_session
from limio_limitrail.transfers import ChildTable
from tests.support.child_rows import Orders
from tests.support.databases import NOON, kept_open

INT, J, T = Kind.INTEGER, Kind.JSON, Kind.TEXT
HOUR = timedelta(hours=1)
LISTS = [Scope(digest=digit * 16, text=f"list {digit}", task=f"task-{digit}") for digit in "01"]


def columns(ids, *, value="v", time=1):
    times = [f"2026-01-0{time}T00:00:00Z"] * len(ids)
    values = [f"{value} {one}" for one in ids]
    return {"id": (INT, list(ids)), "v": (T, values), "j": (J, [f'["{one}"]' for one in values]), "u": (T, times)}


def marks_and_deletes(database, folder):
    def land(ids, *, list_, run, on_missing=OnMissing.MARK, value="v", time=1):
        scope = LISTS[list_]
        return database.land(
            "merge", columns(ids, value=value, time=time), run=f"{scope.task}/{run}", at=NOON + run * HOUR, scope=scope,
            on_missing=on_missing, full_scan=True, time="u",
        )  # fmt: skip

    database.land("merge", columns(range(40)), run="another task")
    yield land(range(60), list_=0, run=1)
    yield land(range(20), list_=0, run=2, value="new", time=2)
    yield land(range(10, 30), list_=1, run=3, value="newer", time=3)
    yield land(range(50), list_=0, run=4)
    yield land(range(15), list_=0, run=5, on_missing=OnMissing.DELETE)


def versions(database, folder):
    def land(ids, *, run, time, value="v", **more):
        return database.land(
            "history", columns(ids, value=value, time=time), run=f"{LISTS[0].task}/{run}", at=NOON + run * HOUR, scope=LISTS[0],
            time="u", full_scan=True, **more,
        )  # fmt: skip

    yield land(range(40), run=1, time=1)
    yield land(range(50), run=2, time=2, value="second")
    yield land(range(50), run=3, time=2, value="replaced")
    yield land(range(0, 50, 2), run=4, time=2, value="replaced", on_missing=OnMissing.MARK)
    yield land(range(50), run=5, time=2, value="replaced", on_missing=OnMissing.MARK)


def children(database, folder):
    orders = Orders(db=database, folder=folder, tables={"items": ChildTable("items")})

    def land(run, *, changed):
        records = [{"id": one, "items": [one, run if one % 3 in changed else 0]} for one in range(60)]
        return orders.land(records, run=f"run-{run}", at=NOON + run * HOUR)

    yield land(1, changed=())
    yield land(2, changed=(0, 1))


def content(database):
    tables = [name for (name,) in database.query("SELECT table_name FROM duckdb_tables() ORDER BY 1")]
    return {name: sorted(map(str, database.rows(name, own=True))) for name in tables}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("loads", [marks_and_deletes, versions, children])
def test_what_loads_write_is_the_same(file_database, tmp_path, monkeypatch, loads):
    def run(folder):
        folder.mkdir()
        database = file_database("duckdb", folder=folder)
        with kept_open(database):
            return list(loads(database, folder)), content(database)

    expected = run(tmp_path / "in place")
    replaced = []
    original = duckdb_updates._replace
    monkeypatch.setattr(duckdb_updates, "_replace", lambda *at, **how: replaced.append(original(*at, **how)) or replaced[-1])
    for name in ("SMALL_UPDATE", "MOST_UPDATED"):
        monkeypatch.setattr(duckdb_updates, name, 0)
    monkeypatch.setattr(duckdb_updates, "SLICE_SIZE", 1000)
    assert run(tmp_path / "replaced") == expected
    assert sum(replaced) >= 40
    assert len(replaced) >= 3
    replaced.clear()
    monkeypatch.setattr(duckdb_updates, "MOST_UPDATED", 1 << 30)
    assert run(tmp_path / "collected") == expected
    assert not replaced


TABLES = {
    "an index": "id BIGINT, v VARCHAR, w VARCHAR DEFAULT 'd'; CREATE UNIQUE INDEX by_id ON subs (id)",
    "a key": "id BIGINT PRIMARY KEY, v VARCHAR, w VARCHAR DEFAULT 'd'",
    "a computed column": "id BIGINT, v VARCHAR, w VARCHAR DEFAULT 'd', x BIGINT GENERATED ALWAYS AS (id + 1)",
    "a column that hides the identifier of rows": "id BIGINT, v VARCHAR, w VARCHAR DEFAULT 'd', ROWID BIGINT DEFAULT 1",
    "a column that loads do not write": "id BIGINT, v VARCHAR, w VARCHAR DEFAULT 'd'",
}


@pytest.mark.parametrize("table", TABLES)
def test_other_columns_keep_their_values(duck, monkeypatch, table):
    for name in ("SMALL_UPDATE", "MOST_UPDATED"):
        monkeypatch.setattr(duckdb_updates, name, 0)
    described, _, index = TABLES[table].partition("; ")
    duck.execute(f"CREATE TABLE subs ({described})", *filter(None, [index]))
    duck.execute("INSERT INTO subs (id, v, w) SELECT i, 'old', 'kept ' || i FROM range(60) r(i)")
    for run in (1, 2):
        scope = LISTS[run - 1]
        rows = {"id": (INT, list(range(60))), "v": (T, ["old"] * 60)}
        result = duck.land("merge", rows, run=f"{scope.task}/{run}", scope=scope, on_missing=OnMissing.MARK, full_scan=True)
        assert result.unchanged == 60
    assert duck.query("SELECT id, v, w FROM subs ORDER BY id") == [(i, "old", f"kept {i}") for i in range(60)]
    assert duck.query("SELECT count(*) FROM subs WHERE _sources LIKE '%0%' AND _sources LIKE '%1%'") == [(60,)]


@pytest.mark.exhaustive
def test_many_updated_rows_need_little_memory(duck, monkeypatch):
    monkeypatch.setattr(duckdb_updates, "MOST_UPDATED", 1 << 20)
    monkeypatch.setattr(duckdb_updates, "SLICE_SIZE", 4 << 20)
    duck.execute("CREATE TABLE subs AS SELECT i AS id, repeat(md5(i::VARCHAR), 4) AS v, v || '.' AS w FROM range(200000) r(i)")

    def write(*, in_place):
        with open_session(duck.hook(), step="while testing") as session:
            monkeypatch.setattr(session.settings, "_set", lambda *_: None)
            session.execute("SET memory_limit = '40MB'")
            table = TableName(schema=None, table="subs")
            update = Update(table=table, assignments=[('"w"', f"v || '{in_place}'")], condition="id % 4 > 0")
            assert (session.update_in_place if in_place else session.update_rows)(update) == 150_000

    write(in_place=False)
    assert duck.query("SELECT count(*), count(DISTINCT id) FROM subs WHERE w = v || 'False'") == [(150_000, 150_000)]
    with pytest.raises(DatabaseError) as caught:
        write(in_place=True)
    assert caught.value.cause is Cause.MEMORY
