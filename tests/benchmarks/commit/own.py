# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""This package's operator, executed as a task process executes it: rows and ledger are in Postgres."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from rows import QUERY

from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.usage import Column
from limio_limitrail.usage.ledger.claims import Claim
from limio_limitrail.usage.ledger.model import Entry, Outcome, UsageRow, Worker
from limio_limitrail.usage.ledger.other_rows import LeftInDoubt
from limio_limitrail.usage.ledger.rules import Policy

# What the operator imports as it goes: the others have their libraries imported when the clock starts.
for name in (
    "airflow.providers.postgres.hooks.postgres",
    "numpy",
    "psycopg.types.json",
    "limio_limitrail.api.client",
    "limio_limitrail.api.async_transport",
    "limio_limitrail.hooks.clients",
    "limio_limitrail.landing.sql.postgres",
    "limio_limitrail.usage.rows",
    "limio_limitrail.usage.sender",
    "limio_limitrail.usage.summary",
):
    importlib.import_module(name)

BODY = {
    "externalAccount": Column("account"),
    "operation": Column("operation"),
    "amount": Column("amount"),
    "currency": "EUR",
    "metadata": {"day": Column("day")},
}


class NoLedger:
    """Stands for the ledger, and keeps nothing: what a run costs without it."""

    table = "none"

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def left_in_doubt(self, among: object) -> LeftInDoubt:
        return LeftInDoubt()

    def prepare(self) -> None:
        pass

    def settled(self, rows: Sequence[UsageRow], *, policy: Policy) -> dict[str, Entry]:
        return {}

    def claim(self, rows: Sequence[UsageRow], *, policy: Policy) -> list[Claim]:
        return [Claim(row=row, granted=True, entry=None) for row in rows]

    def record(self, outcomes: Mapping[str, Outcome]) -> None:
        pass

    def release(self, claims: Iterable[Claim]) -> None:
        pass

    def renew(self, keys: Sequence[str]) -> None:
        pass


class WithoutLedger(LimitRailCommitUsageOperator):
    """The same operator without a ledger."""

    def _ledger(self, database: Any, *, worker: Worker, **_: Any) -> Any:
        return NoLedger(worker)


def commit(url: str, *, rows: int, in_flight: int) -> int:
    """Commit all rows, with the ledger."""
    return _execute(LimitRailCommitUsageOperator, in_flight=in_flight)


def without_ledger(url: str, *, rows: int, in_flight: int) -> int:
    """Commit all rows, and write nothing down."""
    return _execute(WithoutLedger, in_flight=in_flight)


def _execute(kind: type[LimitRailCommitUsageOperator], *, in_flight: int) -> int:
    operator = kind(
        task_id="commit",
        sql_conn_id="post",
        sql=QUERY,
        key_columns=["account", "day"],
        body=BODY,
        concurrency=in_flight,
        batch_size=1000,
    )
    ti = SimpleNamespace(
        id="1", dag_id="bench", task_id="commit", run_id="one", map_index=-1, try_number=1, xcom_push=lambda **_: None
    )
    summary = operator.execute({"ti": ti, "outlet_events": {}, "params": {}})  # type: ignore[typeddict-item]
    assert summary["tokens"] == 1, summary
    return int(summary["committed"])
