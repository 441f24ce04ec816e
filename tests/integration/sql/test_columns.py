# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""How a table's columns follow what comes, and what happens to tables made by somebody else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import LandingError, LoadResult, double_texts, duckdb, generic, postgres

pytestmark = pytest.mark.every_driver

INT, L, T, D, B, J, S, N = (
    Kind.INTEGER, Kind.BIGINT, Kind.TEXT, Kind.DOUBLE, Kind.BOOLEAN, Kind.JSON, Kind.TIMESTAMP, Kind.NULL,
)  # fmt: skip
ODD_KEYS = [
    '"; DROP TABLE subs; --',
    "it's",
    "back\\slash",
    "new\nline\r\ttab",
    "100% %s %(x)s",
    "{} {0} {x}",
    "? :1 $1",
    "select",
    "é",
    "e\u0301",
    "😀",
    "[a]`b`",
    "",
    " ",
    "x" * 100,
    "a\0b",
    "ID",
    "_run_id",
    "_Extracted_at",
    "seq",
    "ord",
    "c0",
    "xmin",
    "rowid",
    "s",
    "t",
]


@pytest.mark.parametrize("mode", ["merge", "append", "replace"])
def test_no_key_becomes_sql(db, mode):
    columns = {key: (T, [f"value of {number}", None]) for number, key in enumerate(ODD_KEYS)}
    for run, change in (("1", ""), ("2", ""), ("3", "!")):
        columns["select"] = (T, [f"again{change}", None])
        db.land(mode, {"id": (INT, [1, 2]), **columns}, run=run, table='"odd table; --"', time="ord")
    rows = db.query('SELECT * FROM "odd table; --"')
    assert len(rows) == (6 if mode == "append" else 2)
    first = [row for row in rows if row[0] == 1][-1]
    assert list(first[1 : len(ODD_KEYS) + 1]) == [
        "again!" if key == "select" else f"value of {number}" for number, key in enumerate(ODD_KEYS)
    ]


def test_odd_keys_can_be_the_primary_key(db):
    key = ('" %s {} ?', "_run_id")
    for run in ("1", "2"):
        result = db.land("merge", {key[0]: (T, ["a", "b"]), key[1]: (T, ["x", "x"]), "v": (T, [run, "same"])}, key=key, run=run)
    assert result == LoadResult(rows=2, updated=1, unchanged=1)


def test_new_keys_add_columns(db):
    db.land("merge", {"id": (INT, [1])})
    result = db.land("merge", {"id": (INT, [1, 2]), "ID": (INT, [5, None]), "t": (S, [None, None])}, run="2")
    [added, _] = result.columns_added
    assert added.startswith("ID__")
    assert result == LoadResult(rows=2, inserted=1, updated=1, columns_added=(added, "t"))
    assert list(db.types())[:1] == ["id"]
    assert [row[added] for row in db.rows()] == [5, None]


NEW_YEAR = datetime(2024, 1, 1, 2, 3, 4, 50, tzinfo=UTC)
WIDENINGS = [
    pytest.param(B, [True, False], T, ["true", "false"], id="boolean-text"),
    pytest.param(B, [True, False], INT, ["true", "false"], id="boolean-integer"),
    pytest.param(INT, [5, -(2**53)], D, [5.0, -(2.0**53)], id="integer-double"),
    pytest.param(INT, [5, -7], T, ["5", "-7"], id="integer-text"),
    pytest.param(L, [5, 2**53 + 1], D, ["5", "9007199254740993"], id="bigint-double"),
    pytest.param(D, [0.5, 3.0], L, ["0.5", "3"], id="double-bigint"),
    pytest.param(D, [0.1, 1e15, 2.0**53], T, ["0.1", "1000000000000000", "9007199254740992"], id="double-text"),
    pytest.param(D, [1e16, 1e22, -0.0, -0.5], T, ["1e+16", "1e+22", "0", "-0.5"], id="double-text-large"),
    pytest.param(D, [1.5e-7, 123456789012345.6], T, ["1.5e-7", "1.234567890123456e+14"], id="double-text-odd"),
    pytest.param(D, [5e-324, 1.7976931348623157e308], T, ["5e-324", "1.7976931348623157e+308"], id="double-text-extreme"),
    pytest.param(D, [100.0, -0.001], T, ["100", "-0.001"], id="double-text-whole"),
    pytest.param(S, [NEW_YEAR, datetime(1, 1, 1, tzinfo=UTC)], T,
                 ["2024-01-01T02:03:04.000050Z", "0001-01-01T00:00:00.000000Z"], id="instant-text"),
    pytest.param(J, ['{"a": 1.0}', "[]"], T, ['{"a": 1.0}', "[]"], id="json-text"),
    pytest.param(J, ['{"a": 1.0}', "[]"], INT, ['{"a": 1.0}', "[]"], id="json-integer"),
]  # fmt: skip
SAMPLES = {B: True, INT: 42, L: 2**60, D: 2.5, S: NEW_YEAR, T: "text", J: "[1]"}


