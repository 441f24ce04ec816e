# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Loads into a Postgres whose tables are sent to subscribers: each table that is changed must be able to name its rows."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql.errors import DatabaseError
from limio_limitrail.landing.sql.masked_keys import MaskedKeys
from limio_limitrail.landing.sql.model import OnMissing, Scope
from limio_limitrail.transfers import ChildTable
from limio_limitrail.usage.ledger.run_history import PastRun, RunHistory
from limio_limitrail.usage.reconciliation.tables import ReconciliationTables, Totals
from tests.support.child_rows import Orders
from tests.support.databases import NOON
from tests.support.ledgers import FailingDatabase, make_worker

INT, T, J = Kind.INTEGER, Kind.TEXT, Kind.JSON
LIST = Scope(digest="1" * 16, text="one list", task="sync/one")
PUBLICATIONS = {"all": "FOR ALL TABLES", "schema": "FOR TABLES IN SCHEMA public"}

pytestmark = [pytest.mark.every_driver, pytest.mark.filterwarnings("ignore:.*wal_level")]


def publish(db, of="all"):
    # Postgres checks identities whatever its wal_level.
    db.execute(f"CREATE PUBLICATION everything {PUBLICATIONS[of]}")


def identities(db):
    """Table → its replica identity, and whether it has a primary key."""
    found = db.query(
        "SELECT relname, relreplident::text, EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary) "
        "FROM pg_class WHERE relkind = 'r' AND relpersistence = 'p' AND relnamespace = 'public'::regnamespace"
    )
    return {name: (identity, keyed) for name, identity, keyed in found}


def pull(db, mode, day, values, **more):
    about = {"scope": LIST, "full_scan": True, "run": f"sync/one/day-{day}", "at": NOON + timedelta(days=day), **more}
    return db.land(mode, {"id": (T, list(values)), "v": (T, list(values.values()))}, **about)


def merges(db, on_missing):
    pull(db, "merge", 1, {"a": "1", "b": "1"}, on_missing=on_missing)
    pull(db, "merge", 2, {"a": "2", "c": "1"}, on_missing=on_missing)
    pull(db, "merge", 3, {"a": "3", "b": "2"}, on_missing=on_missing)


def json_keys(db):
    for day in range(2):
        key = {"id": (J, ['{"k": 1}', '{"k": 2}']), "v": (INT, [day, 0])}
        db.land("merge", key, run=f"sync/one/day-{day}", at=NOON + timedelta(days=day))


def appends(db):
    for _ in range(2):
        pull(db, "append", 1, {"a": "1"})
        pull(db, "append", 2, {"a": "1"}, key=())


def masked_keys(db):
    for digest in ("one", "two"):
        for mode in ("replace", "merge"):
            pull(db, mode, 1, {"0" * 64: "1"}, masked_keys=MaskedKeys(columns=("id",), digest=digest))


def histories(db):
    for day, values in enumerate([{"a": "1", "b": "1"}, {"a": "2"}, {"a": "2", "b": "1"}, {"a": "3"}]):
        pull(db, "history", day, values, on_missing=OnMissing.MARK)
    pull(db, "history", 1, {"a": "9", "c": "1"}, on_missing=OnMissing.MARK)


def orders_of(db, folder, mode):
    landing = Orders(db=db, folder=folder, tables={"items": ChildTable("data.items")}, mode=mode)
    for run in ("run-1", "run-1", "run-2"):
        landing.land([{"id": "a", "data": {"items": [{"sku": run}, {"sku": "y"}]}}], run=run)


def reconciliations(db, folder):
    with contextlib.closing(FailingDatabase(db.hook())) as held:
        made = ReconciliationTables(
            held, differences_table="differences", totals_table="totals", run=["d", "t", -1, "s", "u"], operation="usage.commit"
        )
        for _ in range(2):
            made.write([], Totals("usage.commit"), now=0)


def runs(db, folder):
    with contextlib.closing(FailingDatabase(db.hook())) as held:
        for number in range(2):
            history = RunHistory(held, table="runs", worker=make_worker(f"run-{number}"), operation="usage.commit", about=[])
            history.add(PastRun(run_id=f"run-{number}", rows=1, sent=1, seconds=1))
            assert history._usable


