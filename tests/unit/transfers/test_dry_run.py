# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A dry run needs a database that undoes all of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator


def test_a_database_that_may_commit_columns_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = SimpleNamespace(conn_type="other", dialect_name="default")
    monkeypatch.setattr("limio_limitrail.hooks.databases.find_database", lambda _: hook)
    task = LimioToSqlOperator(task_id="t", resource="orders", sql_conn_id="other", table="orders", dry_run="true")
    with pytest.raises(AirflowFailException, match="dry_run needs a database that undoes everything"):
        task.execute({})
