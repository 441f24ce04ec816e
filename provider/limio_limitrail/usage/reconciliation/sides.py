# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Read both sides of a reconciliation: the records of a list, and the rows of the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from limio_limitrail.api.redact import safe_text
from limio_limitrail.api.resource import Resource
from limio_limitrail.usage.conventions import ResponseMapping
from limio_limitrail.usage.ledger.kept_members import MISSING, KeptHash, comparable, member, read_kept
from limio_limitrail.usage.ledger.ledger_scan import ScannedRow
from limio_limitrail.usage.ledger.row_identity import read_row_key
from limio_limitrail.usage.ledger.table import milliseconds
from limio_limitrail.usage.reconciliation.amounts import read_amount
from limio_limitrail.usage.reconciliation.model import Record, Row
from limio_limitrail.usage.reconciliation.parameters import LedgerField
from limio_limitrail.usage.reconciliation.scratch import Identity, dump_values, match_key

UNCLEAR = "unclear"
"""What a record stands for whose decision is none that is known."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """How rows and records are read.

    :param match: by what they are matched: a record's member → what the ledger holds.
    :param compare: what must be equal, likewise.
    :param time_of: what the ledger holds of a row's time in the list; None: the time at which it was sent.
    :param salt: that of the kept hashes.
    :param secret_id: that of the secret in it.
    :param amount: a record's member that holds its amount, and what of the ledger holds it; None: no amounts.
    """

    resource: Resource
    response: ResponseMapping
    match: Mapping[str, LedgerField]
    compare: Mapping[str, LedgerField]
    time_of: LedgerField | None
    salt: str = field(repr=False)
    secret_id: str | None = None
    amount: tuple[str, LedgerField] | None = None

    def record(self, item: Mapping[str, Any]) -> tuple[Identity, str | None, Record]:
        """Return a record of the list, and before it its identity and its `match_key`."""
        matched = {name: self._value(item, name) for name in self.match}
        compared = {name: self._value(item, name) for name in self.compare}
        identity = [self._value(item, name) for name in self.resource.primary_key]
        has_id = bool(identity) and None not in identity
        plain_id = identity[0] if len(identity) == 1 else json.dumps(identity, default=str)
        decision = None if self.response.decision_field is None else self._value(item, self.response.decision_field)
        key = match_key(list(matched.values()), salt=self.salt)
        amount, is_faulty = (None, False) if self.amount is None else read_amount(self._value(item, self.amount[0]))
        record = Record(
            id=safe_text(str(plain_id)) if has_id else None,
            at=self._time(item),
            matched=dump_values(matched),
            compared=dump_values(compared),
            stands=None if decision is None else self.response.states.get(str(decision), UNCLEAR),
            decision=safe_text(decision),
            reservation_id=safe_text(self._value(item, self.response.reservation_field)),
            trace_id=safe_text(self._value(item, "traceId")),
            amount=amount,
            has_faulty_amount=is_faulty,
        )
        content = _digest([plain_id if has_id else None, record.at, record.matched, record.compared, decision, str(amount)])
        return Identity(_digest(plain_id), content) if has_id else Identity(content), key, record

    def _value(self, item: Mapping[str, Any], name: str) -> Any:
        found = member(item, self.resource.columns.get(name, name))
        return None if found is MISSING else comparable(found)

    def _time(self, item: Mapping[str, Any]) -> int | None:
        if self.resource.time_column is None:
            return None
        found = self._value(item, self.resource.time_column)
        return milliseconds(found) if isinstance(found, str) else None

    def row(self, scanned: ScannedRow) -> tuple[str | None, Row]:
        """Return a row of the ledger, and its `match_key`."""
        values = _Values(scanned)
        matched = {name: values.of(field) for name, field in self.match.items()}
        compared = {name: value for name, field in self.compare.items() if (value := values.of(field)) is not MISSING}
        at, at_latest = scanned.first_at, scanned.last_at
        if self.time_of is not None:
            when = values.of(self.time_of)
            at = at_latest = milliseconds(when) if isinstance(when, str) else None
        amount, is_faulty = (None, False) if self.amount is None else read_amount(values.of(self.amount[1]))
        hashes = [value for value in (*matched.values(), *compared.values()) if isinstance(value, KeptHash)]
        found = [None if value is MISSING else value for value in matched.values()]
        key = match_key(found, salt=self.salt)
        return key, Row(
            key=scanned.key,
            operation=scanned.operation,
            row_key=scanned.row_key,
            state=scanned.state,
            version=scanned.version,
            attempts=scanned.attempts,
            matched=dump_values(dict(zip(matched, found, strict=True))),
            compared=dump_values(compared),
            at=at,
            at_latest=at_latest,
            last_at=scanned.last_at,
            in_doubt=scanned.in_doubt,
            is_alive=scanned.is_alive,
            amount=amount,
            has_faulty_amount=is_faulty,
            has_other_secret=any(value.secret_id != self.secret_id for value in hashes),
        )


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(json.dumps(content, default=str).encode(), digest_size=16).digest()


class _Values:
    """What the ledger holds of a row."""

    def __init__(self, row: ScannedRow) -> None:
        self._row = row
        self._keys: Mapping[str, Any] | None = None
        self._kept: Mapping[str, Any] | None = None

    def of(self, field: LedgerField) -> Any:
        """Return a value; `MISSING` if the ledger does not hold it."""
        match field.column:
            case "kept":
                if self._kept is None:
                    self._kept = read_kept(self._row.kept_members)
                return self._kept.get(field.name, MISSING)
            case "row_key":
                if self._keys is None:
                    self._keys = read_row_key(self._row.row_key) or {}
                value = self._keys.get(field.name, MISSING)
                return value if value is MISSING or isinstance(value, KeptHash) else comparable(value)
            case "idempotency_key":
                return self._row.key
        value = getattr(self._row, field.column)
        return MISSING if value is None else value