@pytest.mark.sampled(12)
@pytest.mark.parametrize(("held", "values", "comes", "become"), WIDENINGS)
def test_a_narrow_column_is_widened(db, held, values, comes, become):
    numbers = list(range(1, len(values) + 2))
    db.land("merge", {"id": (INT, numbers), "v": (held, [*values, None])})
    result = db.land("merge", {"id": (INT, [9]), "v": (comes, [SAMPLES[comes]])}, run="2")
    widened = () if db.name == "standard" and held is J else ("v",)
    assert result == LoadResult(rows=1, inserted=1, columns_widened=widened)
    assert [row["v"] for row in db.rows()][:-1] == [*become, None]
    # The same rows, told in the wider kind, are still the same rows.
    assert db.land("merge", {"id": (INT, numbers), "v": (held, [*values, None])}, run="3").unchanged == len(numbers)


def test_many_numbers_become_texts_a_few_at_a_time(db, monkeypatch):
    monkeypatch.setattr(double_texts, "REWRITTEN_AT_ONCE", 2)
    fetched = []
    for session in (duckdb.DuckSession, postgres.PostgresSession, generic.GenericSession):
        monkeypatch.setattr(session, "query", counted(session.query, fetched))
    values = {1e16: "1e+16", -2e16: "-2e+16", 1e22: "1e+22", 1.5e-7: "1.5e-7", -0.0: "0", 3e10: "30000000000", 0.25: "0.25"}
    db.land("merge", {"id": (INT, list(range(7))), "v": (D, list(values))})
    fetched.clear()
    db.land("merge", {"id": (INT, [9]), "v": (T, ["text"])}, run="2")
    assert [row["v"] for row in db.rows()] == [*values.values(), "text"]
    assert all(len(rows) <= 2 for sql, rows in fetched if "abs(" in sql)


def counted(query, fetched):
    def run(session, sql, *values):
        rows = query(session, sql, *values)
        fetched.append((sql, rows))
        return rows

    return run


@pytest.mark.sampled
@pytest.mark.parametrize("comes", [B, INT, L, D, S, J, N])
def test_a_wider_column_takes_the_text_form(db, comes):
    texts = {B: "true", INT: "42", L: str(2**60), D: "2.5", S: "2024-01-01T02:03:04.000050Z", J: "[1]", N: None}
    db.land("merge", {"id": (INT, [1]), "v": (T, ["0123"])})
    result = db.land("merge", {"id": (INT, [2]), "v": (comes, [SAMPLES.get(comes)])}, run="2")
    assert result == LoadResult(rows=1, inserted=1)
    assert [row["v"] for row in db.rows()] == ["0123", texts[comes]]


def test_nulls_of_no_kind_change_no_column(db):
    columns = {f"c_{kind}": (kind, [SAMPLES[kind]]) for kind in SAMPLES}
    db.land("merge", {"id": (INT, [1]), **columns})
    before = db.types()
    result = db.land("merge", {"id": (INT, [1]), **{key: (N, [None]) for key in columns}}, run="2")
    assert result == LoadResult(rows=1, updated=1)
    assert db.types() == before


