# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What the page shows of a ledger."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from limio_limitrail.plugins.usage_page.databases import PageError, explained, open_reader
from limio_limitrail.plugins.usage_page.settings import LedgerSetting
from limio_limitrail.usage.ledger.open_rows import CHANGED, DAMAGED, KINDS, Filter, OpenRow
from limio_limitrail.usage.ledger.overview import AGES, RowCounts
from limio_limitrail.usage.ledger.states import State

DAYS = 30
"""Days that the chart shows."""

MAX_OPEN = 100
"""Rows that need a person that the page lists."""

MAX_REASONS = 20

MAX_TEXT = 300
"""Characters of one value."""


def read_ledger(ledger: LedgerSetting) -> dict[str, Any]:
    """Return what the page shows of a ledger; a part that cannot be read is a message.

    :raises PageError: nothing can be read.
    """
    with open_reader(ledger) as reader:
        counts = _part(ledger, lambda: reader.count_rows(days=DAYS))
        found: RowCounts | None = counts.get("value")
        # What the count has shown to be none is not searched for.
        kinds = KINDS if found is None else _kinds({one.state for one in found.days})
        return {
            "days": counts if found is None else {"value": _days(found.days)},
            "ages": counts if found is None else {"value": {"bounds": list(AGES), "rows": list(found.ages)}},
            "reasons": _part(
                ledger,
                lambda: [
                    {"state": one.state, "reason": one.reason[:MAX_TEXT], "rows": one.rows}
                    for one in reader.count_reasons(limit=MAX_REASONS)
                ],
            ),
            "open": _part(ledger, lambda: _open_rows(reader.list_open(Filter(kinds=kinds, limit=MAX_OPEN + 1)))),
        }


def _kinds(states: Collection[str]) -> list[str]:
    """Return why rows may need a person in a ledger with some states."""
    is_damaged = not set(State) >= set(states)
    return [kind for kind in KINDS if kind == CHANGED or (is_damaged if kind == DAMAGED else kind in states)]


def _part(ledger: LedgerSetting, read: Callable[[], Any]) -> dict[str, Any]:
    try:
        with explained(ledger):
            return {"value": read()}
    except PageError as error:
        return {"error": str(error)}


def _days(counts: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"state": one.state[:MAX_TEXT], "day": one.day, "rows": one.rows} for one in counts]


def _open_rows(rows: Sequence[OpenRow]) -> dict[str, Any]:
    return {"rows": [_open_row(row) for row in rows[:MAX_OPEN]], "more": len(rows) > MAX_OPEN}


def _open_row(row: OpenRow) -> dict[str, Any]:
    texts = {
        name: None if (value := getattr(row, name)) is None else str(value)[:MAX_TEXT]
        for name in ("operation", "row_key", "kind", "reason", "dag_id", "task_id", "run_id", "members")
    }
    return {"key": row.key, "version": row.version, "since": row.since, "attempts": row.attempts, **texts}
