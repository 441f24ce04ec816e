# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the Airflow that is here lacks. Imports nothing of Airflow, because it is asked before Airflow may be imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil

AIRFLOW = tuple(int(part) for part in importlib.metadata.version("apache-airflow-core").split(".")[:2])

# Markers, and why the tests that bear one are skipped here.
MISSING = {
    "needs_state_store": None if AIRFLOW >= (3, 3) else "Airflow before 3.3 has no state stores",
    "needs_retry_policy": None if AIRFLOW >= (3, 3) else "Airflow before 3.3 has no retry policies",
    "needs_s3": None if importlib.util.find_spec("s3fs") and importlib.util.find_spec("moto") else "run by make test-s3",
    "needs_mariadb": None
    if importlib.util.find_spec("pymysql") and shutil.which("mariadbd")
    else "run by make test-dlt, where mariadbd is installed",
    "needs_table_formats": None
    if importlib.util.find_spec("deltalake") and importlib.util.find_spec("pyiceberg")
    else "run by make test-dlt",
}

# These need what Airflow 3.3 brought, and are imported there only.
UNIMPORTABLE = set() if AIRFLOW >= (3, 3) else {"limio_limitrail.retry_policy", "limio_limitrail.triggers.producer"}
