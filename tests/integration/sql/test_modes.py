# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What merging, appending and replacing do to the rows of a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LandingError, LoadResult

pytestmark = pytest.mark.every_driver

INT, T, D, B, J, S = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.BOOLEAN, Kind.JSON, Kind.TIMESTAMP


def test_first_pull_makes_the_table_with_every_kind(db):
    when = datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    result = db.land(
        "merge",
        {
            "id": (INT, [1, 2]),
            "yes": (B, [True, None]),
            "price": (D, [0.1, None]),
            "big": (Kind.BIGINT, [2**63 - 1, -(2**63)]),
            "at": (S, [when, None]),
            "name": (T, ["é😀", ""]),
            "more": (J, ['{"b": 1.0, "a": [1e3]}', None]),
            "nothing": (Kind.NULL, [None, None]),
        },
    )
    assert result == LoadResult(rows=2, inserted=2)
    assert db.rows() == [
        {
            "id": 1, "yes": True, "price": 0.1, "big": 2**63 - 1, "at": "2024-01-02T03:04:05.000006Z",
            "name": "é😀", "more": '{"b": 1.0, "a": [1e3]}', "nothing": None,
        },
        {"id": 2, "yes": None, "price": None, "big": -(2**63), "at": None, "name": "", "more": None, "nothing": None},
    ]  # fmt: skip


def test_types_of_a_new_table(db):
    db.land("replace", {"i": (INT, [1]), "b": (B, [True]), "d": (D, [1.0]), "s": (S, [None]), "t": (T, [""]), "j": (J, ["{}"])})
    wanted = {
        "duckdb": ["bigint", "boolean", "double", "timestamp with time zone", "varchar", "json"],
        "sqlite": ["integer", "boolean", "real", "timestamp", "text", "json"],
        "standard": ["bigint", "boolean", "double precision", "timestamp with time zone", "text", "text"],
    }.get(db.name, ["bigint", "boolean", "double precision", "timestamp with time zone", "text", "json"])
    types = db.types()
    assert list(types) == ["i", "b", "d", "s", "t", "j", "_extracted_at", "_run_id"]
    assert list(types.values()) == [*wanted, wanted[3], wanted[4]]


def test_own_columns_say_when_and_by_which_run(db):
    odd_hour = datetime(2024, 5, 6, 14, 0, 0, 1, tzinfo=UTC) + timedelta(0)
    db.land("merge", {"id": (INT, [1])}, run="it's; run-1", at=odd_hour)
    assert db.rows(own=True) == [{"id": 1, "_extracted_at": "2024-05-06T14:00:00.000001Z", "_run_id": "it's; run-1"}]


def test_merge_leaves_equal_rows_replaces_changed_ones_and_adds_new_ones(db):
    db.land("merge", {"id": (INT, [1, 2, 3]), "a": (T, ["x", "y", None]), "j": (J, ['{"a":1}', "[]", None])})
    result = db.land("merge", {"id": (INT, [4, 3, 2]), "a": (T, ["new", None, "z"]), "j": (J, ["[1]", None, "[]"])}, run="run-2")
    assert result == LoadResult(rows=3, inserted=1, updated=1, unchanged=1)
    assert [(row["id"], row["a"], row["j"], row["_run_id"]) for row in db.rows(own=True)] == [
        (1, "x", '{"a":1}', "run-1"),
        (2, "z", "[]", "run-2"),
        (3, None, None, "run-1"),
        (4, "new", "[1]", "run-2"),
    ]


def test_merge_replaces_the_whole_row(db):
    db.land("merge", {"id": (INT, [1, 2]), "a": (T, ["x", None]), "b": (INT, [1, None])})
    result = db.land("merge", {"id": (INT, [1, 2]), "a": (T, ["x", None])}, run="run-2")
    assert result == LoadResult(rows=2, updated=1, unchanged=1)
    assert db.rows() == [{"id": 1, "a": "x", "b": None}, {"id": 2, "a": None, "b": None}]


def test_merge_tells_null_from_empty_and_false_from_null(db):
    db.land("merge", {"id": (INT, [1, 2, 3]), "t": (T, ["", None, "a"]), "b": (B, [False, None, True])})
    result = db.land("merge", {"id": (INT, [1, 2, 3]), "t": (T, [None, "", "a"]), "b": (B, [False, False, None])}, run="run-2")
    assert result == LoadResult(rows=3, updated=3)
    assert [(row["t"], row["b"]) for row in db.rows()] == [(None, False), ("", False), ("a", None)]


def test_json_is_compared_letter_by_letter(db):
    db.land("merge", {"id": (INT, [1, 2]), "j": (J, ['{"a":1}', '{"a":1.0}'])})
    assert db.land("merge", {"id": (INT, [1, 2]), "j": (J, ['{"a": 1}', '{"a":1.0}'])}, run="2").updated == 1
    assert [row["j"] for row in db.rows()] == ['{"a": 1}', '{"a":1.0}']


