# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A primary key that gains a column: rows without a value there would stay beside those of the same records."""

from __future__ import annotations

from datetime import timedelta

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.model import Scope
from limio_limitrail.landing.sql.new_keys import NewKeyError
from tests.support.databases import HELD, NOON, WHILE_PULLING

INT, T = Kind.INTEGER, Kind.TEXT
LIST = Scope(digest="1" * 16, text="one list", task="sync/one")
OTHER = Scope(digest="2" * 16, text="another list", task="sync/other")
LINES = {"id": (T, ["a", "b"]), "line": (INT, [0, 1])}
WITHOUT = {"id": (T, ["a", "b"]), "v": (INT, [1, 2])}
EMPTY = {**WITHOUT, "line": (INT, [0, None])}
NEW_KEY = {"key": ["id", "line"], "run": "sync/one/2", "at": NOON + timedelta(hours=1), "scope": LIST}


@pytest.mark.every_driver
@pytest.mark.covering
@pytest.mark.parametrize("name", ["duckdb", HELD, "psycopg3", WHILE_PULLING, "sqlite", "standard"])
@pytest.mark.parametrize("before", [WITHOUT, EMPTY], ids=["a new column", "nulls"])
@pytest.mark.parametrize("run", ["sync/one/1", "sync/one[3]/1"])
def test_rows_without_the_new_column(opened, name, before, run):
    db = opened(name)
    db.land("merge", before, run=run, scope=LIST)
    rows = db.rows(own=True)
    with pytest.raises(NewKeyError, match="rows without a value in 'line', which the primary key names") as refused:
        db.land("merge", LINES, **NEW_KEY)
    assert refused.value.permanent
    assert db.rows(own=True) == rows
    assert db.land("merge", {"id": (T, ["a"])}, key=["id"], run="sync/one/3", scope=LIST, at=NOON + timedelta(hours=2)).rows == 1


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "sqlite", "standard"])
def test_rows_that_no_key_has_to_find(opened, name):
    db = opened(name)
    db.land("append", {"id": (T, ["x"]), "line": (INT, [None])}, run="sync/other/1", key=(), scope=OTHER)
    db.execute("INSERT INTO subs (id) VALUES ('y')")
    assert db.land("merge", LINES, **NEW_KEY).inserted == 2
    assert db.land("merge", LINES, **NEW_KEY).unchanged == 2
    assert db.land("append", {"id": (T, ["z"])}, run="sync/one/3", key=["id", "line"], scope=LIST).inserted == 1


@pytest.mark.parametrize("name", ["duckdb", "psycopg3", "sqlite", "standard"])
def test_a_table_without_rows_takes_any_key(opened, name):
    db = opened(name)
    db.land("merge", WITHOUT, run="sync/one/1", scope=LIST)
    db.execute("DELETE FROM subs", *(["ALTER TABLE subs DROP CONSTRAINT IF EXISTS subs_pkey"] if db.postgres else []))
    assert db.land("merge", LINES, **NEW_KEY).inserted == 2