def test_a_big_number_in_an_integer_column_needs_no_change(db):
    db.land("merge", {"id": (INT, [1]), "v": (INT, [1])})
    assert db.land("merge", {"id": (INT, [2]), "v": (L, [2**63 - 1])}, run="2") == LoadResult(rows=1, inserted=1)
    assert [row["v"] for row in db.rows()] == [1, 2**63 - 1]


def test_a_widened_key_still_finds_its_rows(db):
    db.land("merge", {"id": (INT, [1, 2]), "v": (T, ["a", "b"])})
    result = db.land("merge", {"id": (T, ["1", "x", "01"]), "v": (T, ["z", "n", "o"])}, run="2")
    assert result == LoadResult(rows=3, inserted=2, updated=1, columns_widened=("id",))
    assert [(row["id"], row["v"]) for row in db.rows()] == [("01", "o"), ("1", "z"), ("2", "b"), ("x", "n")]
    assert db.land("merge", {"id": (INT, [2, 3]), "v": (T, ["b", "c"])}, run="3") == LoadResult(rows=2, inserted=1, unchanged=1)


def test_texts_that_look_like_numbers_stay_texts(db):
    db.land("merge", {"id": (INT, [1]), "v": (INT, [5])})
    db.land("merge", {"id": (INT, [2, 3]), "v": (T, ["0123", "1e3"])}, run="2")
    assert [row["v"] for row in db.rows()] == ["5", "0123", "1e3"]


def test_widening_does_not_depend_on_the_sessions_time_zone(postgres):
    postgres.execute(f"ALTER DATABASE {postgres.connection['schema']} SET timezone TO 'America/New_York'")
    postgres.land("merge", {"id": (INT, [1]), "v": (S, [NEW_YEAR])})
    postgres.land("merge", {"id": (INT, [2]), "v": (T, ["x"])}, run="2")
    assert [row["v"] for row in postgres.rows()] == ["2024-01-01T02:03:04.000050Z", "x"]


def test_instants_in_a_column_without_a_zone_are_in_utc(postgres):
    postgres.execute(f"ALTER DATABASE {postgres.connection['schema']} SET timezone TO 'America/New_York'")
    postgres.execute("CREATE TABLE subs (id BIGINT, v TIMESTAMP, d DATE)")
    day = datetime(2024, 1, 31, tzinfo=UTC)
    postgres.land("merge", {"id": (INT, [1]), "v": (S, [NEW_YEAR]), "d": (S, [day])})
    assert postgres.query("SELECT v::text, d::text FROM subs") == [("2024-01-01 02:03:04.00005", "2024-01-31")]


def test_several_columns_change_at_once(db):
    db.land("merge", {"id": (INT, [1]), "a": (INT, [1]), "b": (D, [1e20]), "c": (B, [True])})
    result = db.land(
        "merge",
        {"id": (T, ["1"]), "a": (D, [1.5]), "b": (T, ["b"]), "c": (J, ["{}"]), "d": (INT, [1]), "e": (N, [None])},
        run="2",
    )
    assert result.updated == 1
    assert result.columns_added == ("d", "e")
    assert sorted(result.columns_widened) == ["a", "b", "c", "id"]
    assert db.rows() == [{"id": "1", "a": 1.5, "b": "b", "c": "{}", "d": 1, "e": None}]


def test_columns_with_a_default_belong_to_their_owner(db):
    db.land("merge", {"id": (INT, [1, 2]), "v": (INT, [1, 1])})
    db.execute("ALTER TABLE subs ADD COLUMN note VARCHAR(20) DEFAULT 'none'", "UPDATE subs SET note = 'mine' WHERE id = 1")
    result = db.land("merge", {"id": (INT, [1, 2, 3]), "v": (INT, [2, 1, 1])}, run="2")
    assert result == LoadResult(rows=3, inserted=1, updated=1, unchanged=1)
    assert [row["note"] for row in db.rows()] == ["mine", "none", "none"]
    with pytest.raises(LandingError, match="column 'note' has a default"):
        db.land("merge", {"id": (INT, [1]), "note": (T, ["canary"])}, run="3")