def test_merge_by_several_columns(db):
    db.land("merge", {"a": (INT, [1, 1, 2]), "b": (T, ["x", "y", "x"]), "v": (INT, [1, 2, 3])}, key=("a", "b"))
    result = db.land("merge", {"b": (T, ["y", "z"]), "a": (INT, [1, 2]), "v": (INT, [9, 4])}, key=("a", "b"), run="2")
    assert result == LoadResult(rows=2, inserted=1, updated=1)
    assert [tuple(row.values()) for row in db.rows()] == [(1, "x", 1), (1, "y", 9), (2, "x", 3), (2, "z", 4)]


def test_keys_that_differ_in_case_or_blanks_are_different_keys(db):
    keys = ["a", "A", "a ", " a", "ä", "a\u0308", "", "\\", "%"]
    result = db.land("merge", {"id": (T, keys)})
    assert result == LoadResult(rows=len(keys), inserted=len(keys))
    assert db.land("merge", {"id": (T, keys)}, run="2") == LoadResult(rows=len(keys), unchanged=len(keys))
    assert {row["id"] for row in db.rows()} == set(keys)


def test_keys_only(db):
    db.land("merge", {"id": (INT, [1])})
    assert db.land("merge", {"id": (INT, [1, 2])}, run="2") == LoadResult(rows=2, inserted=1, unchanged=1)


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_newest_of_a_key_wins_and_nulls_lose(db, mode):
    moments = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2)]
    result = db.land(
        mode,
        {"id": (INT, [1, 2, 3]), "at": (S, [moments[1], None, moments[0]]), "v": (T, ["new", "null", "tie, first"])},
        {
            "id": (INT, [1, 2, 3, 1]),
            "at": (S, [moments[0], moments[0], moments[0], None]),
            "v": (T, ["old", "any", "tie, later", "n"]),
        },
        time="at",
    )
    assert result == LoadResult(rows=7, inserted=3, duplicates=4)
    assert [row["v"] for row in db.rows()] == ["new", "any", "tie, later"]


def test_newest_by_number_although_the_column_is_text(db):
    db.land("merge", {"id": (INT, [1]), "version": (T, ["nine"])})
    db.land("merge", {"id": (INT, [1, 1]), "version": (INT, [10, 9])}, time="version", run="2")
    assert db.rows() == [{"id": 1, "version": "10"}]


def test_without_a_time_column_the_later_wins(db):
    db.land("merge", {"id": (INT, [1, 1]), "v": (INT, [9, 8])}, {"id": (INT, [1]), "v": (INT, [7])})
    assert [row["v"] for row in db.rows()] == [7]


def test_time_column_that_no_row_has(db):
    assert db.land("merge", {"id": (INT, [1, 1]), "v": (INT, [9, 8])}, time="at").duplicates == 1
    assert [row["v"] for row in db.rows()] == [8]


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_rows_without_a_full_key_are_nobodys_duplicates(db, mode):
    result = db.land(mode, {"id": (INT, [None, None, 1, 1]), "k": (INT, [1, 1, None, None])}, key=("id", "k"))
    assert result == LoadResult(rows=4, inserted=4)
    assert db.land(mode, {"v": (INT, [1, 1])}, key=("id", "k"), run="2").inserted == 2


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_without_a_primary_key_nothing_is_a_duplicate(db, mode):
    assert db.land(mode, {"id": (INT, [1, 1])}, key=()) == LoadResult(rows=2, inserted=2)


def test_append_adds_and_a_retry_does_not_double(db):
    db.land("append", {"id": (INT, [1]), "v": (T, ["a"])}, run="run-1")
    assert db.land("append", {"id": (INT, [1, 2]), "v": (T, ["b", "c"])}, run="run-2") == LoadResult(rows=2, inserted=2)
    assert db.land("append", {"id": (INT, [1]), "v": (T, ["d"])}, run="run-2") == LoadResult(rows=1, inserted=1, deleted=2)
    assert [(row["id"], row["v"]) for row in db.rows()] == [(1, "a"), (1, "d")]


def test_replace_keeps_the_table_and_what_hangs_on_it(db):
    db.land("replace", {"id": (INT, [1, 2])})
    db.execute("CREATE VIEW seen AS SELECT id FROM subs")
    assert db.land("replace", {"id": (INT, [3])}, run="2") == LoadResult(rows=1, inserted=1, deleted=2)
    assert db.query("SELECT id FROM seen") == [(3,)]


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_no_rows_change_nothing(db, mode):
    db.land("merge", {"id": (INT, [1])})
    assert db.land(mode, {"id": (INT, [])}, run="2") == LoadResult()
    assert db.land(mode, run="3") == LoadResult()
    assert db.rows() == [{"id": 1}]


