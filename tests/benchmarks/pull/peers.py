# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Pulls with what people use for them, set up as well as it can be: Airflow's HttpOperator, and dlt's REST source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = 1000


def _token(url: str) -> str:
    import requests

    return str(requests.post(f"{url}/oauth2/token", timeout=60).json()["access_token"])


def _http_records(url: str) -> list[dict[str, Any]]:
    """Call HttpOperator's own code directly: no Dag, no XCom, which would cost several times as much."""
    from airflow.providers.http.operators.http import HttpOperator

    def following(response: Any) -> dict[str, Any] | None:
        cursor = response.json()["queryMore"]
        return {"data": {"limit": PAGE, "queryMore": cursor}} if cursor else None

    operator = HttpOperator(
        task_id="pull",
        method="GET",
        endpoint="/api/objects/limio/subscriptions",
        data={"limit": PAGE},
        headers={"Authorization": f"Bearer {_token(url)}"},
        pagination_function=following,
        response_filter=lambda responses: [record for response in responses for record in response.json()["items"]],
    )
    found: list[dict[str, Any]] = operator.execute({})
    return found


def http_parquet(url: str, folder: Path) -> int:
    """HttpOperator, and one Parquet file of what it gives."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(_http_records(url))
    pyarrow.parquet.write_table(table, folder / "out.parquet", compression="zstd")
    return int(table.num_rows)


def http_duckdb(url: str, folder: Path) -> int:
    """HttpOperator, and a DuckDB table of what it gives."""
    import duckdb
    import pyarrow

    table = pyarrow.Table.from_pylist(_http_records(url))
    with duckdb.connect(str(folder / "out.duckdb")) as connection:
        connection.from_arrow(table).create("subscriptions")
        return int(connection.execute("SELECT count(*) FROM subscriptions").fetchone()[0])


def _dlt(url: str, folder: Path, destination: Any, **options: Any) -> int:
    import dlt
    from dlt.sources.rest_api import rest_api_source

    source = rest_api_source(
        {
            "client": {
                "base_url": f"{url}/api/",
                "auth": {"type": "bearer", "token": _token(url)},
                "paginator": {"type": "cursor", "cursor_path": "queryMore", "cursor_param": "queryMore"},
            },
            "resources": [
                {
                    "name": "subscriptions",
                    "primary_key": "id",
                    "endpoint": {"path": "objects/limio/subscriptions", "params": {"limit": PAGE}, "data_selector": "items"},
                }
            ],
        },
        max_table_nesting=0,
    )
    pipeline = dlt.pipeline("bench", destination=destination, dataset_name="bench", pipelines_dir=str(folder / "pipelines"))
    pipeline.run(source, **options)
    counted = pipeline.last_trace.last_normalize_info.row_counts
    return int(counted["subscriptions"])


def dlt_parquet(url: str, folder: Path) -> int:
    """dlt into Parquet files."""
    import dlt

    place = dlt.destinations.filesystem(bucket_url=f"file://{folder}/lake")
    return _dlt(url, folder, place, loader_file_format="parquet")


def dlt_duckdb(url: str, folder: Path) -> int:
    """dlt into DuckDB."""
    import dlt

    return _dlt(url, folder, dlt.destinations.duckdb(str(folder / "out.duckdb")), loader_file_format="parquet")
