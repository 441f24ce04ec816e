# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load LimitRail's usage into a destination of dlt's that this package has no name for: a function returns it.

Needs the extra ``dlt``, and two connections: ``limitrail_default`` (type ``limitrail``) and ``warehouse``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseHook

from limio_limitrail.transfers.limitrail_to_dlt import LimitRailToDltOperator

if TYPE_CHECKING:
    from dlt.common.destination import Destination


# [START destination]
def warehouse() -> Destination[Any, Any]:
    """Return the destination. It is called when the task runs, so that no credential is in the Dag."""
    import dlt

    return dlt.destinations.duckdb(BaseHook.get_connection("warehouse").host)


with DAG(
    dag_id="limitrail_dlt_any_destination",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    LimitRailToDltOperator(
        task_id="usage",
        resource="usage",
        destination=warehouse,
        dataset="limitrail",
        table="usage",
        scope="limitrail.usage.read",  # a name made up here: LimitRail documents none for lists
        since="{{ (dag_run.run_after - macros.timedelta(days=7)).isoformat() }}",
        until="{{ dag_run.run_after.isoformat() }}",
    )
# [END destination]
