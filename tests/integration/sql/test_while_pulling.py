# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Parts that are staged while the pull goes on: when they are used, when not, and what is left of them."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import Contract, LandingError, NewColumns, Target, WriteMode, load
from limio_limitrail.landing.sql import staging_table as staging_table_module
from limio_limitrail.landing.sql.run_staging import RunStaging
from limio_limitrail.landing.sql.staging_table import StagingTarget, digest_of
from tests.support.databases import NOON, RunParts, make_part

INT, T, D, N, B = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.NULL, Kind.BOOLEAN

ROWS = [{"id": (INT, [1, 2]), "v": (T, ["a", "b"])}, {"id": (INT, [3]), "v": (T, ["c"])}, {"id": (INT, [4]), "v": (T, ["d"])}]
SCHEMA = {"id": INT, "v": T}


@pytest.fixture
def early(request, opened):
    """Postgres, if a test is about it, and otherwise each database in which rows are staged."""
    return request.getfixturevalue("postgres") if "postgres" in request.fixturenames else opened(request.param)


@pytest.fixture
def run(early, tmp_path):
    """A maker of runs: their parts are stored, and all but the last staged."""
    runs = []

    def make(*parts, schema=SCHEMA, **about):
        runs.append(Run(early, parts or ROWS, schema=schema, folder=tmp_path, **about))
        return runs[-1]

    yield make
    for one in runs:
        one.parts.close()


def pytest_generate_tests(metafunc):
    if "early" in metafunc.fixturenames and "postgres" not in metafunc.fixturenames:
        metafunc.parametrize("early", ["psycopg3", "duckdb"], indirect=True)


class Run:
    def __init__(self, db, parts, *, schema, folder, mode="merge", table="subs", run_id="run"):
        self.db = db
        self.schema = schema
        self.parts = RunParts.stored([make_part(part, name=f"part-{n}") for n, part in enumerate(parts)], folder=folder)
        self.target = Target(
            table=table, mode=WriteMode(mode), primary_key=("id",), time_column=None, run_id=run_id, extracted_at=NOON
        )

    def stage(self):
        self.parts.stage(self.target, hook=self.db.hook, schema=self.schema)
        return self

    def load(self, **rules):
        result = load(
            hook=self.db.hook(),
            target=self.target,
            schema=self.schema,
            parts=self.parts.sources,
            staged=self.parts.staged,
            **rules,
        )
        self.parts.clean_up()
        return result


def staging_tables(db):
    """Name, persistence and comment of what is staged and outlives the connection."""
    if db.name == "duckdb":
        return db.query(
            "SELECT table_name, 'p' AS kept, comment FROM duckdb_tables() WHERE table_name ^@ '_limio' AND NOT temporary "
            "AND database_name = current_database()"
        )
    return db.query(
        "SELECT relname, relpersistence, obj_description(oid) FROM pg_class WHERE relname ~ '^_limio' AND relkind = 'r'"
    )


def only_staging_table(db):
    [(name, *_)] = staging_tables(db)
    return name


@pytest.fixture
def reads(monkeypatch):
    """The parts that are read, by name."""
    from limio_limitrail.landing.column_parts import ColumnPart

    seen = []
    original = ColumnPart.groups
    monkeypatch.setattr(ColumnPart, "groups", lambda part, **more: (seen.append(part.name), original(part, **more))[1])
    return seen


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_only_the_last_part_is_left_to_the_load(early, run, reads, mode, there):
    if there:
        ids, values = ([1, 9], ["old", "z"]) if mode == "merge" else ([9], ["z"])
        early.land("merge", {"id": (INT, ids), "v": (T, values)}, run="before")
    staged = run(mode=mode).stage()
    found = [persistence for _, persistence, _ in staging_tables(early)]
    assert found == ((["u"] if early.postgres else []) if there else ["p"])
    reads.clear()
    result = staged.load()
    assert reads == ["part-2"]
    assert result.rows == 4
    kept = {"merge": {9: "z"}, "append": {9: "z"}, "replace": {}}[mode] if there else {}
    assert {row["id"]: row["v"] for row in early.rows()} == {1: "a", 2: "b", 3: "c", 4: "d", **kept}
    assert not staging_tables(early)


