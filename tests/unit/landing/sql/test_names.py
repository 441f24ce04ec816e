# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Names of columns and tables."""

from __future__ import annotations

import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.landing.sql.names import LONGEST_NAME, TableName, ascii_lower, column_names, table_name

OWN = {"_extracted_at", "_run_id"}

any_key = st.one_of(
    st.text(st.characters(), max_size=80),
    st.sampled_from(
        ["", "id", "ID", "Id", "iD", "é", "e\u0301", "É", "ß", "ss", "\0", "_", "_run_id", "_RUN_ID", "xmin", "CTID"]
    ),
    st.text("aA", max_size=3),
    st.text("xX", min_size=55, max_size=70),
)
key_lists = st.lists(any_key, unique=True, max_size=12)


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@given(keys=key_lists)
def test_every_key_gets_a_column_of_its_own(keys):
    names = column_names(keys, existing=())
    assert list(names) == keys
    assert len({folded(name) for name in names.values()} | OWN) == len(keys) + len(OWN)


@given(keys=key_lists)
def test_every_name_can_be_a_column_anywhere(keys):
    for name in column_names(keys, existing=()).values():
        assert name
        assert "\0" not in name
        assert len(name.encode()) <= LONGEST_NAME


@given(keys=key_lists, data=st.data())
def test_a_key_finds_its_column_again(keys, data):
    names = column_names(keys, existing=())
    again = data.draw(st.permutations(keys))
    some = again[: data.draw(st.integers(0, len(again)))]
    existing = data.draw(st.permutations([*names.values(), *OWN]))
    assert column_names(some, existing=existing) == {key: names[key] for key in some}


@given(first=key_lists, second=key_lists, third=key_lists)
def test_a_table_that_grows_keeps_what_it_gave(first, second, third):
    existing = set(OWN)
    given_names: dict[str, str] = {}
    for keys in (first, second, third, first, second):
        names = column_names(keys, existing=existing)
        for key, name in names.items():
            assert given_names.setdefault(key, name) == name
        existing |= set(names.values())
    assert len(set(given_names.values())) == len(given_names)


@given(key=any_key)
def test_names_do_not_depend_on_chance(key):
    assert column_names([key], existing=()) == column_names([key], existing=())


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("id", "id"),
        ('"; DROP TABLE x; --', '"; DROP TABLE x; --'),
        ("a b\n%s{}\\", "a b\n%s{}\\"),
        ("😀", "😀"),
        ("", "___e3b0c442"),
        ("a\0b", "a_b__" + hashed("a\0b")),
        ("_run_id", "_run_id__" + hashed("_run_id")),
        ("_Extracted_At", "_Extracted_At__" + hashed("_Extracted_At")),
        ("xmin", "xmin__" + hashed("xmin")),
        ("x" * 63, "x" * 63),
        ("x" * 64, "x" * 53 + "__" + hashed("x" * 64)),
        ("é" * 40, "é" * 26 + "__" + hashed("é" * 40)),
        ("plan__0123abcd", "plan__0123abcd__" + hashed("plan__0123abcd")),
    ],
)
def test_the_name_of_one_key(key, name):
    assert column_names([key], existing=OWN) == {key: name}


def test_half_a_surrogate_pair_becomes_readable():
    [name] = column_names(["a\ud800"], existing=()).values()
    assert name.startswith("a?__")


def test_keys_that_differ_in_case():
    assert column_names(["planId", "PLANID"], existing=()) == {"planId": "planId", "PLANID": "PLANID__" + hashed("PLANID")}


def test_an_exact_match_wins_over_an_earlier_key():
    assert column_names(["ID", "id"], existing=["id"]) == {"ID": "ID__" + hashed("ID"), "id": "id"}


def test_a_table_with_a_long_or_odd_column_of_its_own_keeps_it():
    assert column_names(["x" * 80, "xmin"], existing=["x" * 80, "xmin"]) == {"x" * 80: "x" * 80, "xmin": "xmin"}


