# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The query that shows what became of a task's rows, and where it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from limio_limitrail.usage.ledger.model import Worker

QUERY_KEY = "ledger_query"
"""The XCom that holds the query."""


def ledger_query(*, table: str, worker: Worker) -> str:
    """Write the query for the rows whose entries a task's run has made or changed last."""
    about = {"dag_id": worker.dag_id, "task_id": worker.task_id, "run_id": worker.run_id}
    conditions = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in about.items()]
    if worker.map_index >= 0:
        conditions.append(f"map_index = {worker.map_index}")
    return f"SELECT * FROM {table} WHERE {' AND '.join(conditions)} ORDER BY state, row_key"  # nosec B608 # noqa: S608 - for people


def xcom_page(ti: Any) -> str:
    """Give the page of Airflow that shows what a task instance has left as XComs."""
    page = urlsplit(str(ti.log_url))
    return page._replace(path=f"{page.path}/xcom", query="").geturl()
