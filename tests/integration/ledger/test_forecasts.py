# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A ledger that only looks: it says what a worker would do, leaves nothing, and sees whether others live."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from limio_limitrail.usage.ledger.leases import LOCK_FILE_SUFFIX
from limio_limitrail.usage.ledger.rules import Action
from limio_limitrail.usage.ledger.states import LedgerError
from tests.support.ledger_worker import another_worker
from tests.support.ledgers import PARK, FailingDatabase, entries, make_ledger, make_row, make_rows, make_worker


def look(db, *names, policy=PARK, run="dry"):
    """Return the actions of rows by name, as a ledger says that only looks."""
    held = FailingDatabase(db.hook())
    ledger = make_ledger(held, make_worker(run), read_only=True)
    rows = [make_row(name) for name in names]
    try:
        found = ledger.forecast(rows, policy=policy)
    finally:
        held.close()
    return {name: found[row.key][0] for name, row in zip(names, rows, strict=True) if row.key in found}


def test_there_need_be_no_table(db):
    held = FailingDatabase(db.hook())
    assert not make_ledger(held, make_worker(), read_only=True).exists()
    held.close()
    assert not db.exists("ledger")


@pytest.mark.parametrize("name", ["sqlite", "psycopg3"])
def test_a_live_worker_is_waited_for_and_a_dead_one_is_not(opened, ledger_in, name):
    db = opened(name)
    ledger_in(db)
    with another_worker(db, "a", "b") as process:
        before = entries(db)
        assert look(db, "a", "b", "c") == {"a": Action.WAIT, "b": Action.WAIT}
        process.kill()
        if name == "sqlite":
            # Its process is gone, whatever its lease says.
            assert look(db, "a", "b") == {"a": Action.PARK, "b": Action.PARK}
        else:
            assert look(db, "a") == {"a": Action.WAIT}
            db.execute("UPDATE ledger SET lease_until = 1")
            assert look(db, "a") == {"a": Action.PARK}
            before = {key: {**entry, "lease_until": 1} for key, entry in before.items()}
        assert entries(db) == before


def test_a_look_makes_no_lock_file_and_takes_no_lock(lite, ledger_in):
    folder = Path(lite.connection["host"]).parent
    maker = ledger_in(lite)
    maker.claim([make_row("a")], policy=PARK)
    maker._database.close()
    lock = next(folder.glob(f"*{LOCK_FILE_SUFFIX}"))
    content = lock.read_bytes()
    assert look(lite, "a") == {"a": Action.PARK}
    assert lock.read_bytes() == content
    lock.unlink()
    assert look(lite, "a") in ({"a": Action.WAIT}, {"a": Action.PARK})
    assert not lock.exists()


@pytest.mark.every_driver
def test_copies_that_cannot_count_together_are_told_before(db, ledger_in):
    ledger = ledger_in(db)
    ledger.worker = replace(ledger.worker, map_index=0)
    if ledger._database.name in ("postgresql", "duckdb", "sqlite"):
        ledger.claim(make_rows(3), policy=replace(PARK, limit=2))
        assert ledger.count_sent_in_run() == 2
        return
    with pytest.raises(LedgerError, match="limit= with a mapped task"):
        ledger.count_sent_in_run()
