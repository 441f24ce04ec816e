# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tables that would lose, double or keep rows without a word: a load refuses them, or sees through them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LandingError
from limio_limitrail.landing.sql.table_checks import Loss, check_target, find_loss, has_rows_of
from tests.support.databases import NOON, Database

pytestmark = pytest.mark.every_driver

INT, T, S = Kind.INTEGER, Kind.TEXT, Kind.TIMESTAMP
TEN = datetime(2026, 5, 1, 10, tzinfo=UTC)
CANARY = "canary@example.com"
ROWS = {"id": (INT, [1, 2]), "v": (T, ["a", "b"])}

SWALLOWS = {
    "psycopg3, a trigger": (
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER swallow BEFORE UPDATE OR DELETE ON subs FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION swallow()",
    ),
    "psycopg3, a rule": (
        "CREATE RULE no_update AS ON UPDATE TO subs WHERE old.id = 1 DO INSTEAD NOTHING",
        "CREATE RULE no_delete AS ON DELETE TO subs WHERE old.id = 1 DO INSTEAD NOTHING",
    ),
    "sqlite, a trigger": (
        "CREATE TRIGGER no_update BEFORE UPDATE ON subs WHEN OLD.id = 1 BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER no_delete BEFORE DELETE ON subs WHEN OLD.id = 1 BEGIN SELECT RAISE(IGNORE); END",
    ),
}


@pytest.mark.parametrize("case", SWALLOWS)
@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_rows_that_the_table_keeps_as_they_were(opened, case, mode):
    """They would be counted as unchanged, or stand beside those that take their place."""
    db = opened(case.partition(",")[0])
    db.land("append", ROWS)
    db.execute(*SWALLOWS[case])
    before = db.rows(own=True)
    with pytest.raises(LandingError, match="A trigger or a rule of the table may prevent rows from being written") as refused:
        db.land(mode, {"id": (INT, [1, 2]), "v": (T, [CANARY, "b2"])})
    assert CANARY not in str(refused.value)
    assert db.rows(own=True) == before
    assert db.land("merge", {"id": (INT, [1, 2]), "v": (T, ["a", "b2"])}, run="2").updated == 1, "nobody keeps this one"


def test_a_trigger_of_a_partition(opened):
    db = opened("psycopg3")
    db.execute(
        "CREATE TABLE subs (id bigint, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF subs FOR VALUES FROM (0) TO (10)",
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER swallow BEFORE UPDATE ON low FOR EACH ROW EXECUTE FUNCTION swallow()",
    )
    db.land("append", ROWS)
    with pytest.raises(LandingError, match="A trigger or a rule"):
        db.land("merge", {"id": (INT, [1]), "v": (T, ["a2"])}, run="2")