def test_a_table_made_by_somebody_else(db):
    db.execute("CREATE TABLE subs (id BIGINT, name TEXT, extra TEXT)", "INSERT INTO subs VALUES (1, 'a', 'x'), (2, 'b', NULL)")
    result = db.land("merge", {"id": (INT, [1, 2]), "name": (T, ["a", "b"])})
    assert result == LoadResult(rows=2, updated=1, unchanged=1, columns_added=("_extracted_at", "_run_id"))
    assert db.rows() == [{"id": 1, "name": "a", "extra": None}, {"id": 2, "name": "b", "extra": None}]


def test_a_view_is_no_table(db):
    db.execute("CREATE TABLE base (id BIGINT)", "CREATE VIEW subs AS SELECT * FROM base")
    with pytest.raises(LandingError, match="subs is"):
        db.land("merge", {"id": (INT, [1])})


def test_a_schema_that_is_not_there(db):
    with pytest.raises(LandingError):
        db.land("merge", {"id": (INT, [1])}, table="nowhere.subs")


def test_a_table_in_a_schema(typed):
    db = typed
    db.execute('CREATE SCHEMA "Odd.schema"', "CREATE SCHEMA analytics")
    for run in ("1", "2"):
        db.land("merge", {"id": (INT, [1])}, table='"Odd.schema".subs', run=run)
        db.land("merge", {"id": (INT, [2, 3])}, table="analytics.subs", run=run)
        db.land("merge", {"id": (INT, [4])}, table="subs", run=run)
    assert db.query('SELECT id FROM "Odd.schema".subs') == [(1,)]
    assert db.query("SELECT count(*) FROM analytics.subs") == [(2,)]


FOREIGN = [
    ("varchar(5)", T, ["abcde", "é😀"], ["abcdef"]),
    ("varchar(5)", T, ["a"], ["abcde  "]),
    ("numeric", D, [0.1, 1e22, 123456789.12345679], []),
    ("numeric(10,2)", D, [1.25, 3.0], [0.125]),
    ("numeric(10,2)", INT, [12, -3], [10**9]),
    ("integer", INT, [1, -5], [2**40]),
    ("integer", D, [1.0], [1.5]),
    ("smallint", INT, [1], [70000]),
    ("real", D, [0.5], [0.1]),
    ("date", T, ["2024-01-31"], ["soon"]),
    ("date", S, [datetime(2024, 1, 31, tzinfo=UTC)], [NEW_YEAR]),
    ("timestamp", S, [NEW_YEAR], []),
    ("uuid", T, ["6f9619ff-8b86-d011-b42d-00c04fc964ff"], ["canary"]),
    ("date", B, [], [True]),
]


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("type_", "kind", "fits", "values_lost"), FOREIGN)
def test_foreign_types_take_what_they_give_back(typed, type_, kind, fits, values_lost):
    db = typed
    # DuckDB knows no length of texts, and its plain numeric has three digits after the point.
    if db.name == "duckdb" and type_ in ("varchar(5)", "numeric"):
        type_ = "numeric(38,10)"
        kind, fits, values_lost = D, [0.1, 123456.25], [1e-15]
    db.execute(f"CREATE TABLE subs (id BIGINT, v {type_})")
    before = db.types()
    numbers = list(range(len(fits)))
    for run in ("1", "2") if fits else ():
        result = db.land("merge", {"id": (INT, numbers), "v": (kind, fits)}, run=run)
        assert result.columns_widened == ()
    assert not fits or result.unchanged == len(fits)
    assert {name: type_ for name, type_ in db.types().items() if name in before} == before
    for misfit in values_lost:
        with pytest.raises(LandingError, match=r"column 'v' is .* and .* comes: .* Change the column to") as refused:
            db.land("merge", {"id": (INT, [99]), "v": (kind, [misfit])}, run="3")
        assert str(misfit) not in str(refused.value)
    assert len(db.rows()) == len(fits)