def test_replace_by_no_rows_empties(db):
    db.land("replace", {"id": (INT, [1, 2])})
    assert db.land("replace", run="2") == LoadResult(deleted=2)
    assert db.rows() == []
    assert list(db.types()) == ["id", "_extracted_at", "_run_id"]


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_no_rows_of_a_known_schema_make_the_table(db, mode):
    assert db.land(mode, schema={"id": INT, "v": T}) == LoadResult()
    assert list(db.types()) == ["id", "v", "_extracted_at", "_run_id"]
    assert db.land(mode, schema={"v": T}, table="other") == LoadResult()
    assert list(db.types("other")) == ["v", "_extracted_at", "_run_id"]


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_nothing_known_makes_no_table(db, mode):
    assert db.land(mode, schema={}) == LoadResult()
    assert not db.exists()


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_rows_without_any_key_are_rows(db, part, mode):
    import pyarrow as pa

    from limio_limitrail.landing.sql import Target, WriteMode, load

    class Bare:
        name = "bare"

        def groups(self):
            yield pa.table({"x": [1, 2]}).select([])

    target = Target(
        table="subs", mode=WriteMode(mode), primary_key=(), time_column=None, run_id="1", extracted_at=datetime.now(UTC)
    )
    result = load(hook=db.hook(), target=target, schema={}, parts=[Bare()])
    assert result.inserted == next(Bare().groups()).num_rows
    assert list(db.types()) == ["_extracted_at", "_run_id"]


def test_progress_counts_rows(db):
    seen = []
    db.land("merge", {"id": (INT, [1, 2])}, {"id": (INT, [3])}, {"id": (INT, [])}, progress=seen.append)
    assert seen == [2, 3, 3]


def test_failing_progress_undoes_the_load(db):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.land("merge", {"id": (INT, [1])}, progress=stop)
    assert not db.exists()


@pytest.mark.parametrize("before", [False, True])
def test_rows_without_a_key_are_refused_and_counted(db, before):
    if before:
        db.land("merge", {"id": (INT, [7])})
    with pytest.raises(LandingError, match=r"subs: 2 rows have no value in 'id'") as refused:
        db.land("merge", {"id": (T, ["canary", None, None]), "new": (T, ["canary"] * 3)}, run="2")
    assert "canary" not in str(refused.value)
    with pytest.raises(LandingError, match=r"subs: no row has the record key 'id'"):
        db.land("merge", {"v": (T, ["canary"])}, run="2")
    assert db.rows() == [{"id": 7}] if before else not db.exists()


def test_a_part_that_lacks_the_key_is_refused(db):
    with pytest.raises(LandingError, match="1 rows have no value in 'id'"):
        db.land("merge", {"id": (INT, [1])}, {"v": (INT, [1])})


def test_merge_into_a_table_that_holds_a_key_twice_is_refused(db):
    db.land("append", {"id": (INT, [1, 1, 2]), "v": (INT, [1, 2, 3])}, key=())
    with pytest.raises(LandingError, match="1 rows more than one for the keys that came"):
        db.land("merge", {"id": (INT, [1, 3]), "v": (INT, [9, 9])}, run="2")
    assert [row["v"] for row in db.rows()] == [1, 2, 3]
    assert db.land("merge", {"id": (INT, [2]), "v": (INT, [9])}, run="2").updated == 1


def test_a_part_with_more_than_the_schema_is_refused(db):
    with pytest.raises(LandingError, match="schema leaves out 1 columns of the part part-0"):
        db.land("replace", {"id": (INT, [1]), "lost": (INT, [1])}, schema={"id": INT})


def test_a_part_wider_than_the_schema_is_refused(db):
    with pytest.raises(LandingError, match="part-0 holds text in column 'id', which cannot become integer"):
        db.land("replace", {"id": (T, ["canary"])}, schema={"id": INT})
    assert not db.exists()


def test_parts_differ_in_columns_and_kinds(db):
    db.land(
        "merge",
        {"id": (INT, [1]), "v": (INT, [5]), "b": (B, [True])},
        {"id": (T, ["x"]), "w": (S, [datetime(2024, 1, 1, tzinfo=UTC)]), "b": (Kind.NULL, [None])},
        {"v": (D, [1e22]), "id": (INT, [2]), "w": (T, ["soon"])},
    )
    assert db.rows() == [
        {"id": "1", "v": 5.0, "b": True, "w": None},
        {"id": "2", "v": 1e22, "b": None, "w": "soon"},
        {"id": "x", "v": None, "b": None, "w": "2024-01-01T00:00:00.000000Z"},
    ]


def test_many_rows_in_many_batches(db):
    numbers = list(range(20_001))
    result = db.land("merge", {"id": (INT, numbers), "v": (T, [f'"{n}\n' for n in numbers])})
    assert result.inserted == len(numbers)
    assert [tuple(row) for row in db.query("SELECT count(*), count(DISTINCT v), max(id) FROM subs")] == [(20_001, 20_001, 20_000)]
    assert db.query("SELECT v FROM subs WHERE id = 12345") == [('"12345\n',)]


@pytest.mark.sampled(1)
def test_a_wide_table(db):
    # A row of Postgres has to fit a page, so most columns are null.
    columns = {f"c{n}": (INT, [n if n % 3 == 0 else None]) for n in range(1200)}
    assert db.land("merge", {"id": (INT, [1]), **columns}) == LoadResult(rows=1, inserted=1)
    columns["c1197"] = (INT, [None])
    assert db.land("merge", {"id": (INT, [1]), **columns}, run="2") == LoadResult(rows=1, updated=1)
