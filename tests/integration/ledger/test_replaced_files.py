# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A ledger's file that is replaced by a backup while a task sends rows: the backup does not know what was sent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import LedgerError, State
from tests.support.ledgers import PARK, entries, make_rows

ROWS = make_rows(4)


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_nothing_more_is_claimed_and_the_former_file_is_asked_for(opened, ledger_in, name):
    db = opened(name)
    ledger = ledger_in(db)
    file = db.connection["host"]
    shutil.copy(file, f"{file}.backup")
    assert all(claim.granted for claim in ledger.claim(ROWS[:2], policy=PARK))
    Path(file).rename(f"{file}.former")
    Path(f"{file}.backup").rename(file)
    before = ledger._database.transactions
    for step in (
        lambda: ledger.record({ROWS[0].key: Outcome(state=State.COMMITTED)}),
        lambda: ledger.claim(ROWS[2:], policy=PARK),
    ):
        with pytest.raises(LedgerError, match="put it back before the task runs again, or rows are sent twice"):
            step()
    assert ledger._database.transactions == before + 2, "no try is repeated"
    ledger._database.close()
    Path(f"{file}.former").rename(file)
    # SQLite refuses to write into a file that was moved.
    assert entries(db)[ROWS[0].key]["state"] in ("sending", "committed")
