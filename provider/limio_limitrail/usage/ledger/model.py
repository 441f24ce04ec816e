# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The types of the ledger: outcomes, entries, workers and rows."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import msgspec

from limio_limitrail.lazy import lazy_pattern
from limio_limitrail.usage.ledger.states import State

_PARTICULARS = lazy_pattern(r"['\"`][^'\"`]*['\"`]|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a row.

    :param field: the field that the API blames.
    :param detail: what happened, short and redacted.
    :param fees: the fees in the answer as JSON text; previews only.
    :param answer: the whole answer as JSON text; previews only.
    """

    state: State
    http_status: int | None = None
    decision: str | None = None
    reservation_id: str | None = None
    error_code: str | None = None
    resource_key: str | None = None
    trace_id: str | None = None
    field: str | None = None
    detail: str | None = None
    fees: str | None = None
    answer: str | None = None


def describe_outcome(outcome: Outcome) -> str:
    """Return why a row was not committed, in the same words for all rows with the same reason."""
    known = (
        ("status", outcome.http_status),
        ("decision", outcome.decision),
        ("errorCode", outcome.error_code),
        ("field", outcome.field),
    )
    parts = [f"{name} {value}" for name, value in known if value is not None]
    if outcome.detail:
        parts.append(_PARTICULARS.sub("…", outcome.detail))
    return ", ".join(parts) or "no reason was given"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One try of one task.

    :param map_index: the mapped copy; -1 where the task is not mapped.
    :param try_number: the try; a later one means that all earlier ones have ended.
    :param claim_id: this worker's own id, never the same twice.
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    claim_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def of(cls, ti: Any) -> Worker:
        """Return the worker of a task instance."""
        map_index = -1 if ti.map_index is None else ti.map_index
        return cls(dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, map_index=map_index, try_number=ti.try_number)

    def same_task_run(self, other: Worker) -> bool:
        """Return whether two workers are tries of the same task in the same run."""
        return self._task_run == other._task_run

    def same_run(self, other: Worker) -> bool:
        """Return whether two workers are tries of the same task in the same run, mapped copies of it included."""
        return self._task_run[:3] == other._task_run[:3]

    @property
    def _task_run(self) -> tuple[str, str, str, int]:
        return self.dag_id, self.task_id, self.run_id, self.map_index


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the ledger holds of a row.

    :param lease_until: until when, in milliseconds since 1970, that worker counts as alive without a heartbeat.
    :param digest: of path and body of the request that was sent.
    :param in_doubt_since: when the first request that may have been carried out was claimed, in milliseconds since 1970; 0 if
        unknown. None if there is none.
    :param finished_at: when its outcome was written, in milliseconds since 1970; read for ``parked`` rows only.
    """

    state: State
    worker: Worker
    lease_until: int
    digest: str
    attempts: int
    outcome: Outcome
    in_doubt_since: int | None = None
    finished_at: int | None = None


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that is ready to be sent.

    :param row_key: the key columns and their values, as JSON text.
    :param body: the request's JSON; None for no body.
    :param digest: of path and body, with numbers by value.
    :param identity: what the row is, apart from its key: see `row_identity`.
    :param members: a short digest for each member of the body, as a JSON object; None for no body.
    :param kept: members of the body that the ledger keeps, as `kept_members.keep_members` writes them.
    """

    number: int
    key: str
    row_key: str
    path: str
    body: bytes | None
    digest: str
    identity: str = ""
    members: str | None = None
    kept: str | None = None

    def __str__(self) -> str:
        return f"row {self.number} {self.row_key}"
