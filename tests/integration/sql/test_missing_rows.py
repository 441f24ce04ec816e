# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows whose records a list no longer has: which are marked or deleted, and which never."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LoadResult
from limio_limitrail.landing.sql.model import OnMissing, Scope
from tests.support.databases import NOON, Database

DAY = timedelta(days=1)


def scope(name: str, *, task: str = "sync/orders", is_only_list: bool = True) -> Scope:
    return Scope(
        digest=hashlib.sha256(name.encode()).hexdigest()[:16], text=f"the list {name}", task=task, is_only_list=is_only_list
    )


A, B = scope("A"), scope("B", task="sync/others")


def scan(db: Database, *keys: str, on_missing: str = "mark", of: Scope = A, day: int = 0, **more: Any) -> LoadResult:
    """Load a full scan that found these keys."""
    part = {"id": (Kind.TEXT, list(keys)), "v": (Kind.TEXT, [more.pop("v", "same")] * len(keys))}
    options = {"full_scan": True, "scope": of, "on_missing": OnMissing(on_missing), "run": f"{of.task}/day-{day}"} | more
    return db.land("merge", *([part] if keys else []), at=NOON + day * DAY, **options)


def state(db: Database) -> dict[str, str]:
    """Return which rows are there, and since when they are marked."""
    return {row["id"]: (row.get("_deleted_at") or "")[:10] for row in db.rows()}


def day(number: int) -> str:
    return (NOON + number * DAY).date().isoformat()


def test_a_vanished_row_is_marked_until_it_returns(db: Database) -> None:
    scan(db, "a", "b")
    result = scan(db, "a", day=1)
    assert (result.marked, result.deleted, result.unchanged, result.missing_checked) == (1, 0, 1, True)
    assert state(db) == {"a": "", "b": day(1)}
    assert scan(db, "a", day=2).marked == 0
    assert state(db) == {"a": "", "b": day(1)}
    result = scan(db, "a", "b", day=3)
    assert (result.returned, result.unchanged) == (1, 2)
    assert state(db) == {"a": "", "b": ""}


def test_a_vanished_row_is_deleted(db: Database) -> None:
    scan(db, "a", "b", on_missing="delete")
    result = scan(db, "a", on_missing="delete", day=1)
    assert (result.marked, result.deleted, result.missing_checked) == (0, 1, True)
    assert state(db) == {"a": ""}
    assert scan(db, "a", "b", on_missing="delete", day=2).inserted == 1
