# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A dlt pipeline of your own that loads Limio's lists.

Needs the extra ``dlt``, and two connections: ``limio_default`` (type ``limio``) and ``warehouse`` (here DuckDB).
"""

from __future__ import annotations

from datetime import datetime
from tempfile import TemporaryDirectory
from typing import Any

from airflow.sdk import DAG, BaseHook, task


# [START pipeline]
def run_pipeline(destination: Any) -> Any:
    """Load the offers that came since the last load, and all subscriptions."""
    import dlt

    from limio_limitrail.dlt_source import limio_source

    source = limio_source(resources=["offers", "subscriptions"], incremental=True, drop_columns=["data"])
    # dlt keeps its state in the destination, too: a worker without files of the last run finds it there.
    with TemporaryDirectory() as folder:
        return dlt.pipeline("limio", pipelines_dir=folder, destination=destination, dataset_name="catalog").run(source)


# [END pipeline]

with DAG(dag_id="limio_dlt_pipeline", schedule="@daily", start_date=datetime(2026, 1, 1), catchup=False, doc_md=__doc__) as dag:

    @task
    def load() -> str:
        """Run the pipeline."""
        import dlt

        return str(run_pipeline(dlt.destinations.duckdb(BaseHook.get_connection("warehouse").host)))

    load()
