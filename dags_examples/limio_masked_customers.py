# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Load customers and abandoned baskets without what identifies a person. Both tables still join by the hash of the mail address.

Needs three connections: ``limio_default`` (type ``limio``), ``warehouse`` (DuckDB, Postgres or SQLite), and ``masking_key`` of
any type, whose password is a long random text.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator


# [START lookup]
def hash_of(text: str, *, secret: str) -> str:
    """Return the hash that stands for a text."""
    return hmac.new(secret.encode(), unicodedata.normalize("NFC", text).encode(), hashlib.sha256).hexdigest()


# [END lookup]

with DAG(
    dag_id="limio_masked_customers",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:
    # [START customers]
    LimioToSqlOperator(
        task_id="customers",
        resource="customers",
        sql_conn_id="warehouse",
        table="customers",
        nested_columns={"email": "data.customerDetails.email"},
        mask={
            "email": "hmac",
            "name": "drop",
            "data.customerDetails.firstName": "drop",
            "data.customerDetails.lastName": "drop",
            "data.customerDetails.phone?": "last4",
            "data.billingDetails?": "drop",
        },
        mask_conn_id="masking_key",
        page_size=1000,
        outlets=[Asset("warehouse/customers")],
    )
    # [END customers]
    # [START baskets]
    LimioToSqlOperator(
        task_id="abandoned_baskets",
        resource="abandoned_baskets",
        sql_conn_id="warehouse",
        table="abandoned_baskets",
        nested_columns={"email": "customerDetails.email"},
        mask={
            "email": "hmac",
            "customerDetails.firstName": "drop",
            "customerDetails.lastName": "drop",
            "recoveryLink?": "drop",
        },
        mask_conn_id="masking_key",
        since="2026-01-01",
        page_size=1000,
        outlets=[Asset("warehouse/abandoned_baskets")],
    )
    # [END baskets]
