# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Names that no record has: said, and refused where something would be exposed or lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.landed import duck, lines_of, rows_of

LIST = "checkout/abandoned"
SECRET = "https://take.over/SECRET"
RECORDS = [
    {"id": f"b{number}", "created": "2026-01-01T00:00:00Z", "recoveryLink": SECRET, "order": {"total": number}}
    for number in range(6)
]

DROPPED = [
    "'recoveryLink'",
    "\"['recoveryLink', 'order']\"",
    "('recoveryLink',)",
    "{'order', 'recoveryLink'}",
    "['{{ \"recoveryLink\" }}']",
]
"""Each hides the link."""
TOLD = {
    "drop_columns=['recoveryLink', 'phone']": ["phone"],
    "drop_columns=['recoveryLink', 'recoveryLinks']": ["recoveryLinks"],
    "drop_columns=['recoveryLink', 'RECOVERY_LINK', 'recovery-link']": ["RECOVERY_LINK", "recovery-link"],
    "drop_columns='recoveryLink', nested_columns={'total': 'order.totl', 'sum': 'order.total'}": ["total"],
    "drop_columns=['recoveryLink', 'sum'], nested_columns={'sum': 'order.total'}": [],
}
"""Each succeeds, hides the link and says these names."""
REFUSED = {
    "drop_columns='recoverylink'": "they have 'recoveryLink', which would land",
    "drop_columns=['order', 'recovery_link']": "they have 'recoveryLink', which would land",
    "drop_columns=['Recovery Link']": "they have 'recoveryLink', which would land",
    "drop_columns=['recoverylink'], transform=same": "they have 'recoveryLink', which would land",
}
"""Each would have handed the link on."""
REFUSED_BY_TABLES = {
    "primary_key='ID'": r"primary_key names 'ID', which records of 'abandoned_baskets' do not have (they have 'id')",
    "primary_key=['id', 'nope']": "primary_key names 'nope'",
    "primary_key='nope', mode='append'": "primary_key names 'nope'",
    "primary_key='nope', mode='replace'": "primary_key names 'nope'",
    "time_column='createdAt'": "time_column names 'createdAt', which no record of 'abandoned_baskets' has",
    "time_column='recoveryLink', drop_columns='recoveryLink'": "time_column names 'recoveryLink'",
    "primary_key='id', transform=without_id": "primary_key names 'id'",
}

WAYS = ["LimioToSqlOperator(sql_conn_id='duck', table='{name}', ", *(
    "LimioToObjectStorageOperator(destination='file://{folder}', format='" + form + "', " for form in ("jsonl", "parquet")
)]  # fmt: skip


@pytest.fixture
def try_all(home: Any, limio_emulator: Any, tmp_path: Path) -> Any:
    """Run one task for each way and each text of parameters; give how each ended, in that order."""

    def run(parameters: Any, *, ways: list[str] = WAYS, since: str = "2025-01-01") -> tuple[list[Any], str]:
        limio_emulator.put_records(LIST, RECORDS)
        lines = ["def same(frame): return frame", "def without_id(frame): return frame.drop(columns='id')"]
        names = []
        for one in parameters:
            for way in ways:
                names.append(f"t{len(names)}")
                begin = way.format(name=names[-1], folder=tmp_path / "out")
                usual = f"task_id='{names[-1]}', resource='abandoned_baskets', since='{since}', retries=1, retry_delay=NOW, "
                lines.append(f"{begin}{usual}{one})")
        home.write_dag("\n".join(lines))
        done = home.run()
        return [done.task(name) for name in names], home.output()

    return run


def handed_on(task: Any, *, table: str, tmp_path: Path) -> str:
    """What a task left for others, as a text."""
    if "folder" in task["xcom"]:
        return str(lines_of(task["xcom"]["folder"])) + str(rows_of(task["xcom"]["folder"]))
    return str(duck(tmp_path / "warehouse.duckdb", f"SELECT * FROM {table}"))


@pytest.mark.exhaustive
def test_a_column_to_hide_is_hidden_however_it_is_written(try_all: Any, tmp_path: Path) -> None:
    tasks, output = try_all(f"drop_columns={one}" for one in DROPPED)
    for number, task in enumerate(tasks):
        assert task["state"] == "success", output[-3000:]
        assert (task["xcom"]["rows"], task["xcom"]["columns_not_found"]) == (6, [])
        found = handed_on(task, table=f"t{number}", tmp_path=tmp_path)
        assert "b5" in found
        assert "SECRET" not in found
    assert "SECRET" not in output


