# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads by dlt's destinations end with the same rows as loads by our own code."""

from __future__ import annotations

import json

import pytest

MODES = ("merge", "append", "replace")


def working_folders(home):
    return [path for path in (home.path / "tmp").rglob("*") if path.name.startswith("dlt-")]


def failed(home, task_id="load", **kwargs):
    outcome = home.attempt(task_id, **kwargs)
    assert outcome.task(task_id)["state"] == "failed", outcome.result
    return outcome.result["error"]


def loaded(home, task_id="load", **kwargs):
    outcome = home.attempt(task_id, **kwargs)
    assert outcome.task(task_id)["state"] == "success", home.output()[-6000:]
    return outcome.task(task_id)["xcom"]


@pytest.mark.exhaustive
def test_the_rows_and_types_are_those_of_our_own_loads(dlt_home, limio_emulator, warehouse):
    dlt_home.write_dag(
        f"""
        common = dict(resource="subscriptions", page_size=40, part_rows=80, nested_columns={{"offerPath": "data.offer.path"}})
        for mode in {MODES}:
            LimioToDltOperator(
                task_id="dlt_" + mode, destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r},
                dataset="lake", table="Subs_" + mode, mode=mode, **common,
            )
            LimioToSqlOperator(
                task_id="sql_" + mode, sql_conn_id={warehouse.conn_id!r}, table="subs_" + mode, mode=mode, **common
            )
        """
    )
    for _ in range(2):
        done = dlt_home.run()
        assert done.result["state"] == "success", dlt_home.output()[-6000:]
        for mode in MODES:
            assert warehouse.columns(f"Subs_{mode}") == warehouse.columns(f"subs_{mode}")
            assert warehouse.rows(f'lake."Subs_{mode}"') == warehouse.rows(f"subs_{mode}")
        limio_emulator.advance(60, changed=20, added=10)
    assert warehouse.stages() == []
    assert working_folders(dlt_home) == []
    summary = done.task("dlt_merge")["xcom"]
    assert summary["destination"] == warehouse.kind
    assert (summary["table"], summary["rows_before"], summary["rows_after"]) == ("lake.Subs_merge", 200, 210)
    assert done.task("dlt_append")["xcom"]["rows_after"] == 410


# fmt: off
DAYS = (
    [
        {"id": "1", "t": "2026-01-01T00:00:00Z", "n": 1, "big": 1, "yes": True, "tags": ["a"]},
        {"id": "2", "t": "2026-01-01T00:00:00Z", "n": 2, "big": 9007199254740993, "yes": False, "tags": {"b": 1.50}},
        {"id": "3", "t": "2026-01-01T00:00:00Z", "n": 3, "big": 0.5, "yes": None, "tags": []},
    ],
    # A column more, wider columns, a column that nobody brings, and two records less.
    [
        {"id": "1", "t": "2026-01-02T00:00:00Z", "n": 1.5, "when": "2026-01-01T01:02:03.123456+02:00", "tags": "text"},
        {"id": "4", "t": "2026-01-02T00:00:00Z", "n": 4, "yes": "perhaps", "when": None, "Id": 5},
    ],
    [],
)
# fmt: on


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", MODES)
def test_drift_and_deletes_end_as_in_our_own_loads(dlt_home, limio_emulator, warehouse, mode):
    dlt_home.write_dag(
        f"""
        things = Resource(
            name="things", path="/custom/things", primary_key=("id",), time_column="t", timestamps=("t", "when"),
        )
        common = dict(resource=things, mode={mode!r}, max_missing="100%", part_rows=2)
        LimioToDltOperator(
            task_id="dlt", destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r}, dataset="lake",
            table="Things", **common,
        )
        LimioToSqlOperator(task_id="sql", sql_conn_id={warehouse.conn_id!r}, table="things", **common)
        """
    )
    for records in DAYS:
        limio_emulator.put_records("custom/things", [json.dumps(record).encode() for record in records])
        done = dlt_home.run()
        assert done.result["state"] == "success", dlt_home.output()[-6000:]
        assert warehouse.columns("Things") == warehouse.columns("things")
        assert warehouse.rows('lake."Things"') == warehouse.rows("things")


