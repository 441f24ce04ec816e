# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The words of the ledger: states, outcomes, entries and workers."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum

from limio_limitrail.troubleshooting import ExplainedError
from limio_limitrail.usage.ledger.digests import BY_VALUE, is_former_digest


class LedgerError(ExplainedError):
    """The ledger cannot be kept as it is. The message says why and what to do; nothing was sent without an entry."""


class StoppedError(ExplainedError):
    """The task was told to stop. What had an answer by then is written down."""


class State(StrEnum):
    """What is known of a row."""

    SENDING = "sending"
    """A worker has claimed it: its request may have left."""
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
    """A person has decided that it will not be sent. Only people set this state."""


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
        """How such a row stands."""
        return State.UNKNOWN if self is OnUnknown.RESEND else State.PARKED


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a row.

    :param state: what is known now.
    :param http_status: the status of the answer; none where no answer came.
    :param decision: the decision in the answer, in the API's own word.
    :param reservation_id: the reservation in the answer.
    :param error_code: ProblemDetails' ``errorCode``.
    :param resource_key: ProblemDetails' ``resourceKey``.
    :param trace_id: the API's id of the call.
    :param field: the field that the API blames.
    :param detail: what happened, in words, short and masked.
    :param fees: the fees in the answer as JSON text, where they are wanted.
    :param answer: the whole answer as JSON text, where it is wanted.
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


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Who sends: one try of one task.

    :param dag_id: the Dag.
    :param task_id: the task in it.
    :param run_id: the Dag run.
    :param map_index: the mapped copy; -1 where the task is not mapped.
    :param try_number: the try; a later one means that all earlier ones have ended.
    :param claim_id: this worker's own mark, never the same twice.
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    claim_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def same_task_run(self, other: Worker) -> bool:
        """Tell whether two workers are tries of the same task in the same run."""
        return (self.dag_id, self.task_id, self.run_id, self.map_index) == (
            other.dag_id,
            other.task_id,
            other.run_id,
            other.map_index,
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the ledger holds of a row.

    :param state: what is known of it.
    :param worker: who claimed it last.
    :param lease_until: until when, in milliseconds since 1970, that worker counts as alive without a sign of life.
    :param digest: of path and body of the request that was sent.
    :param attempts: how often it has been claimed.
    :param outcome: what came of it so far.
    :param format: what its row means, by the version that has written it.
    :param in_doubt_since: when the first request that may have been carried out was claimed, in milliseconds since 1970; 0 where
        that is not known. None where there is none.
    :param finished_at: when its outcome was written, in milliseconds since 1970. Read for ``parked`` rows only.
    """

    state: State
    worker: Worker
    lease_until: int
    digest: str
    attempts: int
    outcome: Outcome
    format: int = 1
    in_doubt_since: int | None = None
    finished_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class UsageRow:
    """A row that is ready to be sent.

    :param number: its place in the input, from 1.
    :param key: its idempotency key.
    :param row_key: the key columns and their values, as JSON text.
    :param path: where it is sent to.
    :param body: the request's JSON; none where the endpoint takes none.
    :param digest: of path and body, with numbers by value.
    :param identity: what the row is, apart from its key: see `usage.ledger.row_identity`; empty where nobody looks.
    :param members: a short digest for each member of the body, as a JSON object; none where there is no body.
    """

    number: int
    key: str
    row_key: str
    path: str
    body: bytes | None
    digest: str
    identity: str = ""
    members: str | None = None

    def digest_like(self, other: str) -> str:
        """Return the row's digest in the form that another one has, so that the two can be compared."""
        if other == self.digest or other.startswith(BY_VALUE):
            return self.digest
        return other if is_former_digest(other, path=self.path, body=self.body) else self.digest

    def __str__(self) -> str:
        return f"row {self.number} {self.row_key}"