def test_a_new_table_is_as_one_that_is_loaded_afterwards(postgres, run):
    parts = [{"v": (T, ["a"]), "id": (INT, [1])}, {"id": (INT, [2]), "w": (B, [True])}, {"id": (INT, [3]), "n": (N, [None])}]
    schema = {"v": T, "id": INT, "w": B, "n": N}
    for statement in ("DROP ROLE IF EXISTS reader_of_staging", "CREATE ROLE reader_of_staging"):
        postgres.execute(statement)
    postgres.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
    postgres.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO reader_of_staging WITH GRANT OPTION")
    try:
        staged = run(*parts, schema=schema).stage()
        [(granted,)] = postgres.query(
            f"SELECT count(*) FROM pg_class, aclexplode(relacl) WHERE relname = '{only_staging_table(postgres)}' "
            f"AND grantee <> relowner"
        )
        assert granted == 0, "rows that are not checked yet are nobody's"
        staged.load()
        run(*parts, schema=schema, table="after").load()
        described = [
            postgres.query(
                f"SELECT array_agg((attname, atttypid, attnotnull, atthasdef, attnum)::text ORDER BY attnum), "
                f"min(relpersistence), min((SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(relacl) AS a)), "
                f"min(obj_description(pg_class.oid)), "
                f"min((SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = pg_class.oid AND contype = 'p')) "
                f"FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid WHERE relname = '{table}' AND attnum > 0"
            )
            for table in ("subs", "after")
        ]
        assert described[0] == described[1]
        assert postgres.rows("subs", own=True) == postgres.rows("after", own=True)
    finally:
        postgres.execute("DROP OWNED BY reader_of_staging", "DROP ROLE reader_of_staging")


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
@pytest.mark.parametrize(
    ("later", "kind"), [({"v": (INT, [7])}, T), ({"w": (D, [0.5])}, D), ({"e": (INT, [5])}, INT)], ids=["wider", "more", "typed"]
)
def test_columns_that_change_on_the_way(early, run, reads, there, later, kind):
    if there:
        early.land("merge", {"id": (INT, [9])}, run="before")
    [key] = later
    parts = [{"id": (INT, [1]), "v": (T, ["a"]), "e": (N, [None])}, {"id": (INT, [2]), **later}, {"id": (INT, [3])}]
    schema = {"id": INT, "v": T, "e": N, key: kind}
    staged = run(*parts, schema=schema).stage()
    reads.clear()
    staged.load()
    assert reads == ["part-2"]
    table = {row["id"]: row for row in early.rows()}
    assert table[1]["v"] == "a"
    assert table[2][key] == ("7" if kind is T else later[key][1][0])
    assert not staging_tables(early)


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_a_column_that_becomes_wider_is_staged_again(early, run, reads, there):
    if there:
        early.land("merge", {"id": (INT, [9])}, run="before")
    values = [(INT, [7]), (T, ["a"]), (INT, [8])]
    staged = run(*({"id": (INT, [number]), "v": value} for number, value in enumerate(values))).stage()
    reads.clear()
    staged.load()
    assert reads == ["part-2"]
    assert [row["v"] for row in early.rows()] == ["7", "a", "8", *([None] if there else [])]


def staging_of(db, run, **more):
    """A try of the run, and its parts."""
    parts = {source.part: source for source in run.parts.sources}
    about = StagingTarget(table="subs", primary_key=("id",), time_column=None, run_id="run")
    return RunStaging(**{"hook": db.hook, "target": about, "source": parts.get, **more}), list(parts)


def wait_for(condition):
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_parts_that_are_finished_at_once_keep_their_order(postgres, run, reads):
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["old"])}, run="before")
    pairs = {"1a": [1, 2], "1b": [1, 3], "1c": [1, 4], "6d": [6, 5]}
    again = run(*({"id": (INT, ids), "v": (T, [value] * 2)} for value, ids in pairs.items()))
    staging, parts = staging_of(postgres, again)
    staging.add(parts[:3], schema=SCHEMA)
    again.parts.staged = staging.finish(parts)
    reads.clear()
    assert again.load().duplicates == 2
    assert reads == ["part-3"]
    assert [row["v"] for row in postgres.rows()] == ["1c", "1a", "1b", "1c", "6d", "6d"]


