# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into MariaDB by dlt's sqlalchemy destination: the same rows as our own loads have, whatever is killed or repeated."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from tests.support.landed import duck
from tests.support.mariadb import PASSWORD, query
from tests.support.secrets_left import forms_of

pytestmark = pytest.mark.needs_mariadb

SIGKILL = -9
STEPS = ("after dlt extract", "before dlt statements", "after dlt statements", "after dlt load")


@pytest.fixture
def maria_home(make_home, limio_emulator, mariadb_connection):
    return make_home(limio_emulator, maria=mariadb_connection)


@pytest.fixture
def rows(mariadb_connection):
    def _rows(sql):
        return query(mariadb_connection, sql)

    return _rows


def loader(task_id="load", *, resource='"subscriptions"', mode="merge", more=""):
    return f"""
        LimioToDltOperator(
            task_id={task_id!r}, resource={resource}, destination="sqlalchemy", destination_conn_id="maria", dataset="lake",
            table={task_id!r}, mode={mode!r}, {more}
        )
        """


def done(home, task_id="load", **kwargs):
    outcome = home.attempt(task_id, **kwargs)
    assert outcome.task(task_id)["state"] == "success", home.output()[-6000:]
    return outcome.task(task_id)["xcom"]


def failed(home, task_id="load", **kwargs):
    outcome = home.attempt(task_id, **kwargs)
    assert outcome.task(task_id)["state"] == "failed", outcome.result
    return outcome.result["error"]


def as_text(value):
    """A value as DuckDB writes it as text."""
    if isinstance(value, bool) or value is None:
        return value
    return f"{value:%Y-%m-%d %H:%M:%S.%f}".rstrip("0").rstrip(".") if hasattr(value, "year") else str(value)


def plain(found, *, booleans):
    return sorted(
        [as_text(bool(value) if at in booleans and value is not None else value) for at, value in enumerate(row)] for row in found
    )


