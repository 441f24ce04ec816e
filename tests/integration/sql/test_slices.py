# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A merge in slices does what a merge at once does."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import duckdb, duckdb_settings, duckdb_slices
from tests.support.databases import NOON

INT, T = Kind.INTEGER, Kind.TEXT


@pytest.fixture
def many_rows(monkeypatch):
    """Let a few rows be more than a slice."""
    monkeypatch.setattr(duckdb_slices, "SLICE_SIZE", 300)
    monkeypatch.setattr(duckdb_slices, "UPDATE_SIZE", 0)
    return lambda scans: monkeypatch.setattr(duckdb_slices, "MOST_SCANS", scans)


def columns(ids, *, value, time):
    return {"id": (INT, list(ids)), "v": (T, [value(one) for one in ids]), "t": (INT, [time] * len(ids))}


@pytest.mark.parametrize("scans", [1, 3, 16])
def test_rows_in_another_order_than_those_of_the_table(duck, many_rows, scans):
    many_rows(scans)
    ids = list(range(80))
    duck.land("merge", columns(ids[:60], value=str, time=1), time="t")
    random.Random(4711).shuffle(ids)
    result = duck.land("merge", columns(ids, value=lambda one: str(one - one % 2), time=2), time="t")
    assert (result.rows, result.inserted, result.updated, result.unchanged) == (80, 20, 60, 0)
    again = duck.land("merge", columns(ids, value=lambda one: str(one - one % 2), time=2), time="t")
    assert (again.inserted, again.updated, again.unchanged) == (0, 0, 80)
    older = duck.land("merge", columns(ids, value=lambda one: str(7 * (one // 40)), time=1), time="t")
    assert (older.inserted, older.updated, older.outdated) == (0, 0, 80)
    found = duck.query("SELECT id, v, t FROM subs ORDER BY id")
    assert found == [(one, str(one - one % 2), 2) for one in range(80)]


def test_a_column_that_hides_the_identifier_of_rows(duck, many_rows):
    """``rowid`` is a column like others, and no place of a row."""
    many_rows(16)
    ids = list(range(20))
    rows = columns(ids, value=str, time=1) | {"RowId": (INT, ids[::-1])}
    duck.land("merge", rows, time="t")
    result = duck.land("merge", rows | {"v": (T, ["new"] * 20), "t": (INT, [2] * 20)}, time="t")
    assert result.updated == 20
    assert duck.query("SELECT id, v, RowId FROM subs ORDER BY id") == [(one, "new", 19 - one) for one in ids]


def test_a_table_with_two_rows_of_a_key(duck, many_rows):
    many_rows(16)
    duck.land("append", columns([1, 2], value=str, time=1), run="r/1", time="t")
    duck.land("append", columns([2, 3], value=str, time=1), run="r/2", time="t")
    with pytest.raises(Exception, match="1 rows more than one for the keys that came"):
        duck.land("merge", columns([1, 2, 3], value=lambda _: "x", time=2), time="t")
    assert duck.query("SELECT id, v FROM subs ORDER BY id") == [(1, "1"), (2, "2"), (2, "2"), (3, "3")]


TABLES = {
    "columns of others": "id BIGINT NOT NULL, kept VARCHAR DEFAULT 'd', v VARCHAR CHECK (v <> '?'), t BIGINT",
    "a key": "id BIGINT PRIMARY KEY, kept VARCHAR DEFAULT 'd', v VARCHAR, t BIGINT",
    "an index": "id BIGINT, kept VARCHAR DEFAULT 'd', v VARCHAR, t BIGINT; CREATE UNIQUE INDEX by_id ON subs (id)",
    "a computed column": "id BIGINT, kept VARCHAR DEFAULT 'd', v VARCHAR, t BIGINT, w BIGINT GENERATED ALWAYS AS (id + 1)",
}


@pytest.mark.parametrize("table", TABLES)
def test_columns_that_loads_do_not_write_keep_their_values(duck, many_rows, table):
    many_rows(3)
    columns_of_table, _, index = TABLES[table].partition("; ")
    duck.execute(f"CREATE TABLE subs ({columns_of_table})", *filter(None, [index]))
    duck.execute("INSERT INTO subs (id, kept, v, t) SELECT i, 'kept ' || i, 'old', 1 FROM range(60) r(i)")
    result = duck.land("merge", columns(range(80), value=lambda one: "old" if one < 20 else "new", time=1))
    assert (result.inserted, result.updated, result.unchanged) == (20, 40, 20)
    expected = [(i, f"kept {i}" if i < 60 else "d", "old" if i < 20 else "new", 1) for i in range(80)]
    assert duck.query("SELECT id, kept, v, t FROM subs ORDER BY id") == expected
    assert duck.query("SELECT count(*) FROM subs WHERE _run_id IS NOT NULL") == [(60,)]


@pytest.mark.exhaustive
def test_many_changed_rows_need_little_memory(duck, monkeypatch):
    """DuckDB keeps all that an UPDATE writes in memory until the transaction ends."""
    monkeypatch.setattr(duckdb_settings, "MERGE_MEMORY", 32)
    monkeypatch.setattr(duckdb_slices, "SLICE_SIZE", 4 * 1024 * 1024)
    monkeypatch.setattr(duckdb_slices, "UPDATE_SIZE", 4 * 1024 * 1024)
    draw = random.Random(4711)

    def texts(ids):
        return columns(ids, value=lambda _: f"{draw.getrandbits(2400):0600x}", time=1)

    duck.land("merge", texts(range(30_000)))
    assert duck.land("merge", texts(range(30_000)), run="2").updated == 30_000


@pytest.mark.parametrize("mode", ["append", "replace", "history"])
def test_rows_are_inserted_in_order_slice_by_slice(duck, many_rows, monkeypatch, mode):
    """The copies that a sort makes of large rows would not fit into memory."""
    inserted = []
    original = duckdb.DuckSession.execute

    def execute(session, sql, *values):
        rows = original(session, sql, *values)
        if sql.startswith('INSERT INTO "subs" ('):
            inserted.append(rows)
        return rows

    monkeypatch.setattr(duckdb.DuckSession, "execute", execute)
    ids = list(range(60))[::-1]
    duck.land(mode, columns([0], value=str, time=1), run="r/1", time="t")
    inserted.clear()
    result = duck.land(mode, columns([*ids, 7], value=str, time=2), run="r/2", time="t", at=NOON + timedelta(hours=1))
    assert (result.rows, result.inserted, result.duplicates) == (61, 60, 1)
    assert duck.query("SELECT id, v, t FROM subs WHERE _run_id = 'r/2'") == [(one, str(one), 2) for one in sorted(ids, key=place)]
    assert len(inserted) > 3


def place(one):
    """The row that comes last of its key stays."""
    return 60 if one == 7 else 59 - one
