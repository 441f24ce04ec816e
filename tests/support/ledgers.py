# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows, workers and ledgers, and databases that fail at a chosen moment."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from limio_limitrail.landing.sql.errors import Cause, DatabaseError, Diagnosis
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
from limio_limitrail.usage.ledger.ledger import Ledger
from limio_limitrail.usage.ledger.model import UsageRow, Worker
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.states import OnUnknown, State
from tests.support.databases import Database

PARK = Policy(on_unknown=OnUnknown.PARK)
RESEND = Policy(on_unknown=OnUnknown.RESEND)
REPLAY_PARKED = Policy(on_unknown=OnUnknown.PARK, replay=State.PARKED)
REPLAY_REJECTED = Policy(on_unknown=OnUnknown.PARK, replay=State.REJECTED)


def make_row(name: object, *, body: bytes = b"{}", number: int = 1) -> UsageRow:
    """A row whose key follows from its name."""
    path = "/v1/usage/commit"
    return UsageRow(
        number=number,
        key=str(uuid.uuid5(uuid.NAMESPACE_URL, str(name))),
        row_key=json.dumps({"id": str(name)}),
        path=path,
        body=body,
        digest=hashlib.sha256(path.encode() + b"\n" + body).hexdigest(),
    )


def make_rows(count: int, *, body: bytes = b"{}") -> list[UsageRow]:
    return [make_row(number, body=body, number=number) for number in range(1, count + 1)]


def make_worker(run: str = "run-1", *, attempt: int = 1, task: str = "send", dag: str = "usage", map_index: int = -1) -> Worker:
    return Worker(dag_id=dag, task_id=task, run_id=run, map_index=map_index, try_number=attempt)


def lease_of(seconds: float) -> dict[str, float]:
    """The names of the modules' attributes that say how long a lease is, with another length."""
    modules = ("usage.ledger.ledger", "usage.ledger.leases", "usage.committer")
    return {f"limio_limitrail.{module}.LEASE": seconds for module in modules}


class FailingDatabase(PersistentConnection):
    """Fails in its next transactions as it is told.

    ``away``: there is no connection; ``early``: nothing is done; ``late``: all is undone; ``unconfirmed``: all is done, and the
    connection is lost at once.
    """

    def __init__(self, hook: Any, *, duckdb_wait: float = 60.0) -> None:
        super().__init__(hook, duckdb_wait=duckdb_wait)
        self.failures: list[str] = []
        self.transactions = 0

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._failing(super().transaction) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Any]:
        with self._failing(super().reading) as session:
            yield session

    @contextmanager
    def _failing(self, opened: Callable[[], Any]) -> Iterator[Any]:
        self.transactions += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure == "away":
            self.close()
            raise DatabaseError(Diagnosis(summary="the server is away", cause=Cause.UNREACHABLE))
        if failure == "early":
            self.close()
            raise LandingError("the database is away")
        with opened() as session:
            yield session
            if failure == "late":
                raise LandingError("the database has undone everything")
        if failure == "unconfirmed":
            self.close()
            raise LandingError("the connection was lost at the commit")


def make_ledger(database: FailingDatabase, worker: Worker, *, table: str = "ledger", **more: Any) -> Ledger:
    return Ledger(database=database, table=table, worker=worker, operation="usage.commit", conn_id="limitrail", **more)


def entries(database: Database, table: str = "ledger") -> dict[str, dict[str, Any]]:
    """Read a whole ledger by key, with a connection of one's own."""
    names = [
        "idempotency_key", "state", "operation", "row_key", "http_status", "decision", "reservation_id", "error_code",
        "resource_key", "trace_id", "field", "detail", "attempts", "body_digest", "conn_id", "dag_id", "task_id", "run_id",
        "map_index", "try_number", "claim_id", "lease_until", "ledger_format",
    ]  # fmt: skip
    picked = ", ".join([*names, "CASE WHEN finished_at IS NULL THEN 0 ELSE 1 END"])
    found = database.query(f"SELECT {picked} FROM {table}")
    return {row[0]: dict(zip([*names, "finished"], row, strict=True)) for row in found}


def claim_in_pieces(connection: dict[str, Any], names: list[str], run: str) -> list[str]:
    """Claim rows ten at a time; give the names of those that were granted. For processes of their own."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    database = Database(name="psycopg3", connection=connection, hook_class=PostgresHook, text="text")
    held = FailingDatabase(database.hook())
    ledger = make_ledger(held, make_worker(run))
    granted = []
    for at in range(0, len(names), 10):
        rows = {make_row(name).key: name for name in names[at : at + 10]}
        claims = ledger.claim([make_row(name) for name in rows.values()], policy=PARK)
        granted += [rows[claim.row.key] for claim in claims if claim.granted]
    held.close()
    return granted


def compete(ledgers, rows, *, policy, size):
    """Claim all rows with several workers at once, each in an order of its own; give who was granted what."""
    granted: list[tuple[int, str]] = []
    errors: list[BaseException] = []
    ready = threading.Barrier(len(ledgers))

    def work(number, ledger):
        order = list(rows)
        random.Random(number).shuffle(order)
        try:
            ready.wait(timeout=30)
            for at in range(0, len(order), size):
                claims = ledger.claim(order[at : at + size], policy=policy)
                granted.extend((number, claim.row.key) for claim in claims if claim.granted)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(ledgers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=600)
    assert not errors, errors
    return granted