def test_the_rows_are_those_of_our_own_loads(maria_home, limio_emulator, rows, tmp_path):
    maria_home.write_dag(
        loader("merge", more='nested_columns={"path": "data.offer.path"}')
        + loader("append", mode="append")
        + loader("replace", mode="replace")
        + """
        LimioToSqlOperator(
            task_id="own", resource="subscriptions", sql_conn_id="duck", table="own", nested_columns={"path": "data.offer.path"}
        )
        """
    )
    warehouse = tmp_path / "warehouse.duckdb"
    for changed in (0, 20):
        if changed:
            limio_emulator.advance(60, changed=changed, added=changed // 2)
        result = maria_home.run()
        assert result.result["state"] == "success", maria_home.output()[-6000:]
        columns = duck(warehouse, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'own'")
        names = [name for name, _ in columns if name not in ("_run_id", "_extracted_at", "path")]
        booleans = [at for at, name in enumerate(names) if dict(columns)[name] == "BOOLEAN"]
        casts = ", ".join(
            f"CAST(\"{name}\" AT TIME ZONE 'UTC' AS TIMESTAMP)" if "TIME ZONE" in dict(columns)[name] else f'"{name}"'
            for name in names
        )
        ours = plain(duck(warehouse, f"SELECT {casts} FROM own"), booleans=booleans)
        listed = ", ".join(f"`{name}`" for name in names)
        for table in ("merge", "replace"):
            assert plain(rows(f"SELECT {listed} FROM lake.`{table}`"), booleans=booleans) == ours
    assert result.task("append")["xcom"]["rows_after"] == 200 + 210
    assert [name for [name] in rows("SHOW DATABASES") if name.startswith("limio_stage")] == []


# fmt: off
ODD = [
    {"id": "a", "t": "2026-01-01T00:00:00Z", "n": 9007199254740993, "u": "é\U0001f600 \0", "yes": True, "x": "y" * 70_000},
    {"id": "A", "t": "2026-01-01T00:00:00Z", "n": -1, "u": 'it\'s \\ "quoted" %s :name\n\t', "j": {"b": 1.50, "a": [2]}},
    {"id": "a ", "t": "2026-01-01T00:00:00.123456Z", "n": None, "u": "", "yes": False, "j": []},
]
# fmt: on


def test_keys_and_values_are_stored_by_their_bytes(maria_home, limio_emulator, rows):
    limio_emulator.put_records("custom/things", [json.dumps(record).encode() for record in ODD])
    things = 'Resource(name="things", path="/custom/things", primary_key=("id",), time_column="t", timestamps=("t",))'
    maria_home.write_dag(loader(resource=things))
    for run_id in ("one", "two"):
        assert done(maria_home, run_id=run_id)["rows_after"] == 3
    found = {row[0]: row[1:] for row in rows("SELECT id, n, u, yes, length(x), j, _run_id FROM lake.load")}
    assert found["a"][:4] == (9007199254740993, "é\U0001f600 \\u0000", 1, 70_000)
    assert found["A"][:2] == (-1, ODD[1]["u"])
    assert json.loads(found["A"][4], parse_float=Decimal) == {"b": Decimal("1.5"), "a": [2]}
    assert found["a "][:3] == (None, "", 0)
    assert {row[-1] for row in found.values()} == {found["a"][-1]}


@pytest.mark.needs_state_store
@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_a_killed_load_is_made_good(maria_home, limio_emulator, rows, mode):
    maria_home.write_dag(loader(mode=mode, more='page_size=50, part_rows=100, outlets=[Asset("subs")],'))
    truth = sorted(row["id"] for row in limio_emulator.tenant.rows_of("subscriptions"))
    for number, step in enumerate(STEPS, start=1):
        run_id = f"run-{number}"
        assert maria_home.attempt("load", run_id=run_id, kill=[step, 1]).code == SIGKILL, step
        if mode == "replace" and number > 1:
            assert rows("SELECT count(*) FROM lake.load") == [(len(truth),)], step
        done(maria_home, run_id=run_id)
        found = sorted(row_id for [row_id] in rows("SELECT id FROM lake.load"))
        assert found == sorted(truth * (number if mode == "append" else 1)), step
    assert [name for [name] in rows("SHOW DATABASES") if name.startswith("limio_stage")] == []


@pytest.mark.needs_state_store
def test_a_late_run_makes_no_row_older_and_two_at_once_double_none(maria_home, limio_emulator, rows):
    maria_home.write_dag(loader() + loader("append", mode="append"))
    maria_home.attempt("load", run_id="late", kill=["before dlt extract", 1])
    limio_emulator.advance(60, changed=50, added=10)
    done(maria_home, run_id="on_time")
    newest = rows("SELECT id, updated FROM lake.load ORDER BY id")
    done(maria_home, run_id="late")
    assert rows("SELECT id, updated FROM lake.load ORDER BY id") == newest
    tries = [(task_id, run_id) for task_id in ("load", "append") for run_id in ("one", "two")]
    for task_id, run_id in tries:
        maria_home.attempt(task_id, run_id=run_id, kill=["before request", 1])
    begun = [(task_id, maria_home.begin("attempt", "pull", task_id=task_id, run_id=run_id)) for task_id, run_id in tries]
    for task_id, pid in begun:
        assert maria_home.join(pid).task(task_id)["state"] == "success", maria_home.output()[-6000:]
    assert rows("SELECT count(*), count(DISTINCT id) FROM lake.load") == [(210, 210)]
    assert rows("SELECT count(*), count(DISTINCT id) FROM lake.append") == [(420, 210)]


def test_drift_and_what_is_refused(maria_home, limio_emulator, rows):
    things = 'Resource(name="things", path="/custom/things", primary_key=("id",))'
    maria_home.write_dag(loader(resource=things) + loader("history", resource=things, mode="history"))
    assert "use mode='merge'" in failed(maria_home, "history")
    assert limio_emulator.counters.log == []
    limio_emulator.put_records("custom/things", [b'{"id":"1","n":1,"yes":true}'])
    done(maria_home, run_id="one")
    limio_emulator.put_records("custom/things", [b'{"id":"2","n":0.5,"newKey":true}'])
    assert done(maria_home, run_id="two")["columns_added"] == ["newKey"]
    limio_emulator.put_records("custom/things", [b'{"id":"3","n":"text"}'])
    assert "is double, and values came that need text" in failed(maria_home, run_id="three")
    limio_emulator.put_records("custom/things", [b'{"id":"4","yes":"perhaps"}'])
    assert "is bool, and values came that need text" in failed(maria_home, run_id="four")
    limio_emulator.put_records("custom/things", [b'{"id":"5","100%":1}'])
    assert "a colon, a percent sign or a backtick" in failed(maria_home, run_id="five")
    assert rows("SELECT id, n, yes, newKey FROM lake.load ORDER BY id") == [("1", 1.0, 1, None), ("2", 0.5, None, 1)]


def test_no_file_log_or_error_holds_the_password(maria_home, mariadb_connection):
    maria_home.connect({"away": {**mariadb_connection, "port": 9}})
    maria_home.write_dag(loader().replace('"maria"', '"away"'))
    assert PASSWORD not in failed(maria_home)
    held = [
        path for path in maria_home.path.rglob("*") if path.is_file() and any(f in path.read_bytes() for f in forms_of(PASSWORD))
    ]
    assert held == []