CHANGES = {
    "psycopg3": (
        "CREATE FUNCTION small() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v = lower(NEW.v); RETURN NEW; END $$",
        "CREATE TRIGGER small BEFORE INSERT OR UPDATE ON subs FOR EACH ROW EXECUTE FUNCTION small()",
    ),
    "sqlite": ("CREATE TRIGGER small AFTER UPDATE OF v ON subs BEGIN UPDATE subs SET v = lower(v) WHERE id = NEW.id; END",),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_trigger_that_only_changes_values_is_in_nobodys_way(opened, name):
    db = opened(name)
    db.land("merge", ROWS)
    db.execute(*CHANGES[name])
    for run in ("2", "3"):
        db.land("merge", {"id": (INT, [1, 2]), "v": (T, ["A", "b"])}, run=run)
        assert [row["v"] for row in db.rows()] == ["a", "b"]


@pytest.fixture
def guarded_table(opened) -> Iterator[Database]:
    """A table of two tenants in Postgres, and a connection whose user sees one of them."""
    db = opened("psycopg3")
    db.execute(
        "CREATE TABLE subs (id bigint, v text, tenant text, _extracted_at timestamptz, _run_id text)",
        "INSERT INTO subs VALUES (1, 'theirs', 'other'), (2, 'ours', 'mine')",
        "CREATE ROLE loader LOGIN",
        "GRANT ALL ON subs TO loader",
        "ALTER TABLE subs ENABLE ROW LEVEL SECURITY",
    )
    yield db
    db.connection["login"] = "postgres"
    db.execute("DROP OWNED BY loader", "DROP ROLE loader")


ALL = "CREATE POLICY everything ON subs FOR ALL TO loader USING (true)"
POLICIES = {
    "none": ([], False),
    "one tenant": (["CREATE POLICY one ON subs FOR ALL TO loader USING (tenant = 'mine')"], False),
    "for reading only": (["CREATE POLICY seen ON subs FOR SELECT TO loader USING (true)"], False),
    "everything, for others": (["CREATE POLICY everything ON subs FOR ALL TO pg_monitor USING (true)"], False),
    "everything, and less": ([ALL, "CREATE POLICY less ON subs AS RESTRICTIVE FOR ALL TO loader USING (id > 1)"], False),
    "everything": ([ALL], True),
    "everything, for all": (["CREATE POLICY everything ON subs USING (true)"], True),
    "a user whom it does not bind": (["ALTER ROLE loader BYPASSRLS"], True),
}


@pytest.mark.parametrize("case", POLICIES)
def test_row_level_security(guarded_table, case):
    """Hidden rows would be doubled by a merge, and left behind by a replacement."""
    statements, open_to_us = POLICIES[case]
    guarded_table.execute(*statements)
    guarded_table.connection["login"] = "loader"
    rows = {"id": (INT, [1, 2]), "v": (T, ["x", "y"]), "tenant": (T, ["mine", "mine"])}
    if open_to_us:
        assert guarded_table.land("merge", rows).updated == 2
        return
    for mode in ("merge", "append", "replace"):
        with pytest.raises(LandingError, match=r"row-level security may hide rows .* load as a user with BYPASSRLS"):
            guarded_table.land(mode, rows)
    with pytest.raises(LandingError, match="row-level security"):
        check_target(hook=guarded_table.hook(), table="subs", primary_key=["id"], max_columns=100, history=False)


def test_runs_that_differ_in_case_only_keep_their_rows(opened):
    for name, type_ in (("duckdb", "VARCHAR COLLATE NOCASE"), ("sqlite", "TEXT COLLATE NOCASE"), ("psycopg3", "char(12)")):
        db = opened(name)
        db.execute(f"CREATE TABLE subs (id BIGINT, _run_id {type_})")
        for run in ("Run-1", "run-1", "run-1"):
            result = db.land("append", {"id": (INT, [1])}, run=run)
        assert (result.deleted, len(db.rows())) == (1, 2)
        assert has_rows_of(db.hook(), table="subs", run_id="run-1")
        assert not has_rows_of(db.hook(), table="subs", run_id="RUN-1")


@pytest.mark.parametrize("name", ["duckdb", "psycopg3"])
@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("_extracted_at BIGINT, _run_id VARCHAR", "'_extracted_at' is bigint"),
        ("_extracted_at TIMESTAMP, _run_id BIGINT", "'_run_id' is bigint"),
        ("_run_id JSON", "'_run_id' is json"),
        ("_extracted_at BOOLEAN", "'_extracted_at' is boolean"),
    ],
)
def test_own_columns_of_a_type_that_does_not_take_their_values(opened, name, columns, said):
    db = opened(name)
    db.execute(f"CREATE TABLE subs (id BIGINT, {columns})")
    for mode in ("merge", "append", "replace"):
        with pytest.raises(LandingError, match=f"(?i){said}, and every load writes its own .* change the column's type"):
            db.land(mode, {"id": (INT, [1])})


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
@pytest.mark.parametrize("type_", ["TIMESTAMP", "VARCHAR(40)"])
def test_names_in_another_case(opened, name, type_):
    """What the database takes for the time, for `_extracted_at` and for `_run_id` is just that, where rows lack it too."""
    db = opened(name)
    db.execute(
        f'CREATE TABLE subs (id BIGINT, "UPDATED" {type_}, v VARCHAR, "_Extracted_At" {type_}, "_RUN_ID" VARCHAR)',
        "INSERT INTO subs VALUES (1, '2026-05-01 10:00:00', 'theirs', '2024-05-06 12:00:00', 'run-1')",
    )
    older = NOON - timedelta(hours=1)
    assert db.land("merge", {"id": (INT, [1]), "v": (T, ["timeless"])}, time="updated", at=NOON).outdated == 1
    timed = {"id": (INT, [1]), "updated": (S, [TEN]), "v": (T, ["pulled before"])}
    assert db.land("merge", timed, time="updated", at=older).outdated == 1
    assert [v for (v,) in db.query("SELECT v FROM subs")] == ["theirs"]
    assert has_rows_of(db.hook(), table="subs", run_id="run-1")


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_a_lost_row_is_noticed_whatever_the_case_of_its_time(opened, name):
    db = opened(name)
    db.execute('CREATE TABLE subs (id BIGINT, "UPDATED" ' + ("TIMESTAMPTZ)" if name == "duckdb" else "TIMESTAMP)"))
    db.land("merge", {"id": (INT, [1]), "updated": (S, [TEN])}, time="updated")
    found = [find_loss(db.hook(), table="subs", time_column="updated", reached=TEN + timedelta(seconds=more)) for more in (0, 1)]
    assert found == [None, Loss.OLDER]


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_keys_of_which_one_has_a_nul_and_the_other_what_stands_for_it(db, mode):
    keys = {"id": (T, ["a\0", f"a\\u0000 {CANARY}"]), "v": (INT, [1, 2])}
    db.land(mode, {"id": (T, ["a"]), "v": (INT, [0])})
    with pytest.raises(LandingError, match="two keys could become one; name other columns") as refused:
        db.land(mode, keys, run="2")
    assert CANARY not in str(refused.value)
    with pytest.raises(LandingError, match="two keys could become one"):
        db.land(mode, {"id": (T, ["a\0", "a\\u0000"])}, table="fresh")
    assert db.land(mode, {"id": (T, ["a\0", "b"]), "v": (T, ["\\u0000", "\0"])}, run="3").inserted == 2


@pytest.mark.parametrize("word", ["REPLACE", "IGNORE"])
def test_a_sqlite_constraint_that_replaces_or_leaves_out_rows(lite, word):
    lite.execute(f"CREATE TABLE subs (id INTEGER, email TEXT UNIQUE ON CONFLICT {word})")
    lite.land("merge", {"id": (INT, [1, 2]), "email": (T, ["a", CANARY])})
    before = lite.rows()
    for id_ in (3, 1):
        with pytest.raises(LandingError, match=r"UNIQUE constraint failed: subs\.email") as refused:
            lite.land("merge", {"id": (INT, [id_]), "email": (T, [CANARY])}, run="2")
        assert CANARY not in str(refused.value)
    assert lite.rows() == before
