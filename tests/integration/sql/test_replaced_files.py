# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A database's file that something moves, removes or replaces while it is open: what was written is not in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import Target, WriteMode, load
from limio_limitrail.landing.sql.errors import Cause, DatabaseError
from limio_limitrail.landing.sql.persistent_connection import PersistentConnection
from tests.support.databases import HELD, NOON, RunParts, make_database, make_part

COLUMNS = {"id": (Kind.INTEGER, [1, 2]), "v": (Kind.TEXT, ["old", "old"])}
NEWER = {"id": (Kind.INTEGER, [2, 3]), "v": (Kind.TEXT, ["new", "new"])}


def replace(file: Path) -> None:
    """Put a backup in its place, as a restore does."""
    shutil.copy(file, f"{file}.backup")
    Path(f"{file}.backup").rename(file)


def move(file: Path) -> None:
    file.rename(f"{file}.former")


TROUBLES = {"replaced": replace, "moved": move, "removed": Path.unlink}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_a_load_into_a_file_that_is_gone_is_no_success(file_database, tmp_path, name, trouble):
    db = file_database(name, folder=tmp_path)
    db.land("merge", COLUMNS, run="1")
    file = Path(db.connection["host"])
    said = "was moved, removed or replaced while loading subs: what was written is in the former file"
    with pytest.raises(DatabaseError, match=said) as failed:
        db.land("merge", NEWER, run="2", before_commit=lambda _: TROUBLES[trouble](file))
    assert failed.value.cause is Cause.MOVED
    assert "Nothing was written" not in str(failed.value)
    # What is there now is loaded as if the first try had not been.
    db.land("merge", NEWER, run="2")
    there = {row["id"]: row["v"] for row in db.rows()}
    assert there == {2: "new", 3: "new"} | ({1: "old"} if trouble == "replaced" else {})


def test_a_file_that_is_replaced_while_it_is_held_for_a_pull(tmp_path):
    db = make_database(HELD, folder=tmp_path)
    db.land("merge", COLUMNS, run="1")
    parts = RunParts.stored([make_part(NEWER, name=f"part-{number}") for number in range(2)], folder=tmp_path)
    target = Target(table="subs", mode=WriteMode.APPEND, primary_key=(), time_column=None, run_id="2", extracted_at=NOON)
    schema = {name: kind for name, (kind, _) in NEWER.items()}
    try:
        parts.stage(target, hook=db.hook, schema=schema)
        replace(Path(db.connection["host"]))
        with pytest.raises(DatabaseError, match="what moves, removes or replaces the file"):
            load(hook=db.hook(), target=target, schema=schema, parts=parts.sources, staged=parts.staged)
    finally:
        parts.close()
    assert [row["v"] for row in db.rows()] == ["old", "old"]


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_a_link_to_the_file_is_no_other_file(file_database, tmp_path, name):
    db = file_database(name, folder=tmp_path)
    db.land("merge", COLUMNS, run="1")
    file = Path(db.connection["host"])
    link = file.with_name(f"link-{file.name}")
    link.symlink_to(file)
    db.connection["host"] = str(link)
    assert db.land("merge", NEWER, run="2").inserted == 1


@pytest.mark.parametrize("name", ["duckdb", "sqlite"])
def test_a_file_that_is_replaced_between_two_transactions(file_database, tmp_path, name):
    db = file_database(name, folder=tmp_path)
    database = PersistentConnection(db.hook(), duckdb_wait=0.0)
    try:
        with database.transaction() as session:
            session.execute("CREATE TABLE notes (id BIGINT)")
        replace(Path(db.connection["host"]))
        with pytest.raises(DatabaseError, match="was moved, removed or replaced"), database.reading() as session:
            session.query("SELECT * FROM notes")
    finally:
        database.close()
