# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""This package's operators, executed as a task process executes them; Airflow's state stores are a file."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Store:
    """Stands for Airflow's store of a task's state: writes each value to a file, where Airflow sends it to its API."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self._path.read_text())[key] if self._path.exists() else default

    def set(self, key: str, value: Any) -> None:
        self._path.write_text(json.dumps({key: value}))

    def delete(self, key: str) -> None:
        self._path.unlink(missing_ok=True)


def _execute(operator: Any, folder: Path) -> int:
    ti = SimpleNamespace(id="1", dag_id="bench", task_id="pull", run_id="one", map_index=-1, try_number=1)
    context = {"ti": ti, "task_state_store": Store(folder / "state.json"), "outlet_events": {}, "params": {}}
    return int(operator.execute(context)["rows"])


def lines(url: str, folder: Path) -> int:
    """Pull into compressed JSON Lines."""
    return _files(folder, "jsonl")


def parquet(url: str, folder: Path) -> int:
    """Pull into Parquet."""
    return _files(folder, "parquet")


def _files(folder: Path, form: str) -> int:
    from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator

    operator = LimioToObjectStorageOperator(
        task_id="pull", resource="subscriptions", page_size=1000, destination=f"file://{folder}/lake", format=form
    )
    return _execute(operator, folder)


def duckdb(url: str, folder: Path) -> int:
    """Pull and merge into an empty table of DuckDB."""
    return _table(folder, "duck")


def duckdb_held(url: str, folder: Path) -> int:
    """Do the same with the file held open, and filled while pages come."""
    return _table(folder, "duck", load="while_pulling")


def postgres(url: str, folder: Path, dsn: str) -> int:
    """Pull and merge into an empty table of Postgres."""
    return _table(folder, "post")


def _table(folder: Path, conn_id: str, *, load: str = "auto") -> int:
    from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator

    operator = LimioToSqlOperator(
        task_id="pull",
        resource="subscriptions",
        page_size=1000,
        sql_conn_id=conn_id,
        table="own",
        staging=f"file://{folder}/staging",
        load=load,
    )
    return _execute(operator, folder)
