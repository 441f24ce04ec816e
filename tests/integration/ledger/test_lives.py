# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whether the worker that has claimed a row still lives: by proof where there is any, and not by a clock that may be wrong."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from limio_limitrail.usage.ledger.leases import LOCK_FILE_SUFFIX
from limio_limitrail.usage.ledger.states import State
from tests.support.ledger_worker import another_worker
from tests.support.ledgers import PARK, RESEND, FailingDatabase, entries, lease_of, make_ledger, make_row, make_worker

ROW = make_row("a")
HOUR = 3600.0


@pytest.fixture
def short_lease(monkeypatch):
    for name, seconds in lease_of(0.5).items():
        monkeypatch.setattr(name, seconds)


@pytest.fixture
def ledger_beside(ledger_in):
    """A maker of ledgers beside other processes: the file is not kept open, and the table is there."""

    def make(database, run="run-2", **more):
        with closing(FailingDatabase(database.hook())) as held:
            make_ledger(held, make_worker("first")).prepare()
        return lambda: ledger_in(database, run, **more)

    return make


def only(claims):
    [claim] = claims
    return claim


def settle(ledger, row=ROW, *, policy=PARK):
    """Ask for a row until nobody is waited for any more."""
    while True:
        claim = only(ledger.claim([row], policy=policy))
        if not claim.waits:
            return claim


def side_file(database) -> Path:
    return Path(database.connection["host"] + LOCK_FILE_SUFFIX)


# -- proof -----------------------------------------------------------------------------------------------------------


@pytest.mark.other_processes
@pytest.mark.parametrize("ahead", [0.0, HOUR, -HOUR], ids=["right", "an hour ahead", "an hour behind"])
@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
@pytest.mark.parametrize("policy", [PARK, RESEND], ids=["park", "resend"])
def test_the_rows_of_a_killed_process_are_not_waited_for(opened, ledger_beside, name, policy, ahead):
    db = opened(name)
    begin = ledger_beside(db)
    with another_worker(db, "a", ahead=ahead) as other:
        other.kill()
        claim = only(begin().claim([ROW], policy=policy))
    # What was claimed in the future has an age that is not known, and is not sent again by itself.
    again = policy is RESEND and ahead <= 0
    assert (claim.granted, claim.waits) == (again, False)
    assert entries(db)[ROW.key]["state"] == ("sending" if again else "parked")


@pytest.mark.parametrize("ahead", [0.0, HOUR, -HOUR], ids=["right", "an hour ahead", "an hour behind"])
def test_a_process_that_lives_is_not_taken_for_dead_whatever_its_clock_says(opened, ledger_beside, ahead):
    db = opened("sqlite")
    begin = ledger_beside(db)
    with another_worker(db, "a", ahead=ahead) as other:
        ledger = begin()
        assert only(ledger.claim([ROW], policy=PARK)).waits
        other.kill()
        assert only(ledger.claim([ROW], policy=PARK)).entry.state is State.PARKED


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["an hour ahead", "an hour behind"])
def test_a_process_that_was_stopped_holds_its_rows_for_a_lease(opened, ledger_beside, short_lease, ahead):
    db = opened("sqlite")
    begin = ledger_beside(db)
    with another_worker(db, "a", ahead=ahead) as other:
        other.stop()
        ledger = begin()
        assert only(ledger.claim([ROW], policy=PARK)).waits
        assert settle(ledger).entry.state is State.PARKED
        assert not other.has_ended


def test_a_worker_that_has_ended_in_this_process_is_not_waited_for(opened, ledger_in):
    for name in ("duckdb", "sqlite"):
        db = opened(name)
        first = ledger_in(db)
        first.claim([ROW], policy=PARK)
        second = ledger_in(db, "run-2")
        assert only(second.claim([ROW], policy=PARK)).waits
        first._database.close()
        assert only(second.claim([ROW], policy=PARK)).entry.state is State.PARKED


@pytest.mark.other_processes
def test_a_worker_that_has_lost_its_duckdb_file_for_a_moment_still_lives(opened, ledger_beside):
    """After a failure it opens the file again; another process may have it meanwhile."""
    db = opened("duckdb")
    ledger_beside(db)
    mine = FailingDatabase(db.hook())
    with closing(mine):
        ledger = make_ledger(mine, make_worker("mine"))
        ledger.claim([ROW], policy=PARK)
        mine._drop()
        with another_worker(db, "a", "b"):
            pass
        found = entries(db)
    assert found[ROW.key]["state"] == "sending"
    assert found[ROW.key]["claim_id"] == ledger.worker.claim_id
    assert found[make_row("b").key]["state"] == "sending"


