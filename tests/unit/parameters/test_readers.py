# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""However a value is given, it is the same value; what does not fit is named, with what would."""

from __future__ import annotations

import ast
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pendulum
import pytest
from airflow.sdk import ObjectStoragePath
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.resource import Resource
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.parameters import readers, references, times
from limio_limitrail.transfers.nested_columns import nested_paths

WHOLE = readers.whole_number(least=1, most=100_000)
NAMES = readers.names("columns")
SPAN = times.span()
CHOICE = readers.choice("merge", "append")
TEXT = readers.text()
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
VOIDS = [None, "None", "", " ", jinja2.Undefined(), pd.NA, pd.NaT]

SAME: dict[str, tuple[Any, Any, list[Any]]] = {
    "whole number": (
        WHOLE, 5000,
        [5000, "5000", " 5000\n", "5_000", 5000.0, "5000.0", "5e3", Decimal(5000), np.int64(5000), np.float64(5000), "+5000"],
    ),
    "names": (
        NAMES, ("a", "b"),
        [["a", "b"], ("a", "b"), {"b", "a"}, frozenset("ab"), "['a', 'b']", '["a", "b"]', "('a', 'b')", "'a', 'b'",
         np.array(["a", "b"]), pd.Series(["a", "b"]), ["a", "b", "a"], {"a": 1, "b": 2}.keys()],
    ),
    "one name": (NAMES, ("recoveryLink",), ["recoveryLink", " recoveryLink ", "['recoveryLink']", "'recoveryLink'",
         ["recoveryLink"]]),
    "names that look like numbers": (NAMES, ("007",), ["007", ["007"], "['007']"]),
    "a number of a name": (NAMES, ("200",), [200, "200", [200], ["200"], np.int64(200)]),
    "no names": (NAMES, (), [[], (), set(), "[]", "()"]),
    "time": (
        times.instant, NEW_YEAR,
        ["2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01 01:00:00+01:00", "20260101", 20260101, date(2026, 1, 1), NEW_YEAR,
         datetime(2026, 1, 1), pendulum.datetime(2026, 1, 1), pendulum.date(2026, 1, 1), pd.Timestamp("2026-01-01", tz="UTC"),
         np.datetime64("2026-01-01"), np.datetime64("2026-01-01T00:00:00.000000000"), " 2026-01-01T00:00:00+00:00\n",
         pendulum.datetime(2026, 1, 1, 1, tz="Europe/Berlin"), str(NEW_YEAR), str(pendulum.datetime(2026, 1, 1))],
    ),
    "span": (
        SPAN, HOUR,
        [HOUR, 3600, 3600.0, "3600", Decimal(3600), "PT1H", "pt60m", "PT3600S", "P0DT1H", "1:00:00", "01:00:00.000", str(HOUR),
         pendulum.duration(hours=1), pd.Timedelta("1h"), np.timedelta64(1, "h"), np.timedelta64(3600 * 10**9, "ns")],
    ),
    "days": (SPAN, timedelta(days=8), ["P8D", "P1W1D", "8 days, 0:00:00", "691200", timedelta(days=8)]),
    "switch on": (readers.switch, True, [True, "True", "true", " TRUE ", "1", 1, "yes", "on", np.bool_(True)]),
    "switch off": (readers.switch, False, [False, "False", "false", "0", 0, "no", "off", np.bool_(False), *VOIDS]),
    "choice": (CHOICE, "merge", ["merge", "Merge", " MERGE ", np.str_("merge")]),
    "choice of an enum": (readers.choice("jsonl", "parquet"), "jsonl", [PartFormat.JSONL, "jsonl", "JSONL"]),
    "text": (TEXT, "12345", ["12345", 12345, " 12345 ", np.int64(12345), np.str_("12345")]),
    "mapping": (readers.mapping, {"a": 1, "b": "x"}, [{"a": 1, "b": "x"}, "{'a': 1, 'b': 'x'}", '{"a": 1, "b": "x"}',
         MappingProxyType({"a": 1, "b": "x"})]),
    "values": (
        readers.param_values, {"n": "5", "on": "true", "day": "2026-01-01", "at": "2026-01-01T00:00:00Z"},
        [{"n": 5, "on": True, "day": date(2026, 1, 1), "at": NEW_YEAR, "x": None},
         {"n": "5", "on": "true", "day": "2026-01-01", "at": datetime(2026, 1, 1), "x": "None"},
         "{'n': 5, 'on': True, 'day': '2026-01-01', 'at': '2026-01-01T00:00:00Z', 'x': None}",
         '{"n": "5", "on": true, "day": "2026-01-01", "at": "2026-01-01T00:00:00Z", "x": null}',
         {"n": np.int64(5), "on": np.bool_(True), "day": date(2026, 1, 1), "at": pd.Timestamp("2026-01-01", tz="UTC"),
         "x": pd.NA}],
    ),
    "no values": (readers.param_values, {}, [{}, "{}", *VOIDS]),
    "scopes": (readers.scopes, ("a.read", "b.write"), ["a.read b.write", "b.write  a.read a.read", ["a.read", "b.write"],
         ("b.write a.read",), {"a.read", "b.write"}, "['b.write', 'a.read']", '["a.read","b.write"]']),
    "no scopes": (readers.scopes, (), [[], "[]", *VOIDS]),
    "left out": (readers.optional(WHOLE), None, VOIDS),
    "nested columns": (nested_paths, {"path": "data.offer.path"}, [{"path": "data.offer.path"},
         "{'path': 'data.offer.path'}", '{"path": "data.offer.path"}']),
    "nested names": (nested_paths, {"path": ("data", "a.b")}, [{"path": ["data", "a.b"]}, {"path": ("data", "a.b")},
         "{'path': ['data', 'a.b']}"]),
    "no nested columns": (nested_paths, {}, [{}, *VOIDS]),
    "function": (references.function, json.dumps, [json.dumps, "json.dumps", " json.dumps "]),
    "resource": (references.resource, "orders", ["orders", " orders "]),
    "folder": (references.folder, "file:///tmp/x", ["file:///tmp/x", " file:///tmp/x "]),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "number"), [(kind, at) for kind, (_, _, values) in SAME.items() for at in range(len(values))])
