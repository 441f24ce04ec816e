# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A load by way of a bucket: what a warehouse is handed, and that nothing is left there.

No warehouse that copies from a bucket can be had here. The one of this test is DuckDB, which reads each file with the URL and the
credentials that dlt would write into the warehouse's statement.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.airflow_home import AirflowHome
from tests.support.landed import duck
from tests.support.places import Bucket
from tests.support.secrets_left import forms_of

COPYING = """
def copying(path, log):
    import dlt
    from dlt.common.destination.client import HasFollowupJobs, RunnableLoadJob, SupportsStagingDestination
    from dlt.destinations.impl.duckdb.duck import DuckDbClient
    from dlt.destinations.job_impl import ReferenceFollowupJobRequest

    class Copy(RunnableLoadJob, HasFollowupJobs):
        def run(self):
            import s3fs
            import pyarrow.parquet as pq
            [url] = ReferenceFollowupJobRequest.resolve_references(self._file_path)
            credentials = self._job_client.config.staging_config.credentials
            with open(log, "a") as file:
                file.write(url + chr(10))
            fs = s3fs.S3FileSystem(**credentials.to_s3fs_credentials())
            with fs.open(url, "rb") as file:
                rows = pq.read_table(file)
            sql = self._job_client.sql_client
            table = sql.make_qualified_table_name(self.load_table_name)
            names = ", ".join(sql.escape_column_name(name) for name in rows.column_names)
            sql.native_connection.register("staged", rows)
            sql.native_connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM staged")

    class Client(DuckDbClient, SupportsStagingDestination):
        def should_truncate_table_before_load_on_staging_destination(self, table_name):
            return True

        def create_load_job(self, table, file_path, load_id, restore=False):
            if ReferenceFollowupJobRequest.is_reference_job(file_path):
                return Copy(file_path)
            return super().create_load_job(table, file_path, load_id, restore)

    class copying_duckdb(dlt.destinations.duckdb):
        @property
        def client_class(self):
            return Client

        def _raw_capabilities(self):
            found = super()._raw_capabilities()
            found.preferred_staging_file_format = "parquet"
            found.supported_staging_file_formats = ["parquet"]
            return found

    return copying_duckdb(path, destination_type="dlt.destinations.duckdb")
"""


@pytest.mark.needs_s3
@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_files_go_through_the_runs_own_folder_which_is_removed(
    make_home: Callable[..., AirflowHome], limio_emulator: Any, s3_server: Any, tmp_path: Path, mode: str
) -> None:
    bucket = Bucket(s3_server, tmp_path)
    home = make_home(limio_emulator, **bucket.connections)
    warehouse, log = tmp_path / "warehouse.duckdb", tmp_path / "copied.log"
    home.write_dag(
        f"""
{COPYING}

from limio_limitrail.hooks.destinations import find
find.find_destination = lambda name, **given: copying({str(warehouse)!r}, {str(log)!r})
LimioToDltOperator(
    task_id="load", resource="subscriptions", destination="snowflake", destination_conn_id="unused", mode={mode!r},
    destination_staging={bucket.url!r}, dataset="lake", table="subs", page_size=50, part_rows=100,
)
"""
    )
    for run_id in ("one", "two"):
        killed = home.attempt("load", run_id=run_id, kill=["after dlt statements", 1])
        assert bucket.names() != []
        assert killed.code == -9
        done = home.attempt("load", run_id=run_id)
        assert done.task("load")["state"] == "success", home.output()[-6000:]
        assert bucket.names() == []
    truth = sorted(row["id"] for row in limio_emulator.tenant.rows_of("subscriptions"))
    found = [one for [one] in duck(warehouse, "SELECT id FROM lake.subs ORDER BY id")]
    assert found == sorted(truth * (2 if mode == "append" else 1))
    urls = log.read_text().split()
    folders = {url.split("/")[5] for url in urls}
    assert all(url.startswith(f"s3://{bucket.name}/some/where/limio_stage_") for url in urls)
    assert len(folders) == 2
    connection = bucket.connections["lake"]
    secrets = (connection["password"], json.loads(json.dumps(connection["extra"]))["aws_session_token"])
    kept = [path.read_bytes() for path in home.path.rglob("*") if path.is_file()]
    assert not [content for content in kept for secret in secrets if any(form in content for form in forms_of(secret))]
