# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Contracts and checks of tables in real task runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_home import AirflowHome
from tests.support.landed import duck, duck_rows

THINGS = 'Resource(name="things", path="/custom/things", primary_key=("id",))'


def things(server: EmulatorServer, *records: bytes) -> None:
    server.put_records("custom/things", list(records))


def test_a_broken_contract_leaves_the_table_and_a_retry_asks_the_api_again(
    home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path
) -> None:
    home.write_dag(
        f"""
        LimioToSqlOperator(
            task_id="land", resource={THINGS}, sql_conn_id="duck", table="things", outlets=[Asset("things")],
            new_columns="{{{{ 'fail' }}}}", type_changes="fail", required_columns="a",
            checks=[Check("rows_between", most=1), {{"sql": "SELECT count(*) = 0 FROM {{{{ '{{table}}' }}}} WHERE a = 'bad'"}}],
        )
        """
    )
    file = tmp_path / "warehouse.duckdb"
    things(limio_emulator, b'{"id":1,"a":"x"}')
    assert home.attempt("land").task("land")["state"] == "success"
    things(limio_emulator, b'{"id":2,"a":"bad"}')
    assert "2 of 2 checks failed: 'rows_between' (the table has 2 rows" in home.attempt("land", run_id="two").result["error"]
    things(limio_emulator, b'{"id":1,"a":"y","b":1}')
    failed = home.attempt("land", run_id="three")
    assert "ContractError" in failed.result["error"]
    assert "the table lacks: 'b' (integer)" in home.output()
    assert failed.task("land")["events"] == []
    assert duck(file, "SELECT id, a FROM things") == [(1, "x")]
    # The API is right again.
    things(limio_emulator, b'{"id":1,"a":"x"}')
    assert home.attempt("land", run_id="three").task("land")["xcom"]["unchanged"] == 1


def test_the_summary_and_the_event_name_what_was_ignored(
    home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path
) -> None:
    home.write_dag(
        f"""
        LimioToSqlOperator(
            task_id="land", resource={THINGS}, sql_conn_id="duck", table="things", outlets=[Asset("things")],
            new_columns="IGNORE",
        )
        """
    )
    things(limio_emulator, b'{"id":1}')
    home.attempt("land")
    things(limio_emulator, b'{"id":1,"b":2}', b'{"id":2,"c":[]}')
    done = home.attempt("land", run_id="two").task("land")
    assert done["xcom"]["columns_ignored"] == ["b", "c"]
    assert done["events"] == [done["xcom"]]
    assert list(duck_rows(tmp_path / "warehouse.duckdb", "things")[0]) == ["id", "_extracted_at", "_run_id"]


@pytest.mark.parametrize("needed", ['required_columns="day"', 'partition_column="day", outlets=[Asset("things")]'])
@pytest.mark.needs_state_store
def test_a_needed_column_cannot_be_masked_away(home: AirflowHome, limio_emulator: EmulatorServer, needed: str) -> None:
    home.write_dag(
        f"""
        LimioToSqlOperator(
            task_id="land", resource={THINGS}, sql_conn_id="duck", table="things", nested_columns={{"day": "data.at.day"}},
            mask={{"data.at": "drop"}}, {needed},
        )
        """
    )
    assert home.attempt("land").task("land")["xcom"] is None
    assert "mask drops 'day', which " in home.output()
    assert limio_emulator.counters.log == []


@pytest.mark.parametrize("name", ["_sources", "_deleted_at"])
def test_columns_that_records_have_filled_are_found_before_the_pull(
    home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path, name: str
) -> None:
    land = f'LimioToSqlOperator(task_id="land", resource={THINGS}, sql_conn_id="duck", table="things", on_missing='
    home.write_dag(f'{land}"keep")')
    things(limio_emulator, json.dumps({"id": 1, name: "theirs"}).encode())
    home.attempt("land")
    limio_emulator.counters.reset()
    home.write_dag(f'{land}"delete")')
    home.attempt("land", run_id="two")
    assert f"the table has a column '{name}' that records or others have filled" in home.output()
    assert limio_emulator.counters.log == []
    assert duck(tmp_path / "warehouse.duckdb", f"SELECT id, {name} FROM things") == [(1, "theirs")]


def test_a_column_cannot_be_required_and_dropped(home: AirflowHome, limio_emulator: EmulatorServer) -> None:
    home.write_dag(
        f"""
        LimioToSqlOperator(
            task_id="land", resource={THINGS}, sql_conn_id="duck", table="things", required_columns="a", drop_columns=["a"],
        )
        """
    )
    assert home.attempt("land").task("land")["xcom"] is None
    assert "required_columns and drop_columns both name 'a'" in home.output()
    assert limio_emulator.counters.log == []