def test_rows_that_a_crash_of_the_server_has_lost_are_staged_again(postgres, run, reads):
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["old"])}, run="before")
    whole = run(*ROWS, {"id": (INT, [5]), "v": (T, ["e"])})
    first, parts = staging_of(postgres, whole)
    first.add(parts[:2], schema=SCHEMA)
    first.finish(parts)
    postgres.execute(f"TRUNCATE {only_staging_table(postgres)}")
    second, parts = staging_of(postgres, whole)
    second.add(parts[:3], schema=SCHEMA)
    whole.parts.staged = second.finish(parts)
    reads.clear()
    assert whole.load().rows == 5
    assert reads == ["part-3"]


def test_two_tries_of_a_run_stage_the_same_parts(postgres, run, reads):
    """The one waits for the transaction of the other, and goes on after what that has added."""
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["old"])}, run="before")
    whole = run(*ROWS, {"id": (INT, [5]), "v": (T, ["e"])})
    in_the_middle, go_on = threading.Event(), threading.Event()

    def slowly(part):
        if part.name == "part-1":
            in_the_middle.set()
            assert go_on.wait(600)
        return next(source for source in whole.parts.sources if source.part == part)

    first, parts = staging_of(postgres, whole, source=slowly)
    first.add(parts[:1], schema=SCHEMA)
    wait_for(lambda: staging_tables(postgres))
    first.add(parts[:2], schema=SCHEMA)
    assert in_the_middle.wait(600)
    second, _ = staging_of(postgres, whole)
    second.add(parts[:3], schema=SCHEMA)
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation::regclass::text ~ 'limio_staging'"
    wait_for(lambda: postgres.query(waiting))
    go_on.set()
    first.finish(parts)
    whole.parts.staged = second.finish(parts)
    reads.clear()
    assert whole.load().rows == 5
    assert reads == ["part-3"]


def test_a_run_that_another_takes_for_dead(postgres, run, reads, monkeypatch):
    """A worker whose clock is hours ahead drops the staging table of a run that goes on."""
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["old"])}, run="before")
    alive = run(*ROWS, {"id": (INT, [5]), "v": (T, ["e"])})
    staging, parts = staging_of(postgres, alive)
    staging.add(parts[:2], schema=SCHEMA)
    wait_for(lambda: '"parts":2' in (staging_tables(postgres) or [("", "", "")])[0][2])
    with monkeypatch.context() as patch:
        patch.setattr(staging_table_module, "ABANDONED_AFTER", timedelta(hours=-1))
        run({"id": (INT, [6]), "v": (T, ["f"])}, run_id="ahead").stage().load()
    assert not staging_tables(postgres)
    staging.add(parts[:3], schema=SCHEMA)
    alive.parts.staged = staging.finish(parts)
    reads.clear()
    assert alive.load().rows == 5
    assert reads == ["part-3"]
    assert [row["v"] for row in postgres.rows()] == ["a", "b", "c", "d", "e", "f"]


def test_a_load_whose_rows_another_run_drops_meanwhile(postgres, run, reads):
    """It has looked for the staging table, and not locked it yet."""
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["old"])}, run="before")
    staged = run().stage()
    name = only_staging_table(postgres)
    about = staged.parts.staged
    staged.parts.staged = replace(about, on_leftovers=lambda: postgres.execute(f"DROP TABLE {name}"))
    reads.clear()
    assert staged.load().rows == 4
    assert reads == ["part-0", "part-1", "part-2"]


