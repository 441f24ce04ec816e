# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The recipes that let a warehouse load files, in real Airflow with the warehouses' own providers.

Landing is real: on S3 as moto serves it, and in a folder for Cloud Storage. Run by `check_bulk_loads.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from limio_limitrail.emulator import EmulatorServer

if TYPE_CHECKING:
    from tests.support.airflow_home import AirflowHome, Outcome

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parents[2] / "dags_examples" / "recipes"
WHEN = "2026-11-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", aws_access_key_id="key", aws_secret_access_key="word", region_name="us-east-1"
    )
    client.create_bucket(Bucket="my-lake")
    yield client
    server.stop()


@pytest.fixture
def run(
    make_home: Callable[..., AirflowHome], limio_emulator: EmulatorServer, s3: Any
) -> Callable[..., tuple[Outcome, list[Any]]]:
    """Run a recipe, and give what came of it and what would have been sent to the warehouse."""
    aws = {"endpoint_url": s3.meta.endpoint_url, "region_name": "us-east-1"}
    home = make_home(
        limio_emulator,
        aws_default={"conn_type": "aws", "login": "key", "password": "word", "extra": aws},
        snowflake_default={"conn_type": "snowflake", "login": "me", "password": "word", "extra": {"account": "acme"}},
        redshift_default={"conn_type": "redshift", "host": "redshift", "login": "me", "password": "word", "port": 5439},
        google_cloud_default={"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "acme"}},
    )

    def go(name: str) -> tuple[Outcome, list[Any]]:
        edge = f"import sys; sys.path.insert(0, {str(HERE)!r}); import edges; edges.for_{name.removeprefix('to_')}()\n"
        text = (RECIPES / f"{name}.py").read_text()
        first = "from __future__ import annotations\n"
        text = text.replace(first, first + edge).replace('"retries": 2', '"retries": 0')
        (home.path / "dags" / f"{name}.py").write_text(text)
        (home.path / "sent.jsonl").write_text("")
        outcome = home.run(name, logical_date=WHEN)
        states = {task: found["state"] for task, found in outcome.result["tasks"].items()}
        assert "failed" not in states.values(), home.output()[-6000:]
        return outcome, [json.loads(line) for line in (home.path / "sent.jsonl").read_text().splitlines()]

    go.home = home
    return go


def keys_of(s3: Any, resource: str) -> dict[str, bytes]:
    """Give the parts that lie in the bucket."""
    listed = s3.list_objects_v2(Bucket="my-lake", Prefix=f"limio/{resource}/").get("Contents", [])
    keys = [one["Key"] for one in listed if "/part-" in one["Key"]]
    return {key: s3.get_object(Bucket="my-lake", Key=key)["Body"].read() for key in keys}


def unpacked(part: bytes) -> list[dict[str, Any]]:
    """Read a part as what the load calls it: JSON Lines, packed with Zstandard."""
    with pa.input_stream(io.BytesIO(part), compression="zstd") as stream:
        return [json.loads(line) for line in stream.read().splitlines()]


def test_snowflake(run: Any, s3: Any, limio_emulator: EmulatorServer) -> None:
    outcome, sent = run("to_snowflake")
    parts = keys_of(s3, "subscriptions")
    landed = [one["id"] for part in parts.values() for one in unpacked(part)]
    assert sorted(landed) == sorted(limio_emulator.tenant.ids("subscriptions"))
    statements = [what for where, what in sent if where == "snowflake"]
    [emptied] = [number for number, one in enumerate(statements) if one == "TRUNCATE TABLE subscriptions"]
    [copied] = [number for number, one in enumerate(statements) if one.startswith("COPY INTO")]
    assert emptied < copied
    files = ",".join(f"'{key.removeprefix('limio/')}'" for key in parts)
    assert statements[copied] == (
        f"COPY INTO subscriptions FROM @lake/ FILES=({files}) FILE_FORMAT=(TYPE = 'JSON' COMPRESSION = 'ZSTD') "
        "MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
    )
    assert outcome.task("files")["xcom"] == [key.removeprefix("limio/") for key in parts]


def test_redshift(run: Any, s3: Any, limio_emulator: EmulatorServer) -> None:
    outcome, sent = run("to_redshift")
    parts = keys_of(s3, "abandoned_baskets")
    records = [one for part in parts.values() for one in unpacked(part)]
    assert {one["id"] for one in records} == set(limio_emulator.tenant.ids("baskets"))
    assert all("recoveryLink" not in one for one in records)
    statements = [what for where, what in sent if where == "redshift"]
    [copy] = [one for one in statements if one.startswith("COPY")]
    prefix = outcome.task("land")["xcom"]["folder"].removeprefix("s3://aws_default@my-lake/") + "/part-"
    assert {key for key in parts if key.startswith(prefix)} == set(parts)
    assert copy.startswith(f"COPY #abandoned_baskets FROM 's3://my-lake/{prefix}' credentials")
    assert copy.endswith("FORMAT AS JSON 'auto ignorecase' ZSTD;")
    order = [
        "CREATE TABLE #abandoned_baskets",
        "COPY",
        "BEGIN",
        "DELETE FROM limio.abandoned_baskets USING",
        "INSERT INTO",
        "COMMIT",
    ]
    positions = [next(number for number, one in enumerate(statements) if one.startswith(start)) for start in order]
    assert positions == sorted(positions)


def test_bigquery(run: Any, limio_emulator: EmulatorServer) -> None:
    _, sent = run("to_bigquery")
    [(_, path, job)] = [what for where, what in sent if where == "bigquery" and what[0] == "POST"]
    assert path == "/projects/acme/jobs"
    load = job["configuration"]["load"]
    store = run.home.path / "gcs"
    found = sorted((store / "my-lake" / "limio").rglob("part-*"))
    assert load["sourceUris"] == [f"gs://{path.relative_to(store)}" for path in found]
    assert load["sourceFormat"] == "PARQUET"
    assert load["writeDisposition"] == "WRITE_TRUNCATE"
    assert load["destinationTable"] == {"projectId": "acme", "datasetId": "limio", "tableId": "subscriptions"}
    types = {"STRING": pa.string(), "TIMESTAMP": pa.timestamp("us", tz="UTC")}
    for path in found:
        schema = pq.read_schema(path)
        assert [(one["name"], types[one["type"]]) for one in load["schema"]["fields"]] == [(one.name, one.type) for one in schema]
        assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    ids = {identity for path in found for identity in pq.read_table(path)["id"].to_pylist()}
    assert ids == set(limio_emulator.tenant.ids("subscriptions"))


def test_nothing_is_loaded_where_nothing_came(run: Any, s3: Any, limio_emulator: EmulatorServer) -> None:
    limio_emulator.put_records("checkout/abandoned", [])
    limio_emulator.put_records("objects/limio/subscriptions", [])
    for name, gate in (("to_redshift", "any_parts"), ("to_snowflake", "files"), ("to_bigquery", "files")):
        outcome, sent = run(name)
        assert outcome.task(gate)["state"] == "success"
        assert outcome.task("load")["state"] == "skipped"
        assert sent == []
