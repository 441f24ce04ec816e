# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What LimitRail's runtime lists hold: usage and reservations, in order of time."""

from __future__ import annotations

import threading
import uuid
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from limio_limitrail.emulator.limitrail_journal import instant
from limio_limitrail.emulator.literals import Literal, write_json
from limio_limitrail.emulator.times import moment

Kind = TypeVar("Kind", "Usage", "Reservation")


@dataclass(frozen=True, kw_only=True)
class UsageRequest:
    """What usage is reported; ``amount`` is as it was sent."""

    account: str
    operation: str
    amount: str
    currency: str | None = None
    metadata: dict[str, Any] | None = None

    def members(self) -> dict[str, Any]:
        """Its part of a list's item."""
        return {
            "externalAccount": self.account,
            "operation": self.operation,
            "amount": self.amount,
            "currency": self.currency,
            "metadata": self.metadata,
        }


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One counted usage."""

    id: str
    request: UsageRequest
    decision: str
    key: str | None
    reservation_id: str | None
    at: datetime

    def as_json(self) -> str:
        """The item of the list."""
        return write_json(
            {
                "id": self.id,
                **self.request.members(),
                "decision": self.decision,
                "idempotencyKey": self.key,
                "reservationId": self.reservation_id,
                "committedAt": instant(self.at),
            }
        )


@dataclass(kw_only=True)
class Reservation:
    """Capacity that was reserved: ``OPEN``, ``COMMITTED`` or ``CANCELLED``."""

    id: str
    request: UsageRequest
    decision: str
    key: str | None
    at: datetime
    state: str = "OPEN"
    usage_id: str | None = None
    closed: datetime | None = None

    def as_json(self) -> str:
        """The item of the list."""
        return write_json(
            {
                "id": self.id,
                **self.request.members(),
                "decision": self.decision,
                "state": self.state,
                "idempotencyKey": self.key,
                "usageId": self.usage_id,
                "createdAt": instant(self.at),
                "closedAt": None if self.closed is None else instant(self.closed),
            }
        )


class Timeline(Generic[Kind]):
    """Records in order of time, and of arrival where the time is the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: list[datetime] = []
        self._records: list[Kind] = []
        self._by_id: dict[str, Kind] = {}

    def add(self, record: Kind) -> None:
        """Put a record in its place; ValueError when its id is taken."""
        with self._lock:
            if record.id in self._by_id:
                raise ValueError(f"there is a record {record.id!r} already")
            place = bisect_right(self._times, record.at)
            self._times.insert(place, record.at)
            self._records.insert(place, record)
            self._by_id[record.id] = record

    def find(self, id_: str) -> Kind | None:
        """The record with an id."""
        return self._by_id.get(id_)

    def between(self, start: datetime, stop: datetime) -> list[Kind]:
        """Those from ``start`` on and before ``stop``."""
        with self._lock:
            return self._records[bisect_left(self._times, start) : bisect_left(self._times, stop)]


_MEMBERS = (
    "id", "externalAccount", "operation", "amount", "currency", "metadata", "decision", "idempotencyKey",
    "reservationId", "committedAt",
)  # fmt: skip


def usage_of(record: dict[str, Any], *, account: str) -> Usage:
    """A usage record of a test's own: the members of the list's items, of which only ``committedAt`` is needed.

    ``account`` is whose it is when it does not say.
    """
    unknown = sorted(set(record) - set(_MEMBERS))
    if unknown:
        raise ValueError(f"a usage record has no {', '.join(unknown)}; it has {', '.join(_MEMBERS)}")
    if "committedAt" not in record:
        raise ValueError("a usage record needs committedAt")
    given = record["committedAt"]
    at: datetime = given if isinstance(given, datetime) else moment(given)
    amount = record.get("amount", 1)
    return Usage(
        id=record.get("id") or new_id("use"),
        request=UsageRequest(
            account=record.get("externalAccount", account),
            operation=record.get("operation", "TRANSFER"),
            amount=amount if isinstance(amount, str) else Literal(amount),
            currency=record.get("currency"),
            metadata=record.get("metadata"),
        ),
        decision=record.get("decision", "ALLOWED"),
        key=record.get("idempotencyKey"),
        reservation_id=record.get("reservationId"),
        at=at if at.tzinfo is not None else at.replace(tzinfo=UTC),
    )


def new_id(prefix: str) -> str:
    """An id that no other record has."""
    return f"{prefix}-{uuid.uuid4().hex}"
