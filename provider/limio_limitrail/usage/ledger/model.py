# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The types of the ledger: states, outcomes, entries, workers and rows."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from limio_limitrail.troubleshooting import ExplainedError

_PARTICULARS = re.compile(r"['\"`][^'\"`]*['\"`]|[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\d+")


class PermanentUsageError(ExplainedError):
    """An error of a usage task that no retry can mend."""


class LedgerError(PermanentUsageError):
    """The ledger cannot be used as it is. The message says why and what to do; nothing was sent without an entry."""


class StoppedError(ExplainedError):
    """The task was told to stop. Outcomes of requests that had an answer are written."""


class State(StrEnum):
    """The state of a row."""

    SENDING = "sending"
    """A worker has claimed it: its request may have been sent."""
    COMMITTED = "committed"
    """The API has carried it out."""
    DENIED = "denied"
    """The API has decided against it: a decision, not an error."""
    REJECTED = "rejected"
    """The API has refused the request, and will refuse it again as it is."""
    UNKNOWN = "unknown"
    """Whether the API has carried it out is not known; it is sent again under the same key."""
    PARKED = "parked"
    """Whether the API has carried it out is not known; it waits for a person."""
    GIVEN_UP = "given_up"
    """A person has decided that it will not be sent. Only a settlement sets this state."""
    FREE = "free"
    """It has certainly not been carried out: the next task that has it sends it. Only a settlement sets this state."""


IN_DOUBT = frozenset({State.SENDING, State.UNKNOWN, State.PARKED})
"""States of rows that may have been carried out."""


class OnUnknown(StrEnum):
    """What becomes of a row when nobody knows whether the API has carried it out."""

    RESEND = "resend"
    """Send it again under the same key: right where the API honours idempotency keys, and a double commit where it does not."""
    PARK = "park"
    """Leave it to a person."""

    @property
    def in_doubt(self) -> State:
        """The state of such a row."""
        return State.UNKNOWN if self is OnUnknown.RESEND else State.PARKED


@dataclass(frozen=True, kw_only=True)
class Outcome:
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


@dataclass(frozen=True, kw_only=True)
class UsageRow:
    """A row that is ready to be sent.

    :param row_key: the key columns and their values, as JSON text.
    :param body: the request's JSON; None for no body.
    :param digest: of path and body, with numbers by value.
    :param identity: what the row is, apart from its key: see `row_identity`.
    :param members: a short digest for each member of the body, as a JSON object; None for no body.
    """

    number: int
    key: str
    row_key: str
    path: str
    body: bytes | None
    digest: str
    identity: str = ""
    members: str | None = None

    def __str__(self) -> str:
        return f"row {self.number} {self.row_key}"