def test_jsonb_keeps_what_jsonb_keeps(postgres):
    postgres.execute("CREATE TABLE subs (id BIGINT, v JSONB)")
    for run in ("1", "2"):
        result = postgres.land("merge", {"id": (INT, [1]), "v": (J, ['{"b":1.0,"a":2}'])}, run=run)
    assert result == LoadResult(rows=1, unchanged=1)
    assert postgres.rows() == [{"id": 1, "v": '{"a": 2, "b": 1.0}'}]
    with pytest.raises(LandingError, match="column 'v' is jsonb"):
        postgres.land("merge", {"id": (INT, [2]), "v": (J, [r'"\u0000"'])}, run="3")


@pytest.mark.parametrize("type_", ["integer", "smallint", "numeric", "uuid", "varchar(40)"])
def test_a_key_of_a_foreign_type(postgres, type_):
    postgres.execute(f"CREATE TABLE subs (id {type_} PRIMARY KEY, v TEXT)")
    kind, keys = (T, [f"6f9619ff-8b86-d011-b42d-00c04fc964f{n}" for n in (1, 2)]) if type_[0] in "uv" else (INT, [1, 2])
    postgres.land("merge", {"id": (kind, keys), "v": (T, ["a", "b"])})
    assert postgres.land("merge", {"id": (kind, keys), "v": (T, ["a", "c"])}, run="2").updated == 1


def test_generated_columns_are_left_to_the_database(postgres):
    postgres.execute(
        "CREATE TABLE subs (n BIGINT GENERATED ALWAYS AS IDENTITY, id BIGINT, twice BIGINT GENERATED ALWAYS AS (id * 2) STORED)"
    )
    for run in ("1", "2"):
        result = postgres.land("merge", {"id": (INT, [5])}, run=run)
    assert result.unchanged == 1
    assert postgres.rows() == [{"n": 1, "id": 5, "twice": 10}]


def test_merge_makes_a_primary_key_and_the_other_modes_none(postgres):
    postgres.land("merge", {"id": (INT, [1]), "k": (T, ["a"])}, key=("k", "id"))
    postgres.land("append", {"id": (INT, [1, 1])}, key=(), table="log")
    postgres.land("replace", {"id": (INT, [1])}, table="snapshot")
    keys = (
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND conrelid >= 16384"
    )
    assert postgres.query(keys) == [("subs", "PRIMARY KEY (k, id)")]


def test_rows_that_others_refer_to_are_updated_in_place(postgres):
    postgres.land("merge", {"id": (INT, [1]), "v": (T, ["a"])})
    postgres.execute(
        "CREATE TABLE invoices (sub BIGINT REFERENCES subs (id) ON DELETE CASCADE)", "INSERT INTO invoices VALUES (1)"
    )
    assert postgres.land("merge", {"id": (INT, [1]), "v": (T, ["b"])}, run="2").updated == 1
    assert postgres.query("SELECT count(*) FROM invoices") == [(1,)]


def test_the_connections_own_schema_is_respected(postgres):
    postgres.execute("CREATE SCHEMA mine")
    hook = postgres.hook(options="-c search_path=mine")
    for run in ("1", "2"):
        result = postgres.land("merge", {"id": (INT, [1])}, hook=hook, run=run)
    assert result.unchanged == 1
    assert postgres.query("SELECT table_schema FROM information_schema.tables WHERE table_name = 'subs'") == [("mine",)]


def test_a_connection_that_gives_dictionaries(postgres):
    for run in ("1", "2"):
        result = postgres.land("merge", {"id": (INT, [1])}, hook=postgres.hook(cursor="dictcursor"), run=run)
    assert result.unchanged == 1


def test_unquoted_names_of_tables_fold_as_postgres_folds_them(postgres):
    postgres.execute("CREATE TABLE Subs (id BIGINT)")
    postgres.land("append", {"id": (INT, [1])}, table="Subs")
    assert postgres.query("SELECT id FROM subs") == [(1,)]