@pytest.mark.exhaustive
def test_a_name_that_no_record_has_is_said(try_all: Any, tmp_path: Path) -> None:
    tasks, output = try_all(TOLD)
    for number, task in enumerate(tasks):
        assert task["state"] == "success", output[-3000:]
        assert task["xcom"]["columns_not_found"] == list(TOLD.values())[number // len(WAYS)]
        assert "SECRET" not in handed_on(task, table=f"t{number}", tmp_path=tmp_path)
    assert "drop_columns names 'phone', which no record has, so that nothing was left out for it." in output
    assert "nested_columns= reads 'total' from 'order.totl', which leads to nothing in any record" in output


@pytest.mark.exhaustive
def test_a_column_to_hide_that_has_another_spelling_is_not_handed_on(try_all: Any, tmp_path: Path) -> None:
    tasks, output = try_all(REFUSED)
    for number, task in enumerate(tasks):
        assert (task["state"], task["tries"]) == ("failed", 1)
        assert list(REFUSED.values())[number // len(WAYS)] in output
    assert not (tmp_path / "warehouse.duckdb").exists()
    assert list((tmp_path / "out").rglob("manifest.json")) == []


def test_a_key_or_a_time_that_is_not_there_ends_the_task_before_the_load(try_all: Any, tmp_path: Path) -> None:
    tasks, output = try_all(REFUSED_BY_TABLES, ways=[WAYS[0], WAYS[0].replace("duck", "lite")])
    for number, task in enumerate(tasks):
        assert (number, task["state"], task["tries"]) == (number, "failed", 1)
        assert list(REFUSED_BY_TABLES.values())[number // 2] in output
    assert not (tmp_path / "warehouse.duckdb").exists()


def test_a_key_that_is_not_there_ends_the_pull_at_its_first_part(try_all: Any, limio_emulator: Any) -> None:
    tasks, _ = try_all(["primary_key='nope', page_size=1, part_rows=1"], ways=WAYS[:1])
    assert tasks[0]["state"] == "failed"
    asked = [entry for entry in limio_emulator.counters.log if LIST in entry["path"]]
    assert len(asked) <= 3, "the first page, and what was fetched ahead; not all six"


def test_where_nothing_came_nothing_is_missing(try_all: Any) -> None:
    wrong = "drop_columns='recoverylink', nested_columns={'a': 'b.c'}"
    tasks, output = try_all([wrong, f"{wrong}, primary_key='nope', time_column='no'"], ways=WAYS[:1], since="2040-01-01")
    for task in tasks:
        assert task["state"] == "success", output[-3000:]
        assert (task["xcom"]["rows"], task["xcom"]["columns_not_found"]) == (0, [])


def test_a_name_that_comes_late_or_before_a_break_is_there(home: Any, limio_emulator: Any, tmp_path: Path) -> None:
    records = [{**RECORDS[0], "id": f"b{number}"} for number in range(6)]
    records[0]["first"] = records[5]["last"] = None
    limio_emulator.put_records(LIST, records)
    home.write_dag(
        "\n".join(
            f"LimioToObjectStorageOperator(task_id='{form}', destination='file://{tmp_path}/out', format='{form}', page_size=1, "
            "part_rows=1, resource='abandoned_baskets', since='2025-01-01', "
            "drop_columns=['first', 'last', 'recoveryLink', 'none'])"
            for form in ("jsonl", "parquet")
        )
    )
    for form in ("jsonl", "parquet"):
        assert home.attempt(form, run_id=form, kill=["after part", 3]).code == -9
        task = home.attempt(form, run_id=form).task(form)
        assert task["state"] == "success", home.output()[-3000:]
        assert task["xcom"]["columns_not_found"] == ["none"]


def test_a_resources_own_names(home: Any, limio_emulator: Any) -> None:
    limio_emulator.put_records("custom/things", [{"id": "1", "v": 1}, {"id": "1", "v": 2}])
    home.write_dag(
        """
        things = Resource(name="things", path="/custom/things", primary_key=("uid",), time_column="changed")
        for mode in ("merge", "append"):
            LimioToSqlOperator(task_id=mode, resource=things, sql_conn_id="duck", table=mode, mode=mode, retries=2)
        """
    )
    done = home.run()
    output = home.output()
    assert (done.task("merge")["state"], done.task("merge")["tries"]) == ("failed", 1)
    assert "the records of 'things' do not have the column 'uid' of its primary key" in output
    assert done.task("append")["state"] == "success"
    assert "no record has the column 'uid' of its primary key" in output
    assert "things: no time could be read from 'changed' in any record" in output