def test_whatever_the_spelling_the_value_is_the_same(kind: str, number: int) -> None:
    read, expected, values = SAME[kind]
    found = read("p", values[number])
    assert (found, type(found)) == (expected, type(expected))
    assert read("p", found) == found, "reading what was read changes nothing"


SECRET = "https://me:hunter2-and-more@host/x?token=abcdefgh"
WRONG: dict[str, tuple[Any, str, list[Any]]] = {
    "whole number": (
        WHOLE, "a whole number from 1 to 100000",
        [0, -1, 100_001, 1.5, "1.5", "many", True, "True", False, [5], {"a": 5}, float("nan"), float("inf"), "nan",
         "1e999999999",
         Decimal("1.1"), b"5", object(), SECRET, "9" * 5000, *VOIDS],
    ),
    "names": (
        NAMES, "a list of columns, or one of them as a text",
        ["a,b", "a, b", "[a]", "[a, b", "('a'", "{'a': 1}", {"a": 1}, True, 1.5, b"a", [None], [""], [["a"]], ["a", 1.5],
         object(),
         "True", '""', "','", *VOIDS],
    ),
    "time": (
        times.instant, "an ISO 8601 time such as 2026-01-01T00:00:00Z",
        ["soon", 1767225600, "1767225600", 1767225600.0, True, [], object(), "2026-13-01", "00:00", b"2026-01-01", *VOIDS],
    ),
    "time out of reach": (
        times.instant, "a time between the years 1 and 9999",
        [datetime(1, 1, 1, tzinfo=timezone(HOUR)), "9999-12-31T23:59:59-01:00"],
    ),
    "span": (
        SPAN, "a span of time of at least 0:00:00",
        [timedelta(-1), -1, "-1", "-PT1H", "-1 day, 23:00:00", "P1M", "P1Y", "P", "PT", "hour", True, float("nan"), "inf",
         [], object(),
         *VOIDS],
    ),
    "endless span": (SPAN, "a span of time below", [1e300, "1e300", 10**30, "P999999999999D"]),
    "whole seconds": (times.span(whole_seconds=True), "in whole seconds", [0.5, "PT0.5S", timedelta(milliseconds=1)]),
    "switch": (readers.switch, "true or false", ["perhaps", 2, 1.0, [], {}, object(), b"1"]),
    "choice": (CHOICE, "one of merge, append", ["upsert", True, 1, ["merge"], object(), "merge append", *VOIDS]),
    "text": (TEXT, "a text, not empty", [1.5, True, ["x"], {"a": 1}, b"x", object(), *VOIDS]),
    "mapping": (readers.mapping, "a mapping", ["x", "[1]", 5, [("a", 1)], {None: 1}, {("a",): 1}, object(), None]),
    "values": (readers.param_values, r"", [{"a": [1]}, {"a": float("nan")}, {"a": object()}, "x", ["a"], 5]),
    "scopes": (readers.scopes, "OAuth scopes", ["a,b", 5.5, [5.5], {"a": 1}, [None], 'a"b', True, object()]),
    "nested columns": (nested_paths, "a path into the record|a mapping", [{"a": ""}, {"a": "x..y"}, {"a": []}, {"a": 5},
         {"a": None}, "x", ["a"]]),
    "function": (references.function, "a function|cannot be imported", ["{{ x }}", "f", "no.such.module", "json.nothing", 5,
         object(), "a b.c"]),
    "import path": (references.import_path, "an import path", [json.dumps, "f", "", 5, None]),
    "resource": (references.resource, "the name of a resource", [5, "", None, ["orders"], {"name": "x"}, object()]),
    "folder": (references.folder, "the URL of a folder", ["", None, 5.5, "nowhere://x", [], object()]),
    "folder with a secret": (references.folder, "", ["s3://key:hunter2@bucket/x", "s3://key:abcdefgh/x@bucket", "gs://key%3Ahunter2@b",
         "s3://b/x?X-Amz-Signature=hunter2", "gs://b/x%3Fsig=hunter2", ObjectStoragePath("s3://key:hunter2@bucket/x")]),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "number"), [(kind, at) for kind, (_, _, values) in WRONG.items() for at in range(len(values))])