# fmt: off
ODD = [
    {
        "id": "1", "t": "2026-01-01T00:00:00Z", "n": 9007199254740993, "u": "\u00e9\U0001f600 \0", "createdAt": "",
        "a;b": {"b": 1.50, "a": [2]}, "Id": "other", "dotted.key": True, 'q"q': 0.1, "{braces}": "x", "_run_id": "theirs",
    },
    {
        "id": "2", "t": "2026-01-01T00:00:00Z", "n": None, "u": 'it\'s \\ "quoted"\n\t,', "a;b": [], "dotted.key": False,
        'q"q': 1e300,
    },
    {"id": "1", "t": "2026-01-02T00:00:00Z", "n": -1, "u": "newer", "a;b": None},
    {"id": "2", "t": "2025-01-02T00:00:00Z", "n": 7, "u": "older"},
]
# fmt: on


@pytest.mark.sampled(1)
def test_values_and_names_are_stored_as_they_came(dlt_home, limio_emulator, warehouse):
    limio_emulator.put_records("custom/things", [json.dumps(record).encode() for record in ODD])
    dlt_home.write_dag(
        f"""
        things = Resource(name="things", path="/custom/things", primary_key=("id",), time_column="t", timestamps=("t",))
        LimioToDltOperator(
            task_id="dlt", destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r}, dataset="lake",
            table="Things", resource=things, page_size=1, part_rows=2,
        )
        LimioToSqlOperator(task_id="sql", sql_conn_id={warehouse.conn_id!r}, table="things", resource=things, part_rows=2)
        """
    )
    done = dlt_home.run()
    assert done.result["state"] == "success", dlt_home.output()[-6000:]
    assert done.task("dlt")["xcom"]["duplicates"] == 2
    assert warehouse.columns("Things") == warehouse.columns("things")
    assert warehouse.rows('lake."Things"') == warehouse.rows("things")


@pytest.mark.sampled(1)
def test_a_late_run_makes_no_row_older(dlt_home, limio_emulator, warehouse):
    dlt_home.write_dag(
        f"""
        LimioToDltOperator(
            task_id="load", resource="subscriptions", destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r},
            dataset="lake", table="subs",
        )
        LimioToSqlOperator(task_id="own", resource="subscriptions", sql_conn_id={warehouse.conn_id!r}, table="truth")
        """
    )
    dlt_home.attempt("load", run_id="late", kill=["before dlt extract", 1])
    limio_emulator.advance(60, changed=50, added=10)
    for task in ("load", "own"):
        loaded(dlt_home, task, run_id="on_time")
    loaded(dlt_home, run_id="late")
    assert warehouse.rows("lake.subs") == warehouse.rows("truth")


@pytest.mark.exhaustive
def test_two_runs_at_once(dlt_home, limio_emulator, warehouse):
    dlt_home.write_dag(
        f"""
        for mode in ("merge", "append"):
            LimioToDltOperator(
                task_id=mode, resource="subscriptions", destination={warehouse.kind!r}, mode=mode,
                destination_conn_id={warehouse.conn_id!r}, dataset="lake", table=mode,
            )
        """
    )
    tries = [(mode, run_id) for mode in ("merge", "append") for run_id in ("one", "two")]
    for mode, run_id in tries:
        dlt_home.attempt(mode, run_id=run_id, kill=["before request", 1])
    begun = [(mode, dlt_home.begin("attempt", "pull", task_id=mode, run_id=run_id)) for mode, run_id in tries]
    for mode, pid in begun:
        assert dlt_home.join(pid).task(mode)["state"] == "success", dlt_home.output()[-6000:]
    assert (warehouse.count("lake.merge"), warehouse.count("lake.append")) == (200, 400)
    assert warehouse.stages() == []


