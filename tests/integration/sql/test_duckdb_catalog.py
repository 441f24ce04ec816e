# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What DuckDB says of a table is asked again when it may have changed, and is about that table alone."""

from __future__ import annotations

import duckdb
import pytest
from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
from airflow.sdk import Connection
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.landing.sql.names import TableName
from limio_limitrail.landing.sql.sessions import open_session

NAMES = st.text(st.sampled_from("aAbB.\"' é$1"), min_size=1, max_size=6).filter(str.strip)


@pytest.fixture(scope="module")
def hook(tmp_path_factory):
    path = tmp_path_factory.mktemp("catalog") / "w.duckdb"
    duckdb.connect(str(path)).close()
    made = DuckDBHook()
    details = Connection(conn_id="warehouse", conn_type="duckdb", host=str(path))
    made.get_connection = lambda _: details
    return made


def quoted(*parts):
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


@given(schema=NAMES, table=NAMES, other=NAMES)
def test_columns_are_those_of_the_table_of_this_name(hook, schema, table, other):
    if other.lower() == table.lower():
        other += "x"
    with open_session(hook, step="while testing") as session:
        session.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
        for name, columns in ((table, f"{quoted(other)} INTEGER DEFAULT 1, last VARCHAR"), (other, "c DOUBLE")):
            session.execute(f"CREATE OR REPLACE TABLE {quoted(schema, name)} ({columns})")
        found = session.columns(TableName(schema=schema, table=table))
        assert [(column.name, column.type, column.managed) for column in found] == [
            (other, "INTEGER", False),
            ("last", "VARCHAR", True),
        ]
        assert [column.name for column in session.columns(TableName(schema=schema, table=other))] == ["c"]
        session.roll_back()
        session.begin(lock_wait=None, idle_limit=None, read_only=False)


def test_a_column_that_is_computed_is_not_written(hook):
    with open_session(hook, step="while testing") as session:
        session.execute("CREATE TABLE computed (a INTEGER, b INTEGER GENERATED ALWAYS AS (a + 1), c BIGINT DEFAULT NULL)")
        found = {column.name: column.managed for column in session.columns(TableName(schema=None, table="computed"))}
    assert found == {"a": True, "b": False, "c": False}


def test_a_table_that_the_transaction_drops_renames_or_widens(hook):
    one, two = (TableName(schema=None, table=name) for name in ("one", "two"))
    with open_session(hook, step="while testing") as session:
        assert session.columns(one) is None
        session.execute("CREATE TABLE one (a INTEGER)")
        assert session.exists(one)
        session.execute("ALTER TABLE one ADD COLUMN b DOUBLE")
        session.execute("ALTER TABLE one ALTER COLUMN a TYPE BIGINT")
        assert [(column.name, column.type) for column in session.columns(one)] == [("a", "BIGINT"), ("b", "DOUBLE")]
        session.execute("ALTER TABLE one RENAME TO two")
        assert session.columns(one) is None
        assert len(session.columns(two)) == 2
        session.execute("DROP TABLE two")
        assert not session.exists(two)
        assert session.columns(two) is None


def test_a_table_of_another_transaction(hook):
    there = TableName(schema="main", table="there")
    with open_session(hook, step="while testing") as session:
        session.execute("CREATE TABLE there (a INTEGER)")
        session.roll_back()
        session.begin(lock_wait=None, idle_limit=None, read_only=False)
        assert session.columns(there) is None
        assert not session.exists(there)