def test_what_does_not_fit_is_named(kind: str, number: int) -> None:
    read, expected, values = WRONG[kind]
    with pytest.raises(ParameterError, match=rf"^p.* ({expected})") as caught:
        read("p", values[number])
    assert len(caught.value.what) < 350
    assert not any(secret in str(caught.value) for secret in ("hunter2", "abcdefgh", "0x"))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.datetimes() | st.timedeltas() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3) | st.tuples(inner),
)
READERS = {kind: read for kind, (read, _, _) in {**SAME, **WRONG}.items()}


@pytest.mark.parametrize("kind", READERS)
@given(value=ANYTHING)
def test_whatever_comes_is_read_or_refused(kind: str, value: Any) -> None:
    try:
        found = READERS[kind]("p", value)
    except ParameterError:
        return
    assert READERS[kind]("p", found) == found


@pytest.mark.parametrize("kind", ["whole number", "names", "mapping", "values", "scopes", "nested columns", "span"])
@given(
    value=st.one_of(
        st.integers(0, 10**6),
        st.lists(st.text("ab,.'[ ", min_size=1, max_size=5)),
        st.dictionaries(st.text("ab", min_size=1), st.integers()),
    )
)
def test_a_text_is_read_as_native_rendering_would_have_it(kind: str, value: Any) -> None:
    def outcome(given_: Any) -> Any:
        try:
            return READERS[kind]("p", given_)
        except ParameterError:
            return ParameterError

    assert ast.literal_eval(repr(value)) == value
    assert outcome(repr(value)) == outcome(value)
    assert outcome(json.dumps(value)) == outcome(value)


def test_a_resource_and_a_path_stay_what_they_are() -> None:
    from airflow.sdk import ObjectStoragePath

    mine = Resource(name="mine", path="/mine")
    assert references.resource("resource", mine) is mine
    folder = ObjectStoragePath("file:///tmp/x")
    assert references.folder("staging", folder) is folder


def test_a_record_given_as_text_is_not_shown() -> None:
    with pytest.raises(ParameterError) as caught:
        readers.mapping("body", "{'email': 'user@example.com', broken")
    assert caught.value.what == "body must be a mapping of names to values, got a str"


@pytest.mark.parametrize("since", ["1795010112300", 1795010112300, "1795010112300Z", " 17950101123.5 ", "1795010112", 1795010112])
def test_a_number_since_1970_is_no_time(since):
    """Python reads some as times of the 18th century."""
    with pytest.raises(ParameterError, match="a number of seconds or milliseconds since 1970 is not read, make it a datetime"):
        times.instant("since", since)


EACH = {
    "a number": readers.whole_number(least=1, most=5), "rows": readers.rows_or_percent, "a switch": readers.switch,
    "a text": readers.text(), "a choice": readers.choice("a"), "choices": readers.choices("a"), "names": readers.names("names"),
    "a mapping": readers.mapping, "a key": lambda name, value: readers.mapping(name, {value: 1}),
    "values": lambda name, value: readers.param_values(name, {"a": value}), "scopes": readers.scopes, "a time": times.instant,
    "a span": times.span(), "a resource": references.resource, "a function": references.function_or_path,
}  # fmt: skip


@pytest.mark.parametrize("kind", EACH)
def test_a_number_of_more_digits_than_python_writes(kind):
    for number in (10**5000, -(10**5000)):
        if kind == "rows" and number > 0:
            assert EACH[kind]("x", number) == number
            continue
        with pytest.raises(ParameterError, match="x"):
            EACH[kind]("x", number)
