# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Warehouses that dlt loads here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.airflow_home import AirflowHome
from tests.support.landed import duck

pytest.importorskip("dlt")

OWN = ("_run_id", "_extracted_at")


class Warehouse:
    """Reads back what was loaded."""

    def __init__(self, kind: str, *, path: Path, details: dict[str, Any] | None) -> None:
        self.kind, self.details, self._path = kind, details, path
        self.conn_id = {"duckdb": "duck", "postgres": "pg"}[kind]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if self.details is None:
            return duck(self._path, sql)
        import psycopg

        with psycopg.connect(host=self.details["host"], user="postgres", dbname=self.details["schema"]) as connection:
            return connection.execute(sql).fetchall()

    def change(self, sql: str) -> None:
        if self.details is None:
            import duckdb

            with duckdb.connect(str(self._path)) as connection:
                connection.execute(sql)
            return
        import psycopg

        with psycopg.connect(host=self.details["host"], user="postgres", dbname=self.details["schema"]) as connection:
            connection.execute(sql)

    def columns(self, table: str) -> dict[str, str]:
        where = f"WHERE table_name = '{table}' AND table_schema NOT LIKE 'limio_stage%'"
        found = self.query(f"SELECT column_name, data_type FROM information_schema.columns {where} ORDER BY ordinal_position")
        # dlt makes a text a character varying, which is the same in Postgres.
        return {name: "text" if type_ == "character varying" else type_ for name, type_ in found}

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """The rows in order, as texts, without the columns that a load adds."""
        names = sorted(name for name in self.columns(table.split(".")[-1].strip('"')) if name not in OWN)
        quoted = [name.replace('"', '""') for name in names]
        listed = ", ".join(f'CAST("{name}" AS varchar) AS "{name}"' for name in quoted)
        return self.query(f"SELECT {listed} FROM {table} ORDER BY {', '.join(str(at + 1) for at in range(len(names)))}")

    def count(self, table: str) -> int:
        [(rows,)] = self.query(f"SELECT count(*) FROM {table}")
        return int(rows)

    def stages(self) -> list[str]:
        found = self.query("SELECT schema_name FROM information_schema.schemata")
        return [name for [name] in found if name.startswith("limio_stage")]


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    details = request.getfixturevalue("postgres_connection") if request.param == "postgres" else None
    return Warehouse(request.param, path=tmp_path / "warehouse.duckdb", details=details)


@pytest.fixture
def dlt_home(make_home: Callable[..., AirflowHome], limio_emulator: Any, warehouse: Warehouse) -> AirflowHome:
    details = warehouse.details
    return make_home(limio_emulator, **({} if details is None else {"pg": {**details, "password": "pass-0f-the-warehouse"}}))
