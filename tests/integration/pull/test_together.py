# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Deletes, history, child tables, masks, contracts, checks and dry runs in one task: what each says holds beside the others."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import pytest

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_home import AirflowHome
from tests.support.clock import wait_for_another_second

SECRET = "a-masking-secret-of-32-characters"
LOAD = """
    from limio_limitrail.transfers import ChildTable
    LimioToSqlOperator(
        task_id="load", resource=Resource(name="things", path="/custom/things", primary_key=("id",), time_column="updated"),
        sql_conn_id={conn_id!r}, table="things", mode={mode!r}, on_missing={on_missing!r}, max_missing="30%",
        page_size=4, part_rows=8, mask={mask!r}, mask_conn_id="masking", new_columns={new_columns!r}, type_changes="fail",
        required_columns=["id", "email"], checks=[Check("rows_between", least={least})], dry_run={dry_run}, {more}
    )
"""
MASK = {"email": "hmac", "items.phone": "last4", "items.note": "drop"}
CHILDREN = 'child_tables={"items": ChildTable("items", key="sku")}'
# Digits alone would be found in any time of a log.
PLAIN = ("person-", "49-phone-", "a note")


def record(number: int, *, version: int = 1, **more: Any) -> dict[str, Any]:
    items = [{"sku": sku, "phone": f"+49-phone-{number:06}", "note": "a note", "n": version} for sku in range(number % 3)]
    return {
        "id": f"id-{number:02}",
        "updated": f"2026-01-{version:02}T00:00:00Z",
        "email": f"person-{number}@example.com",
        "items": items,
        **more,
    }


def content(folder: Path, conn_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Read all tables of a warehouse."""
    if conn_id == "duck":
        with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as database:
            names = [name for (name,) in database.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
            return {name: sorted(database.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr) for name in names}
    with contextlib.closing(sqlite3.connect(folder / "warehouse.sqlite")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(database.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names}


@pytest.mark.exhaustive
@pytest.mark.covering
@pytest.mark.parametrize("conn_id", ["duck", "lite"])
@pytest.mark.parametrize("mode", ["merge", "history"])
@pytest.mark.parametrize("on_missing", ["mark", "delete"])
def test_all_of_it_at_once(
    make_home, limio_emulator: EmulatorServer, tmp_path: Path, conn_id: str, mode: str, on_missing: str
) -> None:
    home: AirflowHome = make_home(limio_emulator, masking={"conn_type": "generic", "password": SECRET})

    def attempt(
        run_id: str, records: list[dict[str, Any]], *, dry_run: bool = False, new_columns: str = "add", least: int = 1
    ) -> Any:
        wait_for_another_second()
        limio_emulator.put_records("custom/things", records)
        home.write_dag(
            LOAD.format(
                conn_id=conn_id,
                mode=mode,
                on_missing=on_missing,
                mask=MASK,
                new_columns=new_columns,
                least=least,
                dry_run=dry_run,
                more=CHILDREN if mode == "merge" else "",
            )
        )
        return home.attempt("load", run_id=run_id)

    records = [record(number) for number in range(30)]
    dry = attempt("dry", records, dry_run=True).task("load")["xcom"]
    assert (dry["inserted"], dry["dry_run"]) == (30, True)
    assert content(tmp_path, conn_id) == {}
    first = attempt("1", records).task("load")["xcom"]
    assert first == {**dry, "dry_run": False, **{name: first[name] for name in ("requests", "seconds", "tokens", "waited")}}
    before = content(tmp_path, conn_id)
    assert len(before["things"]) == 30
    assert len(before.get("items", ())) == (30 if mode == "merge" else 0)

    # Five are gone, three have changed, and one has a member that is new.
    changed = [record(number, version=2) for number in range(3)]
    records = [*changed, record(3, version=2, extra=1), *(record(number) for number in range(4, 25))]
    dry = attempt("dry-2", records, dry_run=True).task("load")["xcom"]
    assert content(tmp_path, conn_id) == before
    gone = ("marked", "deleted")[on_missing == "delete" and mode == "merge"]
    assert dry[gone] == 5
    assert dry["missing_checked"] is True
    assert dry["columns_added"] == ["extra"]

    # A contract and a check that fail leave everything as it is.
    broken = attempt("broken", records, new_columns="fail")
    assert broken.task("load")["state"] in ("failed", "up_for_retry")
    assert "ContractError" in broken.result["error"]
    assert "extra" in broken.result["error"]
    refused = attempt("refused", records, least=1000)
    assert "rows_between" in refused.result["error"]
    assert content(tmp_path, conn_id) == before

    second = attempt("2", records).task("load")["xcom"]
    assert second == {**dry, "dry_run": False, **{name: second[name] for name in ("requests", "seconds", "tokens", "waited")}}
    after = content(tmp_path, conn_id)
    assert after != before
    if mode == "merge":
        kept = 30 if on_missing == "mark" else 25
        assert len(after["things"]) == kept
        # A child row belongs to a row of its parents' table.
        assert len(after["items"]) == sum(number % 3 for number in range(kept))

    # A list that has shrunk too far changes nothing, and everything returns with the whole list.
    shrunk = attempt("shrunk", records[:10])
    assert "ShrunkListError" in shrunk.result["error"]
    assert content(tmp_path, conn_id) == after
    third = attempt("3", [record(number, version=3) for number in range(30)]).task("load")["xcom"]
    assert third["rows"] == 30
    # Staging folders, logs, Airflow's database and the warehouse: no plain value is anywhere.
    raw = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not [plain for plain in PLAIN if plain.encode() in raw]
