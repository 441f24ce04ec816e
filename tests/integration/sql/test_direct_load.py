# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The rows of a new table go straight into it; where they cannot, they are staged, and what comes out is the same."""

from __future__ import annotations

import logging

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.parts import DamagedPartError
from limio_limitrail.landing.sql import LandingError, duckdb, duckdb_settings
from tests.support.databases import FilePart, Part

pytestmark = pytest.mark.every_driver

INT, D, T, J, N = Kind.INTEGER, Kind.DOUBLE, Kind.TEXT, Kind.JSON, Kind.NULL
STAGED = "they are staged first"


@pytest.fixture(params=["duckdb", "duckdb files", "psycopg3", "psycopg2"])
def fresh(request, opened):
    """The databases that take rows straight into a new table."""
    return opened(request.param)


@pytest.fixture(autouse=True)
def told(caplog):
    caplog.set_level(logging.INFO, logger="limio_limitrail.landing.sql")
    return caplog


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_rows_with_a_key_each_are_not_staged(fresh, told, mode):
    result = fresh.land(mode, {"id": (INT, [2, 1])}, {"id": (INT, [3]), "v": (T, ["a\0b"])})
    assert (result.rows, result.inserted) == (3, 3)
    assert fresh.rows() == [{"id": 1, "v": None}, {"id": 2, "v": None}, {"id": 3, "v": "a\\u0000b"}]
    assert STAGED not in told.text
    fresh.land(mode, {"id": (INT, [4])})
    assert STAGED not in told.text  # a table that is there is no matter of this


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_rows_that_share_a_key_are(fresh, told, mode):
    result = fresh.land(mode, {"id": (INT, [1, 2]), "v": (T, ["old", "b"])}, {"id": (INT, [1]), "v": (T, ["new"])})
    assert (result.rows, result.inserted, result.duplicates) == (3, 2, 1)
    assert fresh.rows() == [{"id": 1, "v": "new"}, {"id": 2, "v": "b"}]
    assert STAGED in told.text


def test_rows_without_a_key(fresh, told):
    with pytest.raises(LandingError, match="1 rows have no value in 'id'"):
        fresh.land("merge", {"id": (INT, [1, None])})
    assert not fresh.exists()
    fresh.land("append", {"id": (INT, [1, None, None])})
    assert [row["id"] for row in fresh.rows()] == [1, None, None]


def test_a_key_that_is_json(fresh):
    fresh.land("merge", {"id": (J, ["[1]", "[1 ]"])})
    assert [row["id"] for row in fresh.rows()] == ["[1 ]", "[1]"]
    assert fresh.land("merge", {"id": (J, ["[1]"])}).unchanged == 1


def test_columns_that_widen_from_part_to_part(fresh, told):
    parts = (
        {"id": (INT, [1]), "n": (INT, [2**53]), "x": (N, [None])},
        {"id": (INT, [2]), "n": (D, [0.5]), "x": (Kind.BOOLEAN, [True])},
        {"id": (INT, [3]), "n": (T, ["much"]), "x": (N, [None])},
    )
    fresh.land("merge", *parts)
    assert STAGED not in told.text
    found = {row["id"]: row for row in fresh.rows()}
    assert [found[number]["n"] for number in (1, 2, 3)] == [str(2**53), "0.5", "much"]
    assert [found[number]["x"] for number in (1, 2, 3)] == [None, True, None]


def test_columns_that_differ_in_case_only(fresh, told):
    fresh.land("merge", {"id": (INT, [1]), "A": (T, ["big"]), "a": (T, ["small"])})
    assert STAGED not in told.text
    assert sorted(str(value) for value in fresh.rows()[0].values()) == ["1", "big", "small"]


def test_texts_that_no_json_column_takes(opened, told):
    duck = opened("duckdb files")
    duck.land("merge", {"id": (INT, [1, 2]), "j": (J, ['"\\ud800"', "[1]"])})
    assert STAGED in told.text
    assert [row["j"] for row in duck.rows()] == ['"\\ud800"', "[1]"]
    assert duck.types()["j"] == "varchar"


@pytest.mark.other_processes
def test_a_database_that_may_read_no_files(opened, told):
    duck = opened("duckdb files")
    hook = duck.hook(settings={"enable_external_access": "false"})
    result = duck.land("merge", {"id": (INT, [1])}, hook=hook)
    assert result.inserted == 1
    assert STAGED not in told.text