@pytest.mark.exhaustive
def test_columns_that_come_later(dlt_home, limio_emulator, warehouse):
    limio_emulator.put_records("custom/things", [b'{"id":"1","n":1}'])
    ways = ("add", "ignore", "fail")
    dlt_home.write_dag(
        f"""
        things = Resource(name="things", path="/custom/things", primary_key=("id",))
        for way in {ways}:
            LimioToDltOperator(
                task_id=way, destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r}, dataset="lake",
                table="t_" + way, resource=things, new_columns=way,
                type_changes="fail" if way == "fail" else "widen",
            )
        """
    )
    for way in ways:
        loaded(dlt_home, way, run_id="one")
    limio_emulator.put_records("custom/things", [b'{"id":"2","n":2,"newKey":true}'])
    added = loaded(dlt_home, "add", run_id="two")
    assert added["columns_added"] == ["newKey"]
    assert [row[-1] for row in warehouse.query('SELECT "newKey" FROM lake.t_add ORDER BY id')] == [None, True]
    assert loaded(dlt_home, "ignore", run_id="two")["columns_ignored"] == ["newKey"]
    assert "newKey" in failed(dlt_home, "fail", run_id="two")
    limio_emulator.put_records("custom/things", [b'{"id":"3","n":"text"}'])
    assert loaded(dlt_home, "ignore", run_id="three")["columns_widened"] == ["n"]
    assert warehouse.query("SELECT id, n FROM lake.t_ignore ORDER BY id") == [("1", "1"), ("2", "2"), ("3", "text")]
    error = failed(dlt_home, "fail", run_id="three")
    assert "is bigint and would become text" in error
    # A table that is gone is made again, although dlt has noted that it made it.
    warehouse.change("DROP TABLE lake.t_fail")
    loaded(dlt_home, "fail", run_id="four")
    assert warehouse.count("lake.t_fail") == 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_nothing_shrinks_unasked_and_a_repeated_append_takes_back(dlt_home, limio_emulator, warehouse):
    limio_emulator.put_records("custom/things", [b'{"id":"%d"}' % at for at in range(40)])
    dlt_home.write_dag(
        f"""
        things = Resource(name="things", path="/custom/things", primary_key=("id",))
        for mode, most in (("replace", "20%"), ("replace", "100%"), ("append", "20%")):
            LimioToDltOperator(
                task_id=mode + most.strip("%"), destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r},
                dataset="lake", table=mode, resource=things, mode=mode, max_missing=most,
            )
        """
    )
    for task in ("replace20", "append20"):
        loaded(dlt_home, task, run_id="one")
    limio_emulator.put_records("custom/things", [])
    assert "40 of 40 known rows" in failed(dlt_home, "replace20", run_id="two")
    assert warehouse.count("lake.replace") == 40
    for task in ("replace100", "append20"):
        loaded(dlt_home, task, run_id="one")
    assert (warehouse.count("lake.replace"), warehouse.count("lake.append")) == (0, 0)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
