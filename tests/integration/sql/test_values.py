# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Every value comes out of the table as it went in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from limio_limitrail.landing.column_types import Kind

pytestmark = pytest.mark.every_driver

INT, T, D, J, S = Kind.INTEGER, Kind.TEXT, Kind.DOUBLE, Kind.JSON, Kind.TIMESTAMP

TEXTS = [
    "", " ", "null", "NULL", "\\N", "\\.", "\\", "\\\\n", '"', '""', "'", "a,b", "a;b", "a\tb", "a\nb", "a\rb", "a\r\nb",
    "\n", "\r", "\ufeff", "é", "e\u0301",
    "😀", "\u2028", "\x01\x7f", "%s %% {}", "?", "$1", "0123", "1e3", "true", "2024-01-01",
    "x" * 200_000,
]  # fmt: skip


def test_texts(db):
    numbers = list(range(len(TEXTS)))
    db.land("merge", {"id": (INT, numbers), "v": (T, TEXTS)})
    assert {row["id"]: row["v"] for row in db.rows()} == dict(enumerate(TEXTS))
    assert db.land("merge", {"id": (INT, numbers), "v": (T, TEXTS)}, run="2").unchanged == len(TEXTS)


def test_texts_alone_in_their_column(db):
    """A line that holds nothing but a mark of the bulk format is a row like any other."""
    db.land("append", {"v": (T, TEXTS)}, key=())
    assert sorted(row["v"] for row in db.rows()) == sorted(TEXTS)


def test_nuls_are_written_out(db):
    nuls = ["a\0b", "\0", "\0\0c", "\\u0000"]
    for run in ("1", "2"):
        result = db.land("merge", {"id": (T, nuls[:3]), "v": (T, nuls[:3]), "w": (T, [None, *nuls[:2]])}, run=run)
    assert result.unchanged == 3
    assert sorted(row["v"] for row in db.rows()) == sorted(["a\\u0000b", "\\u0000", "\\u0000\\u0000c"])
    assert {row["id"] for row in db.rows()} == {row["v"] for row in db.rows()}


JSONS = [
    '{"b": 1, "a": 2}', '{"a":1,"a":2}', "[1.0, 1e400, -0.0, 123456789012345678901234567890]", r'{"x":"\u0000"}', "{}", "[]",
    '{"deep":' * 300 + "null" + "}" * 300, '["é\\u00e9😀\\ud83d\\ude00"]', '[ 1 ,\n\t2 ]', '["\\\\.", "\\"", "a,b"]',
]  # fmt: skip


def test_json_stays_as_it_was_written(db):
    numbers = list(range(len(JSONS)))
    db.land("merge", {"id": (INT, numbers), "v": (J, JSONS)})
    assert {row["id"]: row["v"] for row in db.rows()} == dict(enumerate(JSONS))
    assert db.land("merge", {"id": (INT, numbers), "v": (J, JSONS)}, run="2").unchanged == len(JSONS)


@pytest.mark.parametrize("held", [None, '{"a": 1}'])
def test_json_with_half_a_surrogate_pair(db, held):
    """What the database's JSON type does not take makes the column text, rather than stop the load for ever."""
    if held is not None:
        db.land("merge", {"id": (INT, [0]), "v": (J, [held])})
    half = r'{"x":"\ud800"}'
    result = db.land("merge", {"id": (INT, [1]), "v": (J, [half])}, run="2")
    assert [row["v"] for row in db.rows()] == ([half] if held is None else [held, half])
    if db.name == "duckdb":
        assert db.types()["v"] == "varchar"
        assert result.columns_widened == (() if held is None else ("v",))
    assert db.land("merge", {"id": (INT, [1]), "v": (J, [half])}, run="3").unchanged == 1


def test_numbers_and_instants(db):
    doubles = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -1e-7, 2.0**53, 123456789.12345679, 0.0]
    whole = [0, -1, 2**53, -(2**53), 42, 7, 8, 9]
    instants = [
        datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), datetime(2024, 2, 29, 1, 2, 3, 1, tzinfo=UTC),
        datetime(1883, 11, 18, 12, tzinfo=UTC), datetime(2024, 3, 31, 1, 30, tzinfo=UTC), datetime(2024, 10, 27, 1, tzinfo=UTC),
    ]  # fmt: skip
    numbers = list(range(len(doubles)))
    columns = {"id": (INT, numbers), "d": (D, doubles), "i": (INT, whole), "s": (S, instants)}
    db.land("merge", columns)
    rows = sorted(db.rows(), key=lambda row: row["id"])
    assert [row["d"] for row in rows] == doubles
    assert [row["i"] for row in rows] == whole
    assert [row["s"] for row in rows] == [at.isoformat(timespec="microseconds").replace("+00:00", "Z") for at in instants]
    assert db.land("merge", columns, run="2").unchanged == len(numbers)


def test_a_placeholder_for_other_uses_of_a_sqlite_connection_changes_nothing(lite):
    """Airflow's hooks read it from the connection; SQLite's driver knows no other than its own."""
    hook = lite.hook(placeholder="%s")
    assert hook.placeholder == "%s"
    lite.land("merge", {"id": (INT, [1]), "v": (T, ["100 %"])}, hook=hook)
    assert lite.land("merge", {"id": (INT, [1]), "v": (T, ["?"])}, run="2", hook=hook).updated == 1
    assert lite.rows() == [{"id": 1, "v": "?"}]
