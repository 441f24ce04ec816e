# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commit a day's usage in sixteen shards, on as many machines as there are workers, with one ledger.

Needs two connections: ``limitrail_default`` and ``warehouse``, a database that takes several writers (Postgres here), with the
table ``usage_of_day``.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param

from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.usage import Column

# [START sharded_commit]
# The first digit of a hash of the key: a row is in the same shard in every retry.
SHARD = "SELECT * FROM usage_of_day WHERE day = '{{{{ params.day }}}}' AND substr(md5(subscription_id), 1, 1) = '{digit}'"

with DAG(
    dag_id="limitrail_sharded_commit",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    params={
        "day": Param("2026-03-01", type="string", format="date"),
        "replay": Param("", enum=["", "rejected", "parked"]),
    },
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1)},
    doc_md=__doc__,
) as dag:
    LimitRailCommitUsageOperator.partial(
        task_id="commit_usage",
        sql_conn_id="warehouse",
        key_columns=["subscription_id", "day"],
        body={
            "externalAccount": Column("account"),
            "operation": Column("operation"),
            "amount": Column("amount"),
            "metadata": {"subscription": Column("subscription_id"), "day": Column("day")},
        },
        on_unknown="park",  # "resend" where LimitRail honours idempotency keys: then a lost worker leaves nothing to do
        replay="{{ params.replay }}",
        # Four requests at a time each: at most 32 at once, on however many workers.
        concurrency=4,
        max_active_tis_per_dagrun=8,
    ).expand(sql=[SHARD.format(digit=digit) for digit in "0123456789abcdef"])
    # [END sharded_commit]