def test_sqlite_tables_of_unknown_types(lite):
    lite.execute("CREATE TABLE subs (id BIGINT, v NUMERIC, d DATETIME, w VARCHAR(3) COLLATE NOCASE)")
    lite.land("merge", {"id": (INT, [1]), "v": (N, [None]), "w": (T, ["0123"])})
    assert lite.land("merge", {"w": (T, ["a", "A"])}, key=("w",), run="2").inserted == 2
    for column in ("v", "d"):
        with pytest.raises(LandingError, match=f"column '{column}' is (NUMERIC|DATETIME)"):
            lite.land("merge", {"id": (INT, [2]), column: (T, ["0123"])}, run="3")


def test_columns_that_disregard_case(opened):
    """DuckDB's and SQLite's are compared letter by letter all the same."""
    for name in ("duckdb", "sqlite"):
        db = opened(name)
        db.execute("CREATE TABLE subs (id TEXT COLLATE NOCASE, v TEXT COLLATE NOCASE)")
        db.land("merge", {"id": (T, ["a", "A"]), "v": (T, ["x", "y"])})
        result = db.land("merge", {"id": (T, ["a", "A"]), "v": (T, ["X", "y"])}, run="2")
        assert result == LoadResult(rows=2, updated=1, unchanged=1)
        assert [(row["id"], row["v"]) for row in db.rows()] == [("A", "y"), ("a", "X")]


def test_a_postgres_key_that_disregards_case_is_refused(postgres):
    # A build without ICU has no such collation, so one is made to say that it is one.
    postgres.execute(
        'CREATE COLLATION loose FROM "C"',
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose'",
        "CREATE TABLE subs (id TEXT COLLATE loose)",
    )
    with pytest.raises(LandingError, match="column 'id' compares different texts as equal"):
        postgres.land("merge", {"id": (T, ["a", "A"])})
    assert postgres.land("append", {"id": (T, ["a", "A"])}, key=()).inserted == 2


@pytest.mark.other_processes
def test_a_duckdb_whose_settings_disregard_case_and_live_elsewhere(duck):
    hook = duck.hook(settings={"default_collation": "nocase", "TimeZone": "America/New_York"})
    duck.land("merge", {"id": (T, ["a", "A", "A"]), "v": (S, [NEW_YEAR, NEW_YEAR, None])}, time="v", hook=hook)
    result = duck.land("merge", {"id": (T, ["a", "A"]), "v": (T, ["x", None])}, hook=hook, run="2")
    assert result == LoadResult(rows=2, updated=2, columns_widened=("v",))
    times = ["2024-01-01t00:00:01z", "2024-01-01T00:00:00Z"]
    assert duck.land("merge", {"id": (T, ["d", "d"]), "v": (T, times)}, time="v", hook=hook, run="3").duplicates == 1
    assert [row["v"] for row in duck.rows() if row["id"] == "d"] == times[:1]
    duck.land("merge", {"id": (T, ["b"]), "w": (S, [NEW_YEAR])}, hook=hook, run="3")
    duck.land("merge", {"id": (T, ["c"]), "w": (T, ["x"])}, hook=hook, run="4")
    assert [row["w"] for row in duck.rows() if row["id"] == "b"] == ["2024-01-01T02:03:04.000050Z"]


def test_texts_arrive_whatever_the_connections_encoding_is(postgres):
    hook = postgres.hook(client_encoding="LATIN1")
    for run, word in (("run-1", "日本"), ("run-2", "é𝄞")):
        rows = {"id": (T, ["é", "日"]), "wörd": (T, [word, None]), "j": (J, ['["é"]', '{"日":1}'])}
        postgres.land("merge", rows, run=run, hook=hook, table="größe")
        found = postgres.query('SELECT id, "wörd", CAST(j AS text) FROM "größe" ORDER BY id COLLATE "C"')
        assert found == [("é", word, '["é"]'), ("日", None, '{"日":1}')]
