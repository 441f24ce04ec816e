# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a person, or a reconciliation, decides about a row, and whether a decision fits: pure functions, without a database."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

import msgspec

from limio_limitrail.usage.ledger.states import PermanentUsageError, State

MAX_NOTE = 500
"""Characters of a note that the ledger keeps."""


class Decision(StrEnum):
    """What becomes of a row."""

    COMMITTED = "committed"
    """The API has carried it out."""
    DENIED = "denied"
    """The API has decided against it."""
    SEND = "send"
    """It has certainly not been carried out: the next task that has it sends it."""
    GIVE_UP = "give_up"
    """It is never sent."""
    ACCEPT = "accept"
    """A changed row has been corrected in the API: the ledger takes its new body for the one that was carried out."""
    LEAVE = "leave"
    """It stays as it is."""


TARGETS = {
    Decision.COMMITTED: State.COMMITTED,
    Decision.DENIED: State.DENIED,
    Decision.SEND: State.FREE,
    Decision.GIVE_UP: State.GIVEN_UP,
}
"""The states that decisions lead to."""

_SETTLED = frozenset({State.COMMITTED, State.DENIED})


class SettlementError(PermanentUsageError):
    """Decisions cannot be carried out: a word, a key or a row's state does not fit. Nothing was settled."""


@dataclass(frozen=True, kw_only=True)
class RowDecision:
    """A decision about one row.

    :param key: the row's idempotency key.
    :param version: the `OpenRow.version` that the decision was made upon; None: what the ledger holds now.
    :param note: why; the ledger keeps the first `MAX_NOTE` characters.
    :param api_decision: the decision that the API's own list shows; with ``committed`` and ``denied`` only, like the next two.
    :param reservation_id: the reservation's id there.
    :param trace_id: the trace id there.
    """

    key: str
    decision: Decision
    version: str | None = None
    note: str | None = None
    api_decision: str | None = None
    reservation_id: str | None = None
    trace_id: str | None = None


class SettlementRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the column ``settlement`` holds, as JSON.

    :param decision: a `Decision`.
    :param was: the state that it was made upon.
    :param version: the version of the row that it was made upon.
    :param id: which settlement it was: a task's run, or an id of its own.
    :param note: why.
    """

    decision: str
    was: str
    version: str
    id: str
    note: str | None = None

    def to_text(self) -> str:
        """Return the JSON, in ASCII: any database stores it."""
        members = {name: value for name, value in msgspec.to_builtins(self).items() if value is not None}
        return json.dumps(members, separators=(",", ":"))

    @classmethod
    def of(cls, text: object) -> SettlementRecord | None:
        """Read the column; None if it is empty, or holds somebody's own text."""
        try:
            return msgspec.json.decode(str(text or ""), type=cls)
        except (msgspec.DecodeError, UnicodeError):
            return None


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """What a decision is made upon. All values are as the database returns them: the row may be damaged.

    :param state: None if it is none of the ledger's.
    :param word: the state as it stands there.
    :param changed_to: the digest of its body in the changes table, if that is another one.
    :param is_listed: whether it is in the changes table.
    """

    key: str
    state: State | None
    word: str
    claim_id: str
    attempts: int | None
    digest: str
    settlement: str
    settled_by: str = ""
    settled_at: str = ""
    changed_to: str | None = None
    is_listed: bool = False

    @property
    def record(self) -> SettlementRecord | None:
        """Its last settlement."""
        return SettlementRecord.of(self.settlement)

    @property
    def version(self) -> str:
        """A digest of what a decision is made upon. A claim, an outcome, a settlement and a new body make it another one."""
        parts: list[Any] = [self.word, self.claim_id, self.attempts, self.digest, self.settlement, self.changed_to]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        by = f", settled by {self.settled_by or 'somebody'} at {self.settled_at or 'an unknown time'}" if self.settlement else ""
        return f"{self.key} is {self.word or 'without a state'}{by}"


class Verdict(Enum):
    """Whether a decision is carried out."""

    APPLY = "apply"
    ALREADY = "already"
    """It has been carried out before, or the row is in that state."""
    LEAVE = "leave"
    """It asks for nothing."""
    STALE = "stale"
    """The row is no longer what it was made upon."""
    CONTRADICTED = "contradicted"
    """Somebody has settled the row in another way meanwhile."""
    UNFIT = "unfit"
    """It does not fit the row's state."""


def judge(row: LedgerRow, decision: RowDecision, *, settlement_id: str, is_alive: bool) -> Verdict:
    """Return whether a decision about a row is carried out.

    :param settlement_id: which settlement this is: one that is made again repeats nothing.
    :param is_alive: whether a worker may be sending the row.
    """
    if decision.decision is Decision.LEAVE:
        return Verdict.LEAVE
    last, version = row.record, decision.version
    is_same = last is not None and (last.id == settlement_id if version is None else last.version == version)
    if last is not None and is_same and last.decision == decision.decision:
        return Verdict.ALREADY
    if _is_so_already(row, decision.decision):
        return Verdict.ALREADY
    if version is not None and version != row.version:
        return Verdict.CONTRADICTED if last is not None and last.version == version else Verdict.STALE
    if row.state is State.SENDING and is_alive:
        return Verdict.STALE
    return Verdict.APPLY if _fits(row, decision.decision) else Verdict.UNFIT


def _is_so_already(row: LedgerRow, decision: Decision) -> bool:
    if decision is Decision.ACCEPT:
        return row.state in _SETTLED and row.is_listed and row.changed_to is None
    return row.state is TARGETS[decision]


def _fits(row: LedgerRow, decision: Decision) -> bool:
    if decision is Decision.ACCEPT:
        return row.state in _SETTLED and row.changed_to is not None
    # A state that somebody has mistyped is a doubt, too.
    return row.state not in _SETTLED


def read_decision(word: object) -> Decision | None:
    """Read a decision as a person writes it; None if it is none."""
    try:
        return Decision(str(word).strip().lower().replace(" ", "_").replace("-", "_"))
    except ValueError:
        return None
