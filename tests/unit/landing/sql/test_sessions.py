# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which session describes the errors of a driver's connection."""

from __future__ import annotations

import contextlib
import sqlite3

import duckdb
import psycopg

from limio_limitrail.landing.sql.sessions import session_class_of


class OwnConnection(sqlite3.Connection):
    """One that a hook of a user's own makes."""


def test_the_session_of_a_connection():
    with contextlib.closing(sqlite3.connect(":memory:", factory=OwnConnection)) as lite, duckdb.connect() as duck:
        found = [session_class_of(one).dialect.name for one in (lite, duck, psycopg.Connection.__new__(psycopg.Connection), object())]
    assert found == ["SQLite", "DuckDB", "Postgres", "the database"]