@pytest.mark.parametrize("former", [None, b"1"], ids=["a new column", "nulls"])
def test_a_key_that_the_rows_of_the_table_do_not_have(dlt_home, limio_emulator, warehouse, former):
    dag = f"""
    things = Resource(name="things", path="/custom/things", primary_key=KEY)
    for mode in ("merge", "history", "append"):
        LimioToDltOperator(
            task_id=mode, destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r}, dataset="lake",
            table="of_" + mode, resource=things, mode=mode,
        )
    """
    before = b'{"id":"a"}' if former is None else b'{"id":"a","line":null},{"id":"b","line":%s}' % former
    came = 1 + (former is not None)
    for run, (key, records, rows) in enumerate(
        [("('id',)", before, (came,) * 3), ("('id', 'line')", b'{"id":"a","line":0}', (came, came, came + 1))]
    ):
        limio_emulator.put_records("custom/things", json.loads(b"[" + records + b"]"))
        dlt_home.write_dag(dag.replace("KEY", key))
        done = dlt_home.run()
        states = [done.task(mode)["state"] for mode in ("merge", "history", "append")]
        assert states == (["success"] * 3 if not run else ["failed", "failed", "success"]), dlt_home.output()[-6000:]
        assert tuple(warehouse.count(f"lake.of_{mode}") for mode in ("merge", "history", "append")) == rows
    assert dlt_home.output().count("the table has rows without a value in ") >= 2


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
def test_rows_that_the_table_has_lost_are_pulled_again(dlt_home, limio_emulator, warehouse):
    dlt_home.write_dag(
        """
        LimioToDltOperator(
            task_id="load", resource="abandoned_baskets", destination="duckdb", destination_conn_id="duck", dataset="lake",
            table="baskets", incremental=True, outlets=[Asset("baskets")], since="2026-01-01",
        )
        LimioToDltOperator(
            task_id="add", resource="abandoned_baskets", destination="duckdb", destination_conn_id="duck", dataset="lake",
            table="added", mode="append", incremental=True, outlets=[Asset("added")], since="2026-01-01",
        )
        """
    )
    baskets = [{"id": str(day), "created": f"2026-03-0{day}T00:00:00.000Z", "order": {"total": day}} for day in (1, 2, 3)]
    limio_emulator.put_records("checkout/abandoned", [json.dumps(basket).encode() for basket in baskets])
    assert loaded(dlt_home, run_id="one")["rows"] == 3
    assert loaded(dlt_home, run_id="two")["rows"] == 1
    warehouse.change("DELETE FROM lake.baskets WHERE id = '3'")
    assert loaded(dlt_home, run_id="three")["rows"] == 3
    warehouse.change("DROP TABLE lake.baskets")
    assert loaded(dlt_home, run_id="four")["rows"] == 3
    assert warehouse.count("lake.baskets") == 3
    # Another task finds that the table is gone.
    warehouse.change("DELETE FROM lake.baskets WHERE id <> '3'")
    warehouse.change("UPDATE lake.baskets SET _run_id = 'another', _extracted_at = _extracted_at + INTERVAL 1 HOUR")
    assert "filled again by others" in loaded(dlt_home, run_id="five")["reason"]
    assert warehouse.count("lake.baskets") == 3
    # From the start, an append would add the rows that are left.
    assert loaded(dlt_home, "add", run_id="one")["rows"] == 3
    warehouse.change("DELETE FROM lake.added WHERE id = '3'")
    assert "would add the rows that are left a second time" in failed(dlt_home, "add", run_id="two")
    assert warehouse.count("lake.added") == 2


def test_a_destination_that_cannot_keep_a_promise_is_refused_before_the_pull(make_home, limio_emulator, tmp_path):
    home = make_home(limio_emulator, key={"conn_type": "generic", "password": "a long random text of the tests"})
    home.write_dag(
        f"""
        def lake():
            import dlt
            return dlt.destinations.filesystem("file://{tmp_path}/lake")

        def nothing():
            return None

        def sqlite():
            import dlt
            return dlt.destinations.sqlalchemy("sqlite:///{tmp_path}/other.db")

        def other():
            import dlt
            return dlt.destinations.sqlalchemy("postgresql+psycopg2://nobody@/nothing?host={tmp_path}")

        common = dict(resource="subscriptions", dataset="lake", table="subs")
        LimioToDltOperator(task_id="other", destination=other, **common)
        LimioToDltOperator(task_id="sqlite", destination=sqlite, **common)
        LimioToDltOperator(task_id="files", destination=lake, **common)
        LimioToDltOperator(task_id="nothing", destination=nothing, **common)
        LimioToDltOperator(task_id="unknown", destination="sqlserver", destination_conn_id="duck", **common)
        LimioToDltOperator(task_id="no_connection", destination="duckdb", **common)
        LimioToDltOperator(
            task_id="own", destination="duckdb", destination_conn_id="duck", resource="subscriptions", dataset="lake",
            table="_dlt_loads",
        )
        LimioToDltOperator(
            task_id="masked", destination="duckdb", destination_conn_id="duck", mask={{"id": "hmac"}}, mask_conn_id="key",
            **common,
        )
        """
    )
    assert "mode='merge' cannot replace rows within Parquet files" in failed(home, "files")
    assert "is no destination of dlt's" in failed(home, "nothing")
    assert "destination='sqlserver' must be one of athena" in failed(home, "unknown")
    assert "needs destination_conn_id" in failed(home, "no_connection")
    assert "are dlt's own" in failed(home, "own")
    assert "belongs to the primary key" in failed(home, "masked")
    assert "use LimioToSqlOperator" in failed(home, "sqlite")
    assert "loads MySQL and MariaDB here, and not postgresql" in failed(home, "other")
    assert limio_emulator.counters.log == []
    assert not (tmp_path / "lake").exists()
    assert list(tmp_path.glob("other*")) == []