def test_nobody_changes_the_rows_while_they_are_loaded(postgres, run):
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["old"])}, run="before")
    staged = run().stage()
    name = only_staging_table(postgres)

    def refused(_):
        with pytest.raises(psycopg.errors.LockNotAvailable):
            postgres.execute(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE NOWAIT")

    assert staged.load(before_commit=refused).updated == 1


def test_a_run_without_rows_of_its_own_drops_those_of_a_dead_one(postgres, run, monkeypatch):
    run(run_id="dead").stage()
    monkeypatch.setattr(staging_table_module, "ABANDONED_AFTER", timedelta(0))
    small = run(ROWS[0])
    staging, parts = staging_of(postgres, small)
    small.parts.staged = staging.finish(parts)
    assert small.load().inserted == 2
    staging.clean_up()
    assert not staging_tables(postgres)


def test_a_part_that_arrives_short_is_left_to_the_load(postgres, run, caplog):
    short = make_part({"id": (INT, [1]), "v": (T, ["a"])})
    whole = run()
    staging, parts = staging_of(postgres, whole, source=lambda _: short)
    with caplog.at_level(logging.INFO):
        staging.add(parts[:1], schema=SCHEMA)
        whole.parts.staged = staging.finish(parts)
    assert "copied 1 rows where 2 were sent" in caplog.text
    assert not staging_tables(postgres)
    assert whole.load().inserted == 4


def test_a_table_of_somebody_elses_is_left_alone(postgres, run, caplog):
    run().stage()
    name = only_staging_table(postgres)
    postgres.execute(f"COMMENT ON TABLE {name} IS 'mine'")
    again = run()
    staging, parts = staging_of(postgres, again)
    with caplog.at_level(logging.INFO):
        staging.add(parts[:2], schema=SCHEMA)
        again.parts.staged = staging.finish(parts)
    assert "that this package did not make" in caplog.text
    assert again.load().inserted == 4
    staging.clean_up()
    assert [(found, comment) for found, _, comment in staging_tables(postgres)] == [(name, "mine")]


def test_a_thread_that_fails_or_starts_over_too_often_gives_up(postgres, run, caplog):
    calls = []

    def away():
        calls.append(1)
        raise LandingError("away")

    failing, parts = staging_of(postgres, run(), hook=away)
    with caplog.at_level(logging.INFO):
        for number in range(1, 6):
            failing.add(parts[:2], schema=SCHEMA)
            wait_for(lambda number=number: len(calls) >= min(number, 3))
        failing.finish(parts)
        assert len(calls) == 3
        assert "are loaded after the pull, not during it (away)" in caplog.text
        changes = run(), run(*OTHER_ROWS)
        sources = {source.part: source for one in changes for source in one.parts.sources}
        wavering, _ = staging_of(postgres, changes[0], source=sources.get)
        for number in range(5):
            parts = [source.part for source in changes[number % 2].parts.sources]
            wavering.add(parts[:1], schema=SCHEMA)
            if number < 4:
                digest = digest_of(parts[:1])
                wait_for(lambda digest=digest: digest in str(staging_tables(postgres)))
        wavering.finish(parts)
    assert "the columns or the parts changed too often" in caplog.text


CHANGES = {
    "rows deleted": "DELETE FROM {staging} WHERE v = 'a'",
    "emptied": "TRUNCATE {staging}",
    "dropped": "DROP TABLE {staging}",
    "without its record": "COMMENT ON TABLE {staging} IS NULL",
    "another record": "COMMENT ON TABLE {staging} IS '{{}}'",
    "the table is created": "CREATE TABLE subs (id bigint, v text)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_are_not_those_of_the_parts_are_not_used(postgres, run, reads, change, caplog):
    staged = run().stage()
    postgres.execute(CHANGES[change].format(staging=only_staging_table(postgres)))
    reads.clear()
    with caplog.at_level(logging.INFO):
        result = staged.load()
    assert reads == ["part-0", "part-1", "part-2"]
    assert result.inserted == 4
    assert ("are not used" in caplog.text) == (change != "dropped")
    assert ("was created or dropped in the meantime" in caplog.text) == (change == "the table is created")


OTHER_ROWS = [{"id": (INT, [1, 2]), "v": (T, ["x", "y"])}, *ROWS[1:]]


def test_a_load_of_other_parts_than_those_that_are_staged(early, run, reads):
    staged = run().stage().parts.staged
    again = run(*OTHER_ROWS)
    again.parts.staged = replace(staged, parts=[source.part for source in again.parts.sources])
    reads.clear()
    assert again.load().inserted == 4
    assert reads == ["part-0", "part-1", "part-2"]
    assert [row["v"] for row in early.rows()] == ["x", "y", "c", "d"]


def test_a_try_with_other_parts_than_those_that_are_staged(early, run, reads):
    run().stage()
    again = run(*OTHER_ROWS)
    staging, parts = staging_of(early, again)
    staging.add(parts[:2], schema=SCHEMA)
    again.parts.staged = staging.finish(parts)
    reads.clear()
    assert again.load().inserted == 4
    assert reads == ["part-2"]
    assert [row["v"] for row in early.rows()] == ["x", "y", "c", "d"]


def test_what_is_discarded_does_not_stay_and_does_not_come_back(early, run):
    staging, parts = staging_of(early, run())
    staging.add(parts[:2], schema=SCHEMA)
    staging.finish(parts)
    assert only_staging_table(early)
    staging.discard()
    assert not staging_tables(early)
    staging.add(parts, schema=SCHEMA)
    staging.finish(parts)
    assert not staging_tables(early)


def test_the_table_changes_while_pages_come(early, run):
    early.land("merge", {"id": (INT, [1]), "v": (INT, [5])}, run="before")
    staged = run().stage()
    early.execute("ALTER TABLE subs ALTER v TYPE text", "ALTER TABLE subs ADD w text")
    assert staged.load().updated == 1
    assert [row["v"] for row in early.rows()] == ["a", "b", "c", "d"]


def test_a_failed_load_leaves_what_a_retry_can_use(early, run, reads):
    staged = run().stage()

    def broken(_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        staged.load(before_commit=broken)
    assert not early.exists()
    reads.clear()
    assert staged.load().inserted == 4
    assert reads == ["part-2"]


def test_repeated_keys_in_a_new_table(early, run):
    result = run(ROWS[0], ROWS[0], ROWS[1]).stage().load()
    assert (result.inserted, result.duplicates) == (3, 2)
    assert not staging_tables(early)


def test_what_the_contract_leaves_out(early, run, reads):
    early.land("merge", {"id": (INT, [1])}, run="before")
    staged = run().stage()
    reads.clear()
    result = staged.load(contract=Contract(new_columns=NewColumns.IGNORE))
    assert (result.columns_ignored, reads) == (("v",), ["part-2"])
    assert set(early.types()) == {"id", "_extracted_at", "_run_id"}


def test_abandoned_tables_are_dropped_and_no_others(postgres, run, monkeypatch):
    postgres.land("merge", {"id": (INT, [9])}, run="before")
    postgres.land("merge", {"id": (INT, [9])}, run="before", table="others")
    run(run_id="waits for its retry").stage()
    run(run_id="elsewhere", table="others").stage()
    prefix = staging_tables(postgres)[0][0].rpartition("_")[0]
    postgres.execute(f'CREATE TABLE "{prefix}_of_somebody" (id bigint)')
    run(run_id="next").stage().load()
    assert len(staging_tables(postgres)) == 3
    monkeypatch.setattr(staging_table_module, "ABANDONED_AFTER", timedelta(0))
    run(run_id="last").stage().load()
    assert len(staging_tables(postgres)) == 2


def test_a_role_that_may_not_create_tables(postgres, run, caplog):
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["old"])}, run="before")
    postgres.execute(
        "DROP ROLE IF EXISTS loader_of_staging", "CREATE ROLE loader_of_staging", "ALTER TABLE subs OWNER TO loader_of_staging"
    )
    try:
        staged = run()
        hook = lambda: postgres.hook(options="-c role=loader_of_staging")  # noqa: E731
        with caplog.at_level(logging.INFO):
            staged.parts.stage(staged.target, hook=hook, schema=SCHEMA)
        assert "may not create tables in its schema" in caplog.text
        assert not staging_tables(postgres)
        assert staged.load().updated == 1
    finally:
        postgres.execute("DROP OWNED BY loader_of_staging CASCADE", "DROP ROLE loader_of_staging")


def test_a_backup_reads_the_staging_table(postgres, run, monkeypatch):
    from limio_limitrail.landing.sql import postgres_staging

    monkeypatch.setattr(postgres_staging, "LOCK_WAIT", 0.1)
    staged = run().stage()
    name = only_staging_table(postgres)
    with postgres.session() as backup:
        backup.cursor().execute(f"SELECT 1 FROM {name}")
        assert staged.load().inserted == 4, "the table is loaded from the parts"
        assert only_staging_table(postgres) == name
    staged.parts.clean_up()
    assert not staging_tables(postgres)


def test_a_refused_load_says_the_same(early, run):
    parts = [{"id": (INT, [1, None]), "v": (T, ["a", "b"])}, *ROWS[1:]]
    with pytest.raises(LandingError, match="1 rows have no"):
        run(*parts).stage().load()
    assert not early.exists()


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_keys_that_only_a_nul_tells_apart(early, run, there):
    if there:
        early.land("merge", {"id": (T, ["z"])}, run="before")
    staged = run(*({"id": (T, [key])} for key in ("a\0b", "a\\u0000b", "c")), schema={"id": T}).stage()
    with pytest.raises(LandingError, match="NUL"):
        staged.load()
