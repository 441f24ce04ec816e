# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A DuckDB file that is held during the pull: who else can use it, and what is in it meanwhile."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import Target, WriteMode, duckdb_settings, load
from limio_limitrail.landing.sql import duckdb as duck_module
from limio_limitrail.landing.sql import staging_table as staging_table_module
from limio_limitrail.landing.sql.run_staging import RunStaging
from limio_limitrail.landing.sql.staging_table import StagingTarget
from limio_limitrail.transfers.early_load import loads_early
from tests.support.databases import NOON, RunParts, make_part

pytestmark = pytest.mark.other_processes

INT, T, J = Kind.INTEGER, Kind.TEXT, Kind.JSON
ROWS = [{"id": (INT, [number]), "v": (T, [str(number)])} for number in range(3)]
SCHEMA = {"id": INT, "v": T}
TARGET = Target(table="subs", mode=WriteMode.MERGE, primary_key=("id",), time_column=None, run_id="run", extracted_at=NOON)
ABOUT = StagingTarget(table="subs", primary_key=("id",), time_column=None, run_id="run")

OTHER_PROCESS = """
import duckdb, sys
try:
    connection = duckdb.connect(sys.argv[1])
except duckdb.IOException:
    print("refused", flush=True)
else:
    print("open", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def other_process(db):
    command = [sys.executable, "-c", OTHER_PROCESS, db.connection["host"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


class Pull:
    """A pull whose parts are staged as a test says."""

    def __init__(self, db, folder, *, parts=ROWS, schema=SCHEMA):
        self.db = db
        self.schema = schema
        self.sources = RunParts.stored([make_part(part, name=f"part-{n}") for n, part in enumerate(parts)], folder=folder).sources
        self.parts = [source.part for source in self.sources]
        self.staging = RunStaging(hook=db.hook, target=ABOUT, source=self._source)

    def _source(self, part):
        return next(source for source in self.sources if source.part == part)

    def add(self, count):
        """Stage the first parts, and wait for it."""
        self.staging.add(self.parts[:count], schema=self.schema)
        end = time.monotonic() + 60
        while self.staging._thread.is_alive() and (self.staging._wanted or not self.staging._changed._waiters):
            assert time.monotonic() < end
            time.sleep(0.005)

    def load(self):
        staged = self.staging.finish(self.parts)
        result = load(hook=self.db.hook(), target=TARGET, schema=self.schema, parts=self.sources, staged=staged)
        self.staging.clean_up()
        self.staging.close()
        return result


@pytest.fixture
def pull(duck, tmp_path):
    made = []

    def make(**about):
        made.append(Pull(duck, tmp_path, **about))
        return made[-1]

    yield make
    for one in made:
        one.staging.stop()
        one.staging.close()


@pytest.fixture
def reads(monkeypatch):
    """The parts that are read, by name."""
    from limio_limitrail.landing.column_parts import ColumnPart

    seen = []
    original = ColumnPart.groups
    monkeypatch.setattr(ColumnPart, "groups", lambda part, **more: (seen.append(part.name), original(part, **more))[1])
    return seen


def tables(db):
    found = db.query("SELECT table_name FROM duckdb_tables() WHERE NOT starts_with(table_name, '_limio_w')")
    return sorted(name for (name,) in found)


def test_others_wait_until_the_load_has_ended(duck, pull):
    one = pull()
    one.add(2)
    with other_process(duck) as answer:
        assert answer == "refused"
    assert one.load().inserted == 3
    with other_process(duck) as answer:
        assert answer == "open"
    assert tables(duck) == ["subs"]


def test_another_process_has_the_file_when_the_pull_begins(duck, pull, reads, caplog, monkeypatch):
    monkeypatch.setattr(duck_module, "OPEN_WAIT", 30.0)
    caplog.set_level(logging.INFO)
    duck.execute("CREATE TABLE others (id BIGINT)")
    one = pull()
    with other_process(duck) as answer:
        assert answer == "open"
        one.add(1)
        one.add(1)
    assert caplog.text.count("the finished parts will be copied with the next one (another process has had the DuckDB file") == 1
    one.add(2)
    assert reads == ["part-0", "part-1"]
    assert one.load().inserted == 3
    assert reads[2:] == ["part-2"]


def test_another_process_has_the_file_during_the_whole_pull(duck, pull, reads, monkeypatch):
    monkeypatch.setattr(duck_module, "OPEN_WAIT", 30.0)
    one = pull()
    with other_process(duck):
        for count in range(1, 6):
            one.add(min(count, 2))
        assert not reads
    assert one.load().inserted == 3


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_nobody_sees_what_is_staged_before_the_pull_has_ended(duck, pull, there):
    if there:
        duck.land("merge", {"id": (INT, [9]), "v": (T, ["z"])}, run="before")
    one = pull()
    one.add(2)
    assert tables(duck) == (["subs"] if there else []), "another connection of this process, as a transform may open one"
    one.load()
    assert tables(duck) == ["subs"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
def test_a_task_that_is_stopped_and_its_retry(duck, pull, reads, there):
    if there:
        duck.land("merge", {"id": (INT, [9]), "v": (T, ["z"])}, run="before")
    first = pull()
    first.add(2)
    first.staging.stop()
    first.staging.close()
    assert len(tables(duck)) == 1, "the target, or what becomes it"
    reads.clear()
    assert pull().load().inserted == 3
    assert reads == (["part-0", "part-1", "part-2"] if there else ["part-2"])


def test_what_is_discarded_is_not_in_the_file(duck, pull):
    one = pull(parts=[{"id": (INT, [number]), "v": (T, ["a secret that no mask has met"])} for number in range(3)])
    one.add(2)
    one.staging.discard()
    with other_process(duck) as answer:
        assert answer == "open"
    assert tables(duck) == []


def test_abandoned_tables_are_dropped(duck, pull, monkeypatch):
    first = pull()
    first.add(2)
    first.staging.finish(first.parts)
    first.staging.close()
    [left] = tables(duck)
    duck.execute(f'CREATE TABLE "{left}_of_somebody" (id BIGINT)', f'ALTER TABLE "{left}" RENAME TO "{left[:-1]}"')
    pull().load()
    assert tables(duck) == [left[:-1], f"{left}_of_somebody", "subs"]
    monkeypatch.setattr(staging_table_module, "ABANDONED_AFTER", timedelta(0))
    again = pull()
    again.staging.add(again.parts[:1], schema=SCHEMA)
    again.load()
    assert tables(duck) == [f"{left}_of_somebody", "subs"]


def test_a_table_that_cannot_be_dropped_keeps_no_other(duck, pull, monkeypatch, caplog):
    monkeypatch.setattr(staging_table_module, "ABANDONED_AFTER", timedelta(0))
    first = pull()
    first.add(1)
    first.staging.finish(first.parts)
    first.staging.close()
    [left] = tables(duck)
    names = [f"{left[:-1]}{suffix}" for suffix in ("_1", "_2", "_3")]
    [(comment,)] = duck.query("SELECT comment FROM duckdb_tables() WHERE table_name = '" + left + "'")
    for name in names:
        duck.execute(f'CREATE TABLE "{name}" (id BIGINT PRIMARY KEY)', f"COMMENT ON TABLE \"{name}\" IS '{comment}'")
    duck.execute(f'CREATE TABLE refers (id BIGINT REFERENCES "{names[1]}" (id))')
    pull().load()
    assert tables(duck) == [names[1], "refers", "subs"]
    assert f"the staging table {names[1]}, which holds rows of a pull, could not be dropped" in caplog.text


CHANGES = {
    "rows deleted": "DELETE FROM {staging} WHERE v = '0'",
    "no record": "COMMENT ON TABLE {staging} IS NULL",
    "the table is created": "CREATE TABLE subs (id BIGINT, v VARCHAR)",
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_are_not_those_of_the_parts_are_not_used(duck, pull, reads, change):
    first = pull()
    first.add(2)
    first.staging.finish(first.parts)
    first.staging.close()
    duck.execute(CHANGES[change].format(staging=tables(duck)[0]))
    reads.clear()
    second = pull()
    assert second.load().inserted == 3
    assert sorted(reads) == ["part-0", "part-1", "part-2"]
    assert [row["v"] for row in duck.rows()] == ["0", "1", "2"]


def test_a_table_with_the_name_is_left_alone(duck, pull):
    first = pull()
    first.add(2)
    first.staging.finish(first.parts)
    first.staging.close()
    [name] = tables(duck)
    duck.execute(f"COMMENT ON TABLE {name} IS 'mine'")
    second = pull()
    second.add(2)
    assert second.load().inserted == 3
    assert tables(duck) == [name, "subs"]


def test_json_that_duckdb_refuses(duck, pull):
    half = '"\\ud800"'
    parts = [{"id": (INT, [number]), "v": (J, [text])} for number, text in enumerate(["1", half, "2"])]
    one = pull(parts=parts, schema={"id": INT, "v": J})
    one.add(1)
    one.add(2)
    assert one.load().inserted == 3
    assert [row["v"] for row in duck.rows()] == ["1", half, "2"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
@pytest.mark.parametrize("held", [False, True], ids=["after the pull", "held"])
def test_rows_of_a_megabyte(duck, pull, monkeypatch, held, there):
    """DuckDB reads two thousand rows at a time, whatever their size."""
    monkeypatch.setattr(duckdb_settings, "MEMORY", 64)
    monkeypatch.setattr(duckdb_settings, "MERGE_MEMORY", 64)
    if there:
        duck.land("merge", {"id": (INT, [59]), "v": (J, ['"old"'])}, run="before")
    text = '"' + "x" * 1_000_000 + '"'
    parts = [{"id": (INT, list(range(start, start + 20))), "v": (J, [text] * 20)} for start in (0, 20, 40)]
    one = pull(parts=parts, schema={"id": INT, "v": J})
    if held:
        one.add(2)
    assert one.load().inserted == (59 if there else 60)
    assert duck.query("SELECT count(*), min(length(v)) FROM subs") == [(60, len(text))]


def test_the_file_is_full(duck, pull, monkeypatch):
    duck.land("merge", {"id": (INT, [9]), "v": (T, ["z"])}, run="before")
    one = pull()
    one.add(1)
    original = duck_module.DuckSession.insert

    def full(self, stream, **about):
        raise duck_module.DatabaseError("there is no space left")

    monkeypatch.setattr(duck_module.DuckSession, "insert", full)
    for _ in range(3):
        one.add(2)
    monkeypatch.setattr(duck_module.DuckSession, "insert", original)
    assert one.load().inserted == 3
    assert [row["v"] for row in duck.rows()] == ["0", "1", "2", "z"]


@pytest.mark.parametrize(("load", "early"), [("auto", False), ("after_pull", False), ("while_pulling", True)])
def test_the_file_is_held_only_if_the_task_says_so(duck, load, early):
    assert loads_early(load, hook=duck.hook(), conn_id="warehouse") is early


def test_motherduck_is_refused(duck):
    hook = duck.hook()
    hook.database = "md:lake?motherduck_token=secret"
    assert not loads_early("auto", hook=hook, conn_id="warehouse")
    with pytest.raises(ParameterError, match="is for Postgres, and for a DuckDB file"):
        loads_early("while_pulling", hook=hook, conn_id="warehouse")
