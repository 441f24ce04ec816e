# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""For the folder ``config`` in the workers' AIRFLOW_HOME: what every task needs is imported once a worker."""

from __future__ import annotations

# [START preload]
from importlib import import_module
from typing import Any

from celery.signals import import_modules

NEEDED = (
    "aiohttp",
    "airflow.providers.postgres.hooks.postgres",
    "limio_limitrail.operators.limitrail",
    "limio_limitrail.transfers.limitrail_to_sql",
    "pandas",
    "pyarrow.parquet",
    "requests",
)


@import_modules.connect
def preload(**_: Any) -> None:
    """Import, before tasks are forked off, what each of them would import anew."""
    for name in NEEDED:
        import_module(name)


# [END preload]
