# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One load at a time into a table of Postgres, through a pooler that shares sessions as well."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from limio_limitrail.landing.dlt import table_lock
from limio_limitrail.landing.dlt.errors import DltError
from limio_limitrail.landing.dlt.table_lock import one_load_at_a_time

HOLDERS = """
SELECT state FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE locktype = 'advisory' AND granted AND datname = current_database()
"""


@pytest.fixture
def load(postgres_connection: dict[str, Any]) -> Any:
    """Begins a load into a table, and returns its locks."""
    from dlt.common.destination import DestinationCapabilitiesContext
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials
    from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient

    details = postgres_connection
    login = PostgresCredentials(f"postgresql://{details['login']}@/{details['schema']}?host={details['host']}")

    def begin(table: str, *, within: ExitStack) -> Any:
        sql = Psycopg2SqlClient("main", "stage", login, DestinationCapabilitiesContext.generic_capabilities())
        return within.enter_context(one_load_at_a_time(SimpleNamespace(sql_client=sql), kind="postgres", table=f"main.{table}"))

    return begin


@pytest.mark.parametrize("warehouse", ["postgres"], indirect=True)
def test_locks_belong_to_a_transaction(warehouse, load, monkeypatch):
    """A lock of a session would stay in a pool of sessions when the load has ended, or leave it while it goes on."""
    monkeypatch.setattr(table_lock, "LOCK_WAIT", -1.0)
    with ExitStack() as first:
        load("subs", within=first).lock_dataset("main")
        assert warehouse.query(HOLDERS) == [("idle in transaction",)] * 2
        with ExitStack() as second, pytest.raises(DltError, match=r"another load into main\.subs"):
            load("subs", within=second)
        with ExitStack() as other:
            locks = load("others", within=other)
            with pytest.raises(DltError, match="another load into dataset main"):
                locks.lock_dataset("main")
    assert warehouse.query(HOLDERS) == []
    with ExitStack() as third:
        load("subs", within=third)
