# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A dry run returns what a load would do, and leaves everything as it was."""

from __future__ import annotations

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import ContractError, LandingError
from limio_limitrail.transfers import Check
from tests.support.databases import Database

INT, T = Kind.INTEGER, Kind.TEXT
FIRST = {"id": (INT, [1, 2, 3]), "a": (T, ["x", "y", "z"]), "n": (INT, [1, 2, 3])}
SECOND = {"id": (INT, [3, 3, 4]), "a": (T, ["Z", "z", "w"]), "n": (T, ["a", "3", "c"]), "new": (INT, [1, 2, 3])}


@pytest.mark.parametrize("mode", ["merge", "append", "replace", "history"])
def test_the_same_result_and_nothing_else(db: Database, mode: str) -> None:
    tried = db.land(mode, FIRST, dry_run=True)
    assert not db.exists()
    assert db.land(mode, FIRST) == tried
    before = (db.types(), db.rows(own=True))
    for run in ("run-1", "run-2"):
        tried = db.land(mode, SECOND if mode != "append" else {**SECOND, "id": (INT, [5, 5, 6])}, run=run, dry_run=True)
        assert (db.types(), db.rows(own=True)) == before
        assert (tried.rows, tried.duplicates, tried.columns_added, tried.columns_widened) == (3, 1, ("new",), ("n",))
    assert db.land(mode, SECOND if mode != "append" else {**SECOND, "id": (INT, [5, 5, 6])}, run="run-2") == tried


def test_checks_see_what_would_be_there(db: Database) -> None:
    db.land("merge", FIRST)
    assert db.land("merge", SECOND, dry_run=True, checks=[Check("rows_between", least=4)]).inserted == 1
    with pytest.raises(ContractError, match="the table has 4 rows"):
        db.land("merge", SECOND, dry_run=True, checks=[Check("rows_between", most=3)])
    assert len(db.rows()) == 3


def test_what_a_commit_would_refuse_is_refused(postgres: Database) -> None:
    postgres.execute(
        "CREATE TABLE customers (id bigint PRIMARY KEY)",
        "CREATE TABLE subs (id bigint, customer bigint REFERENCES customers DEFERRABLE INITIALLY DEFERRED)",
    )
    for dry_run in (True, False):
        with pytest.raises(LandingError, match="ForeignKeyViolation"):
            postgres.land("merge", {"id": (INT, [1]), "customer": (INT, [7])}, dry_run=dry_run)
    assert postgres.rows() == []


def test_nothing_is_reported_that_is_not_committed(duck: Database) -> None:
    reported: list[object] = []
    tried = duck.land("merge", FIRST, dry_run=True, before_commit=reported.append)
    assert reported == []
    assert duck.land("merge", FIRST, before_commit=reported.append) == tried
    assert reported == [tried]