@pytest.mark.parametrize("what", ["removed", "replaced", "a folder", "not to be written", "other content"])
def test_without_proof_the_lease_tells(opened, ledger_beside, what):
    """Nobody is taken for dead because the file with the locks is not what it was."""
    db = opened("sqlite")
    begin = ledger_beside(db)
    side = side_file(db)
    with another_worker(db, "a") as other:
        side.unlink()
        match what:
            case "replaced":
                side.write_text("0123456789ab")
            case "a folder":
                side.mkdir()
            case "not to be written":
                side.symlink_to("/dev/null")
            case "other content":
                side.write_text("something of somebody's own")
        ledger = begin()
        assert only(ledger.claim([ROW], policy=PARK)).waits
        other.kill()
        assert only(ledger.claim([ROW], policy=PARK)).waits
    db.execute("UPDATE ledger SET lease_until = 1")
    assert only(ledger.claim([ROW], policy=PARK)).entry.state is State.PARKED


def test_a_claim_of_a_version_that_proves_nothing(opened, ledger_in):
    """On DuckDB it is dead, because whoever has the file is alone; on SQLite its lease tells."""
    waits = {}
    for name in ("duckdb", "sqlite"):
        db = opened(name)
        ledger_in(db).claim([ROW], policy=PARK)
        db.execute(f"UPDATE ledger SET claim_id = '{'0' * 32}'")
        waits[name] = only(ledger_in(db, "run-2").claim([ROW], policy=PARK)).waits
    assert waits == {"duckdb": False, "sqlite": True}


def test_workers_leave_nothing_behind_but_a_few_bytes(opened, ledger_in):
    db = opened("sqlite")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        ledger = ledger_in(db, f"run-{number}")
        ledger.claim([make_row(number)], policy=PARK)
        ledger._database.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert side_file(db).stat().st_size == 12


# -- clocks ----------------------------------------------------------------------------------------------------------


def test_a_lease_that_a_wrong_clock_has_written_is_watched(db, ledger_in, short_lease):
    """Further ahead than a lease is long: nobody waits for an hour."""
    dead = ledger_in(db)
    dead.claim([ROW], policy=PARK)
    db.execute(f"UPDATE ledger SET lease_until = {int((time.time() + HOUR) * 1000)}, claim_id = '{'0' * 32}'")
    ledger = ledger_in(db, "run-2")
    claim = only(ledger.claim([ROW], policy=PARK))
    assert claim.waits == (db.name != "duckdb")
    assert settle(ledger).entry.state is State.PARKED


@pytest.mark.parametrize("wrong", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_worker_with_a_wrong_clock_that_gives_signs_of_life_is_waited_for(opened, ledger_in, short_lease, wrong):
    db = opened("standard")
    alive = ledger_in(db, clock=lambda: time.time() + wrong)
    alive.claim([ROW], policy=PARK)
    ledger = ledger_in(db, "run-2")
    for _ in range(8):
        assert only(ledger.claim([ROW], policy=PARK)).waits
        time.sleep(0.1)
        alive.renew([ROW.key])
    assert settle(ledger).entry.state is State.PARKED


def test_where_no_clock_is_shared_a_lease_that_seems_over_is_watched(opened, ledger_in, short_lease):
    db = opened("standard")
    ledger_in(db).claim([ROW], policy=PARK)
    db.execute(f"UPDATE ledger SET lease_until = {int((time.time() - HOUR) * 1000)}")
    ledger = ledger_in(db, "run-2")
    assert only(ledger.claim([ROW], policy=PARK)).waits
    assert settle(ledger).entry.state is State.PARKED


def test_a_lease_of_the_day_before_yesterday_is_over_by_any_clock(db, ledger_in):
    ledger_in(db).claim([ROW], policy=PARK)
    db.execute(f"UPDATE ledger SET lease_until = {int((time.time() - 48 * HOUR) * 1000)}, claim_id = '{'0' * 32}'")
    assert only(ledger_in(db, "run-2").claim([ROW], policy=PARK)).entry.state is State.PARKED


def test_it_is_said_who_is_waited_for(opened, ledger_in, caplog, monkeypatch):
    monkeypatch.setattr("limio_limitrail.usage.ledger.leases.LOG_EVERY", 0.0)
    db = opened("sqlite")
    ledger_in(db).claim([ROW], policy=PARK)
    ledger = ledger_in(db, "run-2")
    with caplog.at_level("INFO"):
        for _ in range(2):
            ledger.claim([ROW], policy=PARK)
    assert caplog.text.count("1 rows, or more, are being sent by others, such as try 1 of task usage.send in run run-1") == 2
