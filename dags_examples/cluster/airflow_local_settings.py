# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""For the folder ``config`` in the workers' AIRFLOW_HOME: what every task needs is imported once a worker."""

from __future__ import annotations

# [START preload]
from typing import Any

from celery.signals import import_modules


@import_modules.connect
def preload(**_: Any) -> None:
    """Import before tasks are forked what each of them would import anew."""
    import aiohttp  # noqa: F401
    import airflow.providers.postgres.hooks.postgres
    import pandas  # noqa: F401, ICN001
    import pyarrow.parquet
    import requests  # noqa: F401

    import limio_limitrail.transfers.limitrail_to_sql  # noqa: F401


# [END preload]
