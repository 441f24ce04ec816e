# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A ledger of many rows in Postgres, as a month of nights leaves it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from airflow.providers.postgres.hooks.postgres import PostgresHook

from tests.support.databases import Database
from tests.support.ledgers import FailingDatabase, make_ledger, make_worker

NASTY = '<img src=x onerror="window.hacked=1">'
"""What a row's key may look like."""

NASTY_WORDS = "</td><script>window.hacked=true</script>"
"""What the API's words and the names of others may look like."""


def fill_ledger(connection: Mapping[str, Any], *, rows: int, dag_id: str) -> Database:
    """Make a table `ledger`: of 100,000 rows, about 98,000 are committed, and some hundred need a person."""
    database = Database(name="psycopg3", connection=dict(connection), hook_class=PostgresHook, text="text")
    with closing(FailingDatabase(database.hook())) as held:
        make_ledger(held, make_worker()).prepare()
    state = (
        "CASE WHEN n % 997 = 0 THEN 'parked' WHEN n % 499 = 0 THEN 'rejected' WHEN n % 100 = 7 THEN 'denied' "
        "WHEN n % 4999 = 1 THEN 'unknown' ELSE 'committed' END"
    )
    database.execute(
        "INSERT INTO ledger (idempotency_key, state, operation, row_key, http_status, detail, attempts, body_digest, conn_id, "
        "dag_id, task_id, run_id, map_index, try_number, claim_id, lease_until, claimed_at, finished_at, ledger_format, "
        "in_doubt_since) "
        "SELECT 'key-' || n, state, 'usage.commit', "
        f"""CASE WHEN n = 997 THEN '{{"usage_id": "{NASTY}"}}' ELSE '{{"usage_id": "u-' || n || '"}}' END, """
        "CASE state WHEN 'rejected' THEN 422 WHEN 'parked' THEN 504 ELSE 200 END, "
        "CASE state WHEN 'rejected' THEN 'the meter m-' || n || ' is unknown' WHEN 'parked' THEN 'no answer within 60 s' END, "
        f"1, 'digest', 'limitrail_default', '{dag_id}', 'commit_usage', 'scheduled__' || n % 30, -1, 1, 'claim', 1, at, at, 3, "
        "CASE WHEN state IN ('parked', 'unknown') THEN CAST(extract(epoch FROM at) * 1000 AS bigint) END "
        f"FROM (SELECT n, {state} AS state, now() - (n % 45) * interval '1 day' + (n % 7) * interval '1 minute' AS at "
        f"FROM generate_series(1, {rows}) AS n) AS made"
    )
    # It is the oldest: each list shows it.
    nasty = ", ".join(f"{name} = '{NASTY_WORDS}'" for name in ("detail", "dag_id", "run_id"))
    database.execute(f"UPDATE ledger SET in_doubt_since = 1000, {nasty} WHERE idempotency_key = 'key-997'", "ANALYZE ledger")
    return database