LIMITED = {"memory_limit": "953.6 MiB", "threads": "3", "order": "true"}


@pytest.mark.other_processes
@pytest.mark.parametrize(
    ("extra", "pouring", "afterwards"),
    [
        ({}, {"memory_limit": "61.0 MiB", "threads": "1", "order": "false"}, {"memory_limit": "488.2 MiB", "order": "true"}),
        (
            {"threads": 3, "settings": {"preserve_insertion_order": "true"}},
            {"memory_limit": "61.0 MiB", "threads": "3", "order": "true"},
            {"memory_limit": "488.2 MiB", "threads": "3", "order": "true"},
        ),
        ({"memory_limit": "1GB", "threads": 3}, LIMITED, LIMITED),
        ({"settings": {"max_memory": "1GB", "worker_threads": "3"}}, LIMITED, LIMITED),
    ],
)
def test_what_the_connection_says_of_duckdbs_settings_stays(opened, extra, pouring, afterwards):
    """Where it says nothing, the load chooses for itself, and puts things back once the new table is filled."""
    db = opened("duckdb files")
    hook = db.hook(**extra)
    connections, seen = [], []
    whole_get_conn, whole_query = hook.get_conn, duckdb.DuckSession.query

    def get_conn():
        connections.append(whole_get_conn())
        return connections[0]

    hook.get_conn = get_conn

    def settings():
        names = {"memory_limit": "memory_limit", "threads": "threads", "order": "preserve_insertion_order"}
        values = ", ".join(f"CAST(current_setting('{name}') AS VARCHAR)" for name in names.values())
        return dict(zip(names, connections[0].execute(f"SELECT {values}").fetchone(), strict=True))

    def query(session, sql, *values):
        if sql.startswith(("INSERT", "COMMIT")):
            seen.append(settings())
        return whole_query(session, sql, *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb.DuckSession, "query", query)
        db.land("merge", {"id": (INT, [1])}, hook=hook)
    assert seen[0] == pouring
    assert afterwards.items() <= seen[-1].items()


def test_more_parts_than_are_read_at_once(fresh, told):
    """Neighbours whose columns come in another order, or are others, are not read as if they were alike."""
    plain = [{"id": (INT, [number]), "a": (T, [f"a{number}"])} for number in range(20)]
    parts = [dict(reversed(part.items())) if number % 5 == 3 else part for number, part in enumerate(plain)]
    parts[7]["b"] = (D, [0.5])
    parts[0]["nothing"] = (N, [None])
    counts = []
    fresh.land("merge", *parts, progress=counts.append)
    assert counts == list(range(1, 21))
    assert STAGED not in told.text
    assert sorted((row["id"], row["a"], row["b"]) for row in fresh.rows()) == [
        (number, f"a{number}", 0.5 if number == 7 else None) for number in range(20)
    ]


@pytest.mark.exhaustive
def test_more_columns_than_duckdb_gets_memory_for(opened, told, monkeypatch):
    monkeypatch.setattr(duckdb_settings, "COPY_MEMORY", 1)
    monkeypatch.setattr(duckdb_settings, "COPY_COLUMN_MEMORY", 0)
    db = opened("duckdb files")
    rows = 200
    wide = {"id": (INT, list(range(rows)))} | {f"c{at}": (T, [f"{at} {row}" for row in range(rows)]) for at in range(60)}
    assert db.land("merge", wide).inserted == rows
    assert STAGED in told.text
    assert db.query("SELECT count(*), count(DISTINCT c59), max(c0) FROM subs") == [(rows, rows, "0 99")]


def test_a_part_that_turns_out_to_be_damaged_while_rows_are_copied(fresh, monkeypatch):
    """What went wrong is told as it is, though a driver stands between, and no table is left."""

    def damaged(part):
        yield part.table
        raise DamagedPartError("part-1 is not the file that was written")

    monkeypatch.setattr(Part, "groups", damaged)
    monkeypatch.setattr(FilePart, "groups", damaged)
    with pytest.raises(DamagedPartError, match="not the file that was written"):
        fresh.land("merge", {"id": (INT, [1, 2])}, {"id": (INT, [3])})
    monkeypatch.undo()
    assert not fresh.exists()
