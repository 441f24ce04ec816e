# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""dlt pipelines of users' own load our lists."""

from __future__ import annotations

import json
import runpy
from datetime import UTC, datetime

import duckdb
import pytest

from limio_limitrail.api.errors import ApiError, ParameterError
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.dlt_source import limio_source, limitrail_source
from tests.support.airflow_home import ROOT
from tests.support.secrets_left import forms_of

dlt = pytest.importorskip("dlt")

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path, limio_emulator):
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
    monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", limio_emulator.limitrail_connection_json())
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    # Else dlt looks for its settings among the variables of the Airflow that is here.
    monkeypatch.setenv("PROVIDERS__ENABLE_AIRFLOW_SECRETS", "false")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pipeline(tmp_path):
    made = dlt.pipeline(
        "shop",
        pipelines_dir=str(tmp_path / "pipelines"),
        destination=dlt.destinations.duckdb(str(tmp_path / "shop.duckdb")),
        dataset_name="data",
    )
    yield made
    made.deactivate()


def query(tmp_path, sql):
    with duckdb.connect(str(tmp_path / "shop.duckdb"), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(sql).fetchall()


def test_lists_are_loaded_whole_and_merged(pipeline, limio_emulator, tmp_path):
    def load():
        pipeline.run(limio_source(resources=["subscriptions", "orders"], page_size=30))
        return query(tmp_path, "SELECT id, updated, data FROM data.subscriptions ORDER BY id")

    first = load()
    assert [row[0] for row in first] == sorted(row["id"] for row in limio_emulator.tenant.rows_of("subscriptions"))
    types = dict(
        query(tmp_path, "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'subscriptions'")
    )
    assert (types["updated"], types["data"]) == ("TIMESTAMP WITH TIME ZONE", "JSON")
    limio_emulator.advance(60, changed=20, added=10)
    second = load()
    assert (len(first), len(second)) == (200, 210)
    assert sum(row not in first for row in second) == 30
    records = {row["id"]: row for row in limio_emulator.tenant.rows_of("subscriptions")}
    assert all(json.loads(data) == records[key]["data"] for key, _, data in second)


def put(emulator, *records):
    emulator.put_records("custom/things", [json.dumps(record).encode() for record in records])


THINGS = Resource(name="things", path="/custom/things", primary_key=("id",), time_column="t", timestamps=("t",))


@pytest.mark.exhaustive
def test_a_column_has_one_type_whatever_page_a_value_is_on(pipeline, limio_emulator, tmp_path):
    put(
        limio_emulator,
        {"id": "1", "n": None, "t": "2026-01-01T00:00:00Z", "big": 2**60, "none": None},
        {"id": "2", "n": 1, "t": "2026-01-01T00:00:00Z", "big": 1},
        {"id": "3", "n": 1.5, "t": None, "tags": ["x", {"y": 1}]},
        {"id": "4", "n": "text", "camelCase": True},
    )
    pipeline.run(limio_source(resources=[THINGS], page_size=1))
    rows = query(tmp_path, "SELECT id, n, big, tags, camel_case FROM data.things ORDER BY id")
    assert rows == [
        ("1", None, 2**60, None, None),
        ("2", "1", 1, None, None),
        ("3", "1.5", None, '["x", {"y": 1}]', None),
        ("4", "text", None, None, True),
    ]


@pytest.mark.exhaustive
def test_the_newest_of_a_key_is_loaded(pipeline, limio_emulator, tmp_path):
    put(
        limio_emulator,
        {"id": "1", "v": "newer", "t": "2026-01-02T00:00:00Z"},
        {"id": "1", "v": "older", "t": "2026-01-01T00:00:00Z"},
    )
    pipeline.run(limio_source(resources=[THINGS]))
    assert query(tmp_path, "SELECT v FROM data.things") == [("newer",)]


@pytest.mark.exhaustive
def test_an_incremental_list_is_asked_for_what_came_since(pipeline, limio_emulator, tmp_path):
    baskets = [{"id": str(day), "created": f"2026-03-0{day}T00:00:00.000Z", "order": {"total": day}} for day in (1, 2, 3)]

    def load():
        limio_emulator.put_records("checkout/abandoned", [json.dumps(basket).encode() for basket in baskets])
        before = len(limio_emulator.counters.log)
        pipeline.run(limio_source(resources=["abandoned_baskets"], incremental=True, since=SINCE))
        asked = [str(one) for one in limio_emulator.counters.log[before:]]
        return query(tmp_path, "SELECT count(*) FROM data.abandoned_baskets")[0][0], "".join(asked)

    assert load()[0] == 3
    baskets.append({"id": "4", "created": "2026-03-04T00:00:00.000Z"})
    rows, _ = load()
    assert rows == 4
    state = pipeline.state["sources"]["limio"]["resources"]["abandoned_baskets"]["incremental"]["created"]
    assert str(state["last_value"]).startswith("2026-03-04")
    assert state["unique_hashes"] == []
    # What is older than the overlap is not read again, even where the list had it all along.
    baskets.append({"id": "0", "created": "2026-02-01T00:00:00.000Z"})
    assert load()[0] == 4
    pipeline.run(limio_source(resources=["abandoned_baskets"], since=SINCE))
    assert query(tmp_path, "SELECT count(*) FROM data.abandoned_baskets") == [(5,)]


def test_errors_are_ours_and_no_secret_is_left(pipeline, limio_emulator, tmp_path, monkeypatch):
    connection = json.loads(limio_emulator.airflow_connection_json())
    secret = connection["password"]
    pipeline.run(limio_source(resources=["subscriptions"]))
    with pytest.raises(Exception, match="custom/nowhere") as failed:
        pipeline.run(limio_source(resources=[Resource(name="nowhere", path="/custom/nowhere")]))
    chain, error = [], failed.value
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    assert any(isinstance(one, ApiError) for one in chain)
    assert secret not in "".join(map(str, chain))
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert not [content for content in kept if any(form in content for form in forms_of(secret))]
    assert secret not in json.dumps(pipeline.state, default=str) + str(pipeline.last_trace)
    assert not list(tmp_path.rglob("limio_limitrail-*"))


@pytest.mark.exhaustive
def test_a_list_of_limitrail_goes_into_files(limio_emulator, tmp_path):
    made = dlt.pipeline(
        "rail",
        pipelines_dir=str(tmp_path / "pipelines"),
        destination=dlt.destinations.filesystem(f"file://{tmp_path}/files"),
        dataset_name="rail",
    )
    limio_emulator.limitrail.add_usage([{"committedAt": "2026-02-01T00:00:00Z", "amount": "1.50"}])
    source = limitrail_source(resources=["usage"], scope="limitrail.usage.read", since=SINCE)
    for _ in range(2):
        made.run(source, loader_file_format="parquet", write_disposition="replace")
    with duckdb.connect() as connection:
        [(rows,)] = connection.sql(f"SELECT count(*) FROM read_parquet('{tmp_path}/files/rail/usage/*.parquet')").fetchall()
    assert rows == 1
    made.deactivate()


def test_what_does_not_fit_is_named(limio_emulator):
    with pytest.raises(ParameterError, match="must be a list of names"):
        limio_source(resources="subscriptions")
    with pytest.raises(ParameterError, match="nonsense"):
        limio_source(resources=["nonsense"])
    with pytest.raises(ParameterError, match="needs a time zone"):
        limio_source(resources=["subscriptions"], since=SINCE.replace(tzinfo=None))
    with pytest.raises(ParameterError, match="has no column of times"):
        limio_source(resources=["abandoned_baskets"], incremental=True, drop_columns=["created"])
    no_filter = Resource(name="x", path="/x", time_filter=TimeFilter(since="from", field="t"))
    with pytest.raises(ParameterError, match="has no column of times"):
        limio_source(resources=[no_filter], incremental=True)
    assert limio_emulator.counters.log == []


@pytest.mark.exhaustive
def test_times_that_are_no_times_are_not_compared(pipeline, limio_emulator):
    things = Resource(
        name="things", path="/custom/things", time_column="t", timestamps=("t",), time_filter=TimeFilter(since="from", field="t")
    )
    put(limio_emulator, {"id": "1", "t": "2026-01-01T00:00:00Z"}, {"id": "2", "t": "yesterday"})
    with pytest.raises(Exception, match="not all values of 't' are times with a zone"):
        pipeline.run(limio_source(resources=[things], incremental=True))


def test_the_example_finds_its_state_in_the_destination(limio_emulator, tmp_path):
    run = runpy.run_path(str(ROOT / "dags_examples" / "pipelines" / "limio_with_dlt.py"))["run_pipeline"]
    warehouse = tmp_path / "warehouse.duckdb"
    for _ in range(2):
        run(dlt.destinations.duckdb(str(warehouse)))
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        found = {one for (one,) in connection.execute("SELECT id FROM catalog.subscriptions").fetchall()}
        assert connection.execute("SELECT count(*) > 0 FROM catalog.offers").fetchall() == [(True,)]
    assert found == set(limio_emulator.tenant.ids("subscriptions"))
