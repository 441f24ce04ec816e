# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Stand-ins at the very edge of the warehouses' own clients: what would go to the wire is written to a file instead.

Read in front of a recipe's Dag file, in the process that runs its tasks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SENT = Path(os.environ["AIRFLOW_HOME"]) / "sent.jsonl"


def note(where: str, what: Any) -> None:
    with SENT.open("a") as file:
        file.write(json.dumps([where, what], default=str) + "\n")


class Cursor:
    """A cursor of a database that takes everything and answers nothing."""

    description = None
    rowcount = -1
    sfqid = "query-1"

    def __init__(self, where: str) -> None:
        self._where = where

    def execute(self, sql: str, *_: Any, **__: Any) -> Cursor:
        note(self._where, " ".join(sql.split()))
        return self

    def fetchall(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Connection:
    """A connection to one."""

    def __init__(self, where: str, login: dict[str, Any]) -> None:
        self._where = where
        self.login = login

    def cursor(self, *_: Any, **__: Any) -> Cursor:
        return Cursor(self._where)

    def autocommit(self, _: bool = False) -> None:
        pass

    def commit(self) -> None:
        note(self._where, "-- commit")

    def rollback(self) -> None:
        note(self._where, "-- rollback")

    def close(self) -> None:
        pass


def for_snowflake() -> None:
    import snowflake.connector

    snowflake.connector.connect = lambda **login: Connection("snowflake", login)


def for_redshift() -> None:
    import redshift_connector

    redshift_connector.connect = lambda **login: Connection("redshift", login)


def for_bigquery() -> None:
    """BigQuery's requests are answered here, and Cloud Storage is a folder."""
    from airflow.sdk.io import attach
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem
    from google.cloud._http import JSONConnection

    def request(_: Any, method: str, path: str, data: Any = None, **__: Any) -> Any:
        note("bigquery", [method, path, data])
        if method == "POST":
            request.job = data
        return {**request.job, "id": "job-1", "status": {"state": "DONE"}}

    JSONConnection.api_request = request
    store = Path(os.environ["AIRFLOW_HOME"]) / "gcs"
    (store / "my-lake").mkdir(parents=True, exist_ok=True)
    attach("gs", conn_id="google_cloud_default", fs=DirFileSystem(str(store), LocalFileSystem(auto_mkdir=True)))