WRITERS = {
    "merge, keep": lambda db, _: merges(db, OnMissing.KEEP),
    "merge, mark": lambda db, _: merges(db, OnMissing.MARK),
    "merge, delete": lambda db, _: merges(db, OnMissing.DELETE),
    "merge by json": lambda db, _: json_keys(db),
    "append": lambda db, _: appends(db),
    "replace": lambda db, _: [pull(db, "replace", day, {"a": str(day)}) for day in range(3)],
    "masked keys": lambda db, _: masked_keys(db),
    "history": lambda db, _: histories(db),
    "child tables": lambda db, folder: orders_of(db, folder, "merge"),
    "child tables, append": lambda db, folder: orders_of(db, folder, "append"),
    "child tables, replace": lambda db, folder: orders_of(db, folder, "replace"),
    "reconciliation": reconciliations,
    "runs": runs,
}


@pytest.mark.sampled
@pytest.mark.parametrize("of", PUBLICATIONS)
@pytest.mark.parametrize("writer", WRITERS)
def test_published_tables_can_be_changed(postgres, tmp_path, of, writer):
    publish(postgres, of)
    WRITERS[writer](postgres, tmp_path)
    assert set(identities(postgres).values()) <= {("d", True), ("f", False)}


OWN = {
    "merge, mark": "_limio_scopes",
    "merge, keep": "_limio_whole_pulls",
    "masked keys": "_limio_masked_keys",
    "history": "subs__seen",
    "reconciliation": "differences",
    "runs": "runs",
}


@pytest.mark.parametrize("writer", OWN)
def test_tables_of_an_earlier_version_get_what_they_lack(postgres, tmp_path, writer):
    WRITERS[writer](postgres, tmp_path)
    keyless = [name for name, (_, keyed) in identities(postgres).items() if not keyed and name != "subs"]
    assert OWN[writer] in keyless
    for name in keyless:
        postgres.execute(f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT")
    WRITERS[writer](postgres, tmp_path)
    assert identities(postgres)[OWN[writer]] == ("d", False), "nobody publishes it, and somebody may read it for long"
    publish(postgres)
    WRITERS[writer](postgres, tmp_path)
    assert {identities(postgres)[name] for name in keyless} == {("f", False)}


def test_a_table_of_others_stays_as_it_is(postgres):
    postgres.execute("CREATE TABLE subs (id text, v text)")
    pull(postgres, "merge", 1, {"a": "1"})
    publish(postgres)
    with pytest.raises(DatabaseError, match="SQLSTATE 55000") as refused:
        pull(postgres, "merge", 2, {"a": "2"})
    assert "Have the table's owner run ALTER TABLE ... REPLICA IDENTITY FULL or add a primary key" in refused.value.what
    assert "subs" in refused.value.what
    assert identities(postgres)["subs"] == ("d", False)
    postgres.execute("ALTER TABLE subs REPLICA IDENTITY FULL")
    assert pull(postgres, "merge", 2, {"a": "2"}).updated == 1


def test_a_publication_that_leaves_out_what_names_the_rows(postgres):
    pull(postgres, "merge", 1, {"a": "1"})
    postgres.execute("CREATE PUBLICATION one FOR TABLE subs (v)")
    with pytest.raises(DatabaseError, match="SQLSTATE 42P10") as refused:
        pull(postgres, "merge", 2, {"a": "2"})
    assert "REPLICA IDENTITY" in refused.value.what


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_a_new_table_that_was_staged_while_pages_came(postgres, tmp_path, mode):
    postgres = replace(postgres, staging=tmp_path / "staged")
    parts = [{"id": (T, [one]), "v": (T, ["1"])} for one in "abc"]
    assert postgres.land(mode, *parts, run="one").inserted == 3
    assert identities(postgres)["subs"] == (("d", True) if mode == "merge" else ("f", False))
    publish(postgres)
    assert postgres.land(mode, *parts, run="one").rows == 3
