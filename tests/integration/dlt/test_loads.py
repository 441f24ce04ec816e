# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads by dlt's destinations end with the same rows as loads by our own code, whatever happens between them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.landed import duck

pytest.importorskip("dlt")

MODES = ("merge", "append", "replace")
OWN = ("_run_id", "_extracted_at")

DAG = """
common = dict(resource="subscriptions", page_size=40, part_rows=80, nested_columns={{"offer_path": "data.offer.path"}})
for mode in {modes}:
    LimioToDltOperator(
        task_id="dlt_" + mode, destination={name!r}, destination_conn_id={conn_id!r}, dataset="lake", table="Subs_" + mode,
        mode=mode, **common,
    )
    LimioToSqlOperator(task_id="sql_" + mode, sql_conn_id={conn_id!r}, table="subs_" + mode, mode=mode, **common)
"""


class Warehouse:
    """Reads back what was loaded."""

    def __init__(self, kind: str, *, path: Any, details: Any) -> None:
        self.kind, self._path, self._details = kind, path, details
        self.conn_id = {"duckdb": "duck", "postgres": "pg"}[kind]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if self.kind == "duckdb":
            return duck(self._path, sql)
        import psycopg

        details = self._details
        with psycopg.connect(host=details["host"], user="postgres", dbname=details["schema"]) as connection:
            return connection.execute(sql).fetchall()

    def columns(self, table: str) -> dict[str, str]:
        where = f"WHERE table_name = '{table}' AND table_schema NOT LIKE 'limio_stage%'"
        found = self.query(f"SELECT column_name, data_type FROM information_schema.columns {where} ORDER BY ordinal_position")
        return dict(found)

    def rows(self, table: str, *, leave_out: tuple[str, ...] = OWN) -> list[tuple[Any, ...]]:
        names = sorted(name for name in self.columns(table.split(".")[-1].strip('"')) if name not in leave_out)
        listed = ", ".join(f'CAST("{name}" AS varchar) AS "{name}"' for name in names)
        return self.query(f"SELECT {listed} FROM {table} ORDER BY {', '.join(str(at + 1) for at in range(len(names)))}")

    def datasets(self) -> set[str]:
        return {name for [name] in self.query("SELECT schema_name FROM information_schema.schemata")}


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request, tmp_path):
    details = request.getfixturevalue("postgres_connection") if request.param == "postgres" else None
    return Warehouse(request.param, path=tmp_path / "warehouse.duckdb", details=details)


@pytest.fixture
def dlt_home(make_home, limio_emulator, warehouse):
    return make_home(limio_emulator, **({} if warehouse._details is None else {"pg": warehouse._details}))


def working_folders(home):
    return [path for path in (home.path / "tmp").rglob("*") if path.name.startswith("dlt-")]


def test_the_rows_and_types_are_those_of_our_own_loads(dlt_home, limio_emulator, warehouse):
    dlt_home.write_dag(DAG.format(name=warehouse.kind, conn_id=warehouse.conn_id, modes=MODES))
    for round_ in range(2):
        done = dlt_home.run()
        assert done.result["state"] == "success", dlt_home.output()[-6000:]
        for mode in MODES:
            assert warehouse.columns(f"Subs_{mode}") == warehouse.columns(f"subs_{mode}")
            assert warehouse.rows(f'lake."Subs_{mode}"') == warehouse.rows(f"subs_{mode}")
            assert len({*warehouse.query(f'SELECT _run_id FROM lake."Subs_{mode}"')}) == (2 if mode == "append" and round_ else 1)
        limio_emulator.advance(60, changed=20, added=10)
        limio_emulator.put_records("objects/limio/subscriptions", [])
    assert not [name for name in warehouse.datasets() if name.startswith("limio_stage")]
    assert working_folders(dlt_home) == []
    summary = done.task("dlt_merge")["xcom"]
    assert summary["destination"] == warehouse.kind
    assert (summary["table"], summary["rows_before"], summary["rows_after"]) == ("lake.Subs_merge", 200, 210)