def test_a_key_shaped_like_a_hashed_name_never_takes_that_column():
    squatter = "PLANID__" + hashed("PLANID")
    names = column_names([squatter, "planId", "PLANID"], existing=())
    assert names["PLANID"] == squatter
    assert len(set(names.values())) == 3


@pytest.mark.parametrize(
    ("text", "schema", "table"),
    [
        ("Subs", None, "subs"),
        ("Analytics.Subs", "analytics", "subs"),
        ('a."b.c"', "a", "b.c"),
        (' Analytics . "Subs" ', "analytics", "Subs"),
        ("subs\n", None, "subs"),
        ('"A.b"', None, "A.b"),
        ('"A.b".C', "A.b", "c"),
        ('a."B""c"', "a", 'B"c'),
        ("my table; DROP", None, "my table; drop"),
    ],
)
def test_names_of_tables(text, schema, table):
    assert table_name(text, fold=str.lower) == TableName(schema=schema, table=table)


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", '"', '""', '"a"b'])
def test_what_is_no_name_of_a_table(text):
    with pytest.raises(ValueError, match="is not a table name"):
        table_name(text, fold=str.lower)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.b.c", "has 3 parts"),
        ('a."b".c."d"', "has 4 parts"),
        ("x" * 64, "is 64 bytes long, and the database keeps 63"),
        ("x" * 64 + ".t", "is 64 bytes long"),
        (f'a."{"é" * 32}"', "is 64 bytes long"),
        ("a\0b", "NUL"),
        ('"a\0b"', "NUL"),
        ("a\ud800", "unpaired surrogate"),
        (" ", "does not name a table or schema"),
        ("a. ", "does not name a table or schema"),
    ],
)
def test_names_that_the_database_would_change(text, said):
    with pytest.raises(ValueError, match=said):
        table_name(text, fold=ascii_lower, longest=63)


def test_names_at_the_limit_and_without_one():
    assert table_name("x" * 63, fold=ascii_lower, longest=63).table == "x" * 63
    assert table_name("x" * 500, fold=ascii_lower).table == "x" * 500


@pytest.mark.parametrize(("text", "folded"), [("ABCZ", "abcz"), ("ÉTÉ", "ÉtÉ"), ("İ", "İ"), ("ΑΣ", "ΑΣ"), ("\u212a", "\u212a")])
def test_only_the_letters_from_a_to_z_are_folded(text, folded):
    """Postgres and DuckDB know no others; `str.lower` does, and makes another name of it."""
    assert ascii_lower(text) == folded


@pytest.mark.parametrize(
    ("keys", "existing", "names"),
    [
        (["id"], ["ID"], {"id": "ID"}),
        (["id", "ID"], ["ID"], {"id": "id__" + hashed("id"), "ID": "ID"}),
        (["ID", "id"], ["ID"], {"ID": "ID", "id": "id__" + hashed("id")}),
        (["id", "Id"], ["ID"], {"id": "ID", "Id": "Id__" + hashed("Id")}),
        (["id"], ["ID", "id__" + hashed("id")], {"id": "id__" + hashed("id")}),
        (["id", "ID"], [], {"id": "id", "ID": "ID__" + hashed("ID")}),
        (["é"], ["É"], {"é": "é__" + hashed("é")}),
        (["_RUN_ID"], ["_run_id"], {"_RUN_ID": "_RUN_ID__" + hashed("_RUN_ID")}),
    ],
)
def test_a_database_that_disregards_case(keys, existing, names):
    assert column_names(keys, existing=existing, same=ascii_lower) == names


@given(first=key_lists, second=key_lists)
def test_a_database_that_disregards_case_gets_no_two_names_that_it_takes_for_one(first, second):
    existing = set(OWN)
    for keys in (first, second):
        names = column_names(keys, existing=existing, same=ascii_lower)
        existing |= set(names.values())
        assert len({ascii_lower(name) for name in names.values()}) == len(keys)
    assert len({ascii_lower(name) for name in existing}) == len(existing)
