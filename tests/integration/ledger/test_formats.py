# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows that another version has written, or that are damaged, are refused in every kind of database."""

from __future__ import annotations

import pytest

from limio_limitrail.usage.ledger.states import LedgerError
from limio_limitrail.usage.ledger.table import FORMAT
from tests.support.ledgers import PARK, RESEND, entries, make_row

ROWS = {name: make_row(name) for name in ("committed", "denied", "new")}


def told(db):
    """Give state and format of each row by its name."""
    names = {row.key: name for name, row in ROWS.items()}
    return {names[key]: (entry["state"], entry["ledger_format"]) for key, entry in entries(db).items()}


def test_a_ledger_that_lacks_columns_is_refused(db, ledger_in):
    db.execute("CREATE TABLE ledger (idempotency_key varchar(36) NOT NULL PRIMARY KEY, state varchar(20))")
    with pytest.raises(LedgerError, match="is no ledger of this version: it lacks attempts, body_digest"):
        ledger_in(db)


@pytest.mark.parametrize("state", ["committed", "sending", "settled-by-a-word-of-its-own"])
def test_a_row_of_a_newer_version_is_refused(db, ledger_in, state):
    ledger = ledger_in(db)
    ledger.claim([ROWS["committed"], ROWS["new"]], policy=PARK)
    db.execute(f"UPDATE ledger SET ledger_format = 4, state = '{state}' WHERE idempotency_key = '{ROWS['committed'].key}'")
    before = entries(db)
    other = ledger_in(db, "run-2")
    asked = [ROWS["denied"], ROWS["committed"]]
    for ask in (other.settled, other.claim):
        with pytest.raises(LedgerError, match=r"has format 4, and this version reads format 3") as caught:
            ask(asked, policy=RESEND)
        assert ROWS["committed"].key in str(caught.value)
        assert "or a later one" in str(caught.value)
        assert entries(db) == before
    [claim] = other.claim([ROWS["denied"]], policy=PARK)
    assert claim.granted
    assert told(db)["denied"] == ("sending", FORMAT)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("ledger_format = 0", "has format 0"),
        ("ledger_format = -1", "has format -1"),
        ("ledger_format = 2", "has format 2, and this version reads format 3"),
        ("ledger_format = NULL", "ledger_format must not be empty"),
        ("lease_until = NULL", "lease_until must not be empty"),
        ("claim_id = NULL, run_id = NULL", "run_id, claim_id must not be empty"),
        ("state = NULL", "the state 'None'"),
        ("state = 'paid'", "the state 'paid'"),
    ],
)
def test_a_row_that_is_damaged_is_refused(db, ledger_in, change, says):
    ledger = ledger_in(db)
    ledger.claim([ROWS["new"]], policy=PARK)
    db.execute(f"UPDATE ledger SET {change}")
    for ask in (ledger.settled, ledger.claim):
        with pytest.raises(LedgerError, match=says) as caught:
            ask([ROWS["new"]], policy=RESEND)
        assert ROWS["new"].key in str(caught.value)


@pytest.mark.parametrize("name", ["ledger_format", "lease_until", "attempts", "try_number"])
def test_a_text_where_a_number_belongs(lite, ledger_in, name):
    """SQLite keeps what it is given."""
    ledger = ledger_in(lite)
    ledger.claim([ROWS["new"]], policy=PARK)
    lite.execute(f"UPDATE ledger SET {name} = 'much'")
    with pytest.raises(LedgerError, match=f"{name} is no number"):
        ledger.claim([ROWS["new"]], policy=PARK)
