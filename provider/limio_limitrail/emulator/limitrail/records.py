# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What LimitRail records: usage, reservations and the journal of what was carried out, with numbers exactly as sent."""

from __future__ import annotations

import json
import re
import threading
import uuid
from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from limio_limitrail.emulator.core.times import parse_datetime

if TYPE_CHECKING:
    from limio_limitrail.emulator.core.http_messages import Call

Kind = TypeVar("Kind", "UsageRecord", "Reservation")
_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?\Z")


class JsonNumber(str):
    """A number as it stood in the JSON text."""

    __slots__ = ()


def loads_exact(text: bytes | str) -> Any:
    """Parse JSON with every number a ``JsonNumber``. ValueError when it is malformed."""
    return json.loads(text, parse_float=JsonNumber, parse_int=JsonNumber, parse_constant=JsonNumber)


def dumps_exact(value: Any) -> str:
    """Return a value as JSON, with every ``JsonNumber`` as it was."""
    if isinstance(value, JsonNumber):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{dumps_exact(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(dumps_exact, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(value)


def finite_decimal(value: Any) -> Decimal | None:
    """Return the exact value of a JSON number or of a decimal in a string; None for anything else."""
    return Decimal(value) if isinstance(value, str) and _DECIMAL.match(value) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """One request that was carried out; a replayed answer has no entry.

    ``operation`` is ``commit``, ``reserve``, ``commit_reservation`` or ``cancel_reservation``; ``key`` the idempotency
    key that was sent, ``body`` the bytes that were sent.
    """

    number: int
    tenant: str
    operation: str
    key: str | None
    body: bytes
    decision: str
    usage_id: str | None = None
    reservation_id: str | None = None
    at: datetime

    def as_json(self) -> dict[str, Any]:
        """Return the entry as control shows it."""
        return {**asdict(self), "body": self.body.decode("utf-8", "replace"), "at": iso_micros(self.at)}


class Journal:
    """What LimitRail carried out, in order: the truth a test compares with. Callable from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._entries: list[JournalEntry] = []

    def now(self) -> datetime:
        """Return the time, never earlier than it was before."""
        with self._lock:
            self._latest = max(self._latest, datetime.now(UTC))
            return self._latest

    def record(self, call: Call, operation: str, **members: Any) -> None:
        """Add an entry for a request; ``members`` are those of ``JournalEntry`` that are not its number or its request's."""
        with self._lock:
            self._number += 1
            self._entries.append(JournalEntry(number=self._number, operation=operation, body=call.body, **members))

    def entries(self, tenant: str | None = None) -> list[JournalEntry]:
        """Return all entries, or those of a tenant, in order."""
        with self._lock:
            return [entry for entry in self._entries if tenant is None or entry.tenant == tenant]

    def clear(self) -> None:
        """Delete the entries; the numbers go on."""
        with self._lock:
            self._entries.clear()


def iso_micros(instant: datetime) -> str:
    """Return ``2026-01-15T08:00:00.123456Z``."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


#: The members that a usage request and the items of the lists share.
REQUEST_MEMBERS = ("externalAccount", "operation", "amount", "currency", "metadata")
_USAGE_MEMBERS = ("id", *REQUEST_MEMBERS, "decision", "idempotencyKey", "reservationId", "committedAt")


@dataclass(frozen=True, kw_only=True)
class UsageRecord:
    """Usage that was counted, with the members of its request as they were sent."""

    id: str
    request: dict[str, Any]
    decision: str
    key: str | None
    reservation_id: str | None
    at: datetime

    def as_json(self) -> str:
        """Return the item of the list."""
        return dumps_exact(
            {
                "id": self.id,
                **self.request,
                "decision": self.decision,
                "idempotencyKey": self.key,
                "reservationId": self.reservation_id,
                "committedAt": iso_micros(self.at),
            }
        )


@dataclass(kw_only=True)
class Reservation:
    """Capacity that was reserved: ``OPEN``, ``COMMITTED`` or ``CANCELLED``."""

    id: str
    request: dict[str, Any]
    decision: str
    key: str | None
    at: datetime
    state: str = "OPEN"
    usage_id: str | None = None
    closed: datetime | None = None

    def as_json(self) -> str:
        """Return the item of the list."""
        return dumps_exact(
            {
                "id": self.id,
                **self.request,
                "decision": self.decision,
                "state": self.state,
                "idempotencyKey": self.key,
                "usageId": self.usage_id,
                "createdAt": iso_micros(self.at),
                "closedAt": None if self.closed is None else iso_micros(self.closed),
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
        """Insert a record in order of time; ValueError when its id is taken."""
        with self._lock:
            if record.id in self._by_id:
                raise ValueError(f"there is a record {record.id!r} already")
            index = bisect_right(self._times, record.at)
            self._times.insert(index, record.at)
            self._records.insert(index, record)
            self._by_id[record.id] = record

    def find(self, id_: str) -> Kind | None:
        """Return the record with an id, or None."""
        return self._by_id.get(id_)

    def between(self, start: datetime, stop: datetime) -> list[Kind]:
        """Return the records from ``start`` on and before ``stop``."""
        with self._lock:
            return self._records[bisect_left(self._times, start) : bisect_left(self._times, stop)]


def usage_record(record: dict[str, Any], *, account: str) -> UsageRecord:
    """Return a usage record of a test's own: the members of the list's items, of which only ``committedAt`` is required.

    ``account`` is the default of ``externalAccount``. ValueError for unknown members and without ``committedAt``.
    """
    unknown = sorted(set(record) - set(_USAGE_MEMBERS))
    if unknown:
        raise ValueError(f"a usage record has no {', '.join(unknown)}; it has {', '.join(_USAGE_MEMBERS)}")
    if "committedAt" not in record:
        raise ValueError("a usage record needs committedAt")
    given = record["committedAt"]
    at: datetime = given if isinstance(given, datetime) else parse_datetime(given)
    defaults = {"externalAccount": account, "operation": "TRANSFER", "amount": 1, "currency": None, "metadata": None}
    request = {name: record.get(name, default) for name, default in defaults.items()}
    if not isinstance(request["amount"], str):
        request["amount"] = JsonNumber(request["amount"])
    return UsageRecord(
        id=record.get("id") or new_id("use"),
        request=request,
        decision=record.get("decision", "ALLOWED"),
        key=record.get("idempotencyKey"),
        reservation_id=record.get("reservationId"),
        at=at if at.tzinfo is not None else at.replace(tzinfo=UTC),
    )


def new_id(prefix: str) -> str:
    """Return an id that no other record has."""
    return f"{prefix}-{uuid.uuid4().hex}"
