# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the emulated LimitRail really carried out, in order: the truth a test compares with."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalEntry:
    """One request that was carried out; an answer that was only given again has none.

    ``operation`` is ``commit``, ``reserve``, ``commit_reservation`` or ``cancel_reservation``; ``key`` the idempotency
    key that came, ``body`` the bytes that came.
    """

    number: int
    tenant: str
    operation: str
    key: str | None
    body: bytes
    decision: str
    usage_id: str | None
    reservation_id: str | None
    at: datetime

    def as_json(self) -> dict[str, Any]:
        """The entry as control shows it."""
        return {**asdict(self), "body": self.body.decode("utf-8", "replace"), "at": instant(self.at)}


class Journal:
    """The entries; they may be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._entries: list[JournalEntry] = []

    def now(self) -> datetime:
        """The time, never earlier than it was before."""
        with self._lock:
            self._latest = max(self._latest, datetime.now(UTC))
            return self._latest

    def note(self, **what: Any) -> JournalEntry:
        """Add an entry: all its members but the number."""
        with self._lock:
            self._number += 1
            entry = JournalEntry(number=self._number, **what)
            self._entries.append(entry)
            return entry

    def entries(self, tenant: str | None = None) -> list[JournalEntry]:
        """All entries, or those of a tenant, in order."""
        with self._lock:
            return [entry for entry in self._entries if tenant is None or entry.tenant == tenant]

    def clear(self) -> None:
        """Forget the entries; the numbers go on."""
        with self._lock:
            self._entries.clear()


def instant(moment: datetime) -> str:
    """``2026-01-15T08:00:00.123456Z``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
