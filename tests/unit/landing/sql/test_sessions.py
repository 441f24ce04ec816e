# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Sessions of connections that a hook of a user's own has opened."""

from __future__ import annotations

import contextlib
import sqlite3
from types import SimpleNamespace
from typing import Any

import duckdb
import psycopg
import pytest

from limio_limitrail.landing.sql.sessions import session_class_of
from limio_limitrail.landing.sql.sqlite import SqliteSession

HOOK: Any = SimpleNamespace(placeholder="?")


class OwnConnection(sqlite3.Connection):
    def rollback(self):
        """Do nothing, as where a connection was opened with ``autocommit=True`` (Python 3.12 and later)."""


def test_the_session_of_a_connection():
    with contextlib.closing(sqlite3.connect(":memory:", factory=OwnConnection)) as lite, duckdb.connect() as duck:
        others = (psycopg.Connection.__new__(psycopg.Connection), object())
        found = [session_class_of(one).dialect.name for one in (lite, duck, *others)]
    assert found == ["SQLite", "DuckDB", "Postgres", "the database"]


def test_a_transaction_in_sqlite_ends_whatever_the_driver_does_by_itself():
    with contextlib.closing(sqlite3.connect(":memory:", factory=OwnConnection)) as connection:
        session = SqliteSession(HOOK, connection)

        def fail() -> None:
            with session.transaction():
                session.execute("CREATE TABLE t (a)")
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert not connection.in_transaction
        with session.transaction():
            assert session.query("SELECT count(*) FROM sqlite_master") == [(0,)]
