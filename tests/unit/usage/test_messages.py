# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows become requests: keys that never change, numbers digit by digit, and messages that name row and column."""

from __future__ import annotations

import enum
import json
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import InvalidRequestError, ParameterError
from limio_limitrail.api.redact import remember_secret
from limio_limitrail.api.request_context import ProblemDetails, RequestContext
from limio_limitrail.api.responses import Response
from limio_limitrail.api.secret import Secret
from limio_limitrail.usage.body import UNREADABLE_TIME, Column, Json, Text, UsageRowError, columns_of, encode, fill
from limio_limitrail.usage.conventions import OPERATIONS, ResponseMapping, find_operation
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.messages import UsageTemplate, check_columns, outcome_of, read_answer
from tests.support.secrets_left import FORMS, readable_pieces


class Word(str, enum.Enum):  # noqa: UP042 - a text whose str() is another one
    GOLD = "gold"


class Size(enum.IntEnum):
    BIG = 7


def template(**more) -> UsageTemplate:
    return UsageTemplate(
        **{"tenant": "t1", "operation": "usage.commit", "path": "/p", "key_columns": ("id",), "body": {}, **more}
    )


def key_of(row, **more) -> str:
    return template(**more).build(row, number=1).key


def body_of(tree, row, **more):
    return template(body=tree, **more).build({"id": 1, **row}, number=1).body


# -- keys ------------------------------------------------------------------------------------------------------------

PINNED = [
    ({"id": 5}, {}, "9b69959e-b092-5f53-b059-6ac49fcb3b30"),
    ({"id": "5"}, {}, "b6005b5d-ac78-5e7f-84a6-7fa984221471"),
    ({"id": True}, {}, "b45f599c-4c1b-5f43-8097-b53d98983ed0"),
    ({"id": Decimal("0.10")}, {}, "6d7c1ced-8930-5bfb-b7c2-26f01beb8e08"),
    ({"id": "naïve 日本語 🙂"}, {}, "2c73ceb4-7277-56b8-ae90-15a010e9fa21"),
    ({"id": date(2026, 11, 1)}, {}, "6f990227-8cfc-5454-af0d-ffe5851b3cf2"),
    ({"id": datetime(2026, 11, 1, 12, 30)}, {}, "06df40a4-18be-5831-aa1a-b7c8e4c235cb"),
    ({"id": datetime(2026, 11, 1, 12, 30, tzinfo=UTC)}, {}, "5e03f00e-135d-50ee-a8db-b6e9b3222441"),
    ({"id": uuid.UUID(int=7)}, {}, "ec1da7a3-3a40-598e-abb6-8cf57c1223b3"),
    ({"id": 10**30}, {}, "5d47355d-0756-55a2-9bfd-99b54c3c423f"),
    ({"id": -1}, {}, "73631416-46f2-5688-82f2-64afc7408a74"),
    ({"a": 1, "b": "x"}, {"key_columns": ("a", "b")}, "a41668f4-dd02-5121-b1e3-ed35b12489b5"),
    ({"id": 5}, {"tenant": "t2"}, "fc1dcd0f-a164-5a59-8c9a-37085a8a67a9"),
    ({"id": 5}, {"operation": "usage.reserve"}, "248b718d-f08c-54d4-8691-180f9cc53e36"),
]
"""Rows, and the keys that they have had ever since: another key for the same row would send it twice."""


@pytest.mark.parametrize(("row", "more", "key"), PINNED, ids=range(len(PINNED)))
def test_keys_never_change(row, more, key):
    assert key_of(row, **more) == key


def test_all_pinned_keys_differ():
    assert len({key for _, _, key in PINNED}) == len(PINNED)


@pytest.mark.parametrize(
    "values",
    [
        [5, 5.0, Decimal(5), Decimal("5.00"), Decimal("0.5E+1"), np.float64(5), np.int64(5), np.float32(5), Size(7) - 2],
        [True, np.bool_(True)],
        ["gold", np.str_("gold"), Word.GOLD],
        [datetime(2026, 11, 1, 12), np.datetime64("2026-11-01T12"), np.datetime64("2026-11-01T12:00:00.000000000")],
        [0, 0.0, -0.0, Decimal("0.000"), Decimal("-0"), Decimal("0E+3"), Decimal("-0E-7")],
        [0.1, Decimal("0.1"), Decimal("0.1000"), np.float32(0.1)],
        [500, Decimal("5E+2"), 500.0],
        [1e22, 10**22, Decimal("1E22")],
        [-1.5, Decimal("-1.50")],
        [
            datetime(2026, 11, 1, 12, tzinfo=UTC),
            datetime(2026, 11, 1, 13, tzinfo=timezone(timedelta(hours=1))),
            pd.Timestamp("2026-11-01T12:00:00Z"),
            "2026-11-01T12:00:00Z",
        ],
        [uuid.UUID(int=1), str(uuid.UUID(int=1))],
        [date(2026, 1, 2), "2026-01-02", np.datetime64("2026-01-02")],
    ],
    ids=lambda values: str(values[0]),
)
def test_one_value_in_several_forms_has_one_key(values):
    assert len({key_of({"id": value}) for value in values}) == 1


def test_different_values_have_different_keys():
    numbers = [0, 1, -1, 5, 10, 100, 0.5, 2**63, 2**63 + 1, Decimal("1E-30")]
    texts = ["5", "5.0", "True", "b:True", "n:5", "", " ", "a", "A", "a\0", "ä", "a\u0308"]
    values = [*numbers, *texts, True, False, datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), date(2026, 1, 1)]
    assert len({key_of({"id": value}) for value in values}) == len(values)


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=6), st.integers(0, 9))
def test_zeros_at_the_end_make_no_other_key(number, zeros):
    padded = Decimal(format(number, "f") + "0" * zeros)
    assert key_of({"id": number}) == key_of({"id": padded}) == key_of({"id": number.normalize()})


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.integers() | st.decimals(-1000, 1000, places=3))
def test_two_numbers_share_a_key_only_if_they_are_equal(one, other):
    exact = Decimal(repr(one)) if isinstance(one, float) else Decimal(one)
    assert (key_of({"id": one}) == key_of({"id": other})) == (exact == Decimal(other))


def test_the_order_of_key_columns_does_not_matter_and_their_names_do():
    row = {"a": 1, "b": 2, "c": 1}
    assert key_of(row, key_columns=("a", "b")) == key_of(row, key_columns=("b", "a"))
    assert key_of(row, key_columns=("a", "b")) != key_of(row, key_columns=("c", "b"))
    assert key_of({"a": 1, "b": 2}, key_columns=("a", "b")) != key_of({"a": 2, "b": 1}, key_columns=("a", "b"))
    assert key_of({"a": "x", "b": "yz"}, key_columns=("a", "b")) != key_of({"a": "xy", "b": "z"}, key_columns=("a", "b"))


def test_a_namespace_goes_into_the_key_and_only_there():
    row = {"id": 5}
    keys = [key_of(row, namespace=namespace) for namespace in (None, "a", "b", "")]
    assert len(set(keys)) == 4
    assert keys[0] == PINNED[0][2]
    one, other = (template(namespace=namespace).build(row, number=1) for namespace in (None, "a"))
    assert (one.identity, one.digest, one.row_key) == (other.identity, other.digest, other.row_key)


def test_a_key_depends_on_nothing_but_tenant_operation_and_key():
    row = {"id": 1, "amount": 2}
    other = {"id": 1, "amount": 3}
    built = template(body={"a": Column("amount")}, path="/other").build(other, number=9)
    assert built.key == key_of(row)
    assert built.digest != template(body={"a": Column("amount")}).build(other, number=9).digest
    assert str(built) == 'row 9 {"id":1}'


@pytest.mark.parametrize("missing", [None, pd.NaT, pd.NA, np.datetime64("NaT")], ids=str)
def test_a_key_without_a_value_is_refused(missing):
    for row in ({"id": missing}, {}) if missing is None else ({"id": missing},):
        with pytest.raises(UsageRowError, match=r"row 3: key column 'id' has no value"):
            template().build(row, number=3)


@pytest.mark.parametrize(
    "unfit",
    [float("nan"), float("inf"), Decimal("NaN"), Decimal("sNaN"), b"x", [1], {"a": 1}, "\ud800", datetime.max, date.min,
     UNREADABLE_TIME, Decimal("1E+1000"), 10**1000, np.datetime64("20000-01-01"), np.timedelta64(1, "s"), np.float32("nan")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_key_that_is_no_value_is_refused(unfit):
    with pytest.raises(UsageRowError, match=r"row 3: column 'id'"):
        template().build({"id": unfit}, number=3)


def test_a_long_key_is_shown_short():
    texts = ["x" * 5000, "x" * 5001, "x" * 5000 + "y", "x" * 4999 + "y", "é" * 201, "x" * 201]
    rows = [template().build({"id": text}, number=1) for text in texts]
    assert len({row.key for row in rows}) == len({row.row_key for row in rows}) == len(texts)
    for row, text in zip(rows, texts, strict=True):
        shown = json.loads(row.row_key)["id"]
        assert len(shown) == 200
        cut, mark = shown.split("… (")
        assert text.startswith(cut)
        assert mark.startswith(f"{len(text):,} characters, SHA-256 ")


def test_a_key_that_is_not_too_long_is_shown_whole():
    row = template().build({"id": "x" * 200, "n": Decimal("1E-7")}, number=1)
    assert json.loads(row.row_key) == {"id": "x" * 200}
    assert template(key_columns=("n",)).build({"n": Decimal("1E-7")}, number=1).row_key == '{"n":0.0000001}'


# -- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("0.1000"), "0.1000"),
        (Decimal("123456789012345678901234567890.123456789012345678901234567890"),) * 2,
        (Decimal("1E+3"), "1000"),
        (Decimal("-1E-30"), f"-0.{'0' * 29}1"),
        (Decimal("0E-18"), f"0.{'0' * 18}"),
        (Decimal("1E-18"), f"0.{'0' * 17}1"),
        (Decimal("-0E-7"), "-0.0000000"),
        (Decimal("0E+3"), "0"),
        (Decimal("1.20E-10"), "0.000000000120"),
        (Decimal("9E-1000"), f"0.{'0' * 999}9"),
        (Decimal("1E+999"), f"1{'0' * 999}"),
        (1e16, f"1{'0' * 16}"),
        (1e15, "1000000000000000.0"),
        (-1e22, f"-1{'0' * 22}"),
        (1e-5, "0.00001"),
        (1e-6, "0.000001"),
        (-1.5e-7, "-0.00000015"),
        (5e-324, f"0.{'0' * 323}5"),
        (0.0, "0.0"),
        (np.int64(-7), "-7"),
        (np.uint64(2**64 - 1), str(2**64 - 1)),
        (np.int8(5), "5"),
        (np.float64(0.1), "0.1"),
        (np.float64(1e-7), "0.0000001"),
        (np.float32(0.1), "0.1"),
        (np.float32(1e20), f"1{'0' * 20}"),
        (np.bool_(True), "true"),
        (np.str_("ä"), '"ä"'),
        (np.datetime64("2026-11-01"), '"2026-11-01"'),
        (np.datetime64("2026-11-01T12:30"), '"2026-11-01T12:30:00"'),
        (np.datetime64("2026-11-01T12:30:00.000005000"), '"2026-11-01T12:30:00.000005"'),
        (np.datetime64("2026-11-01T12:30:00.000000005"), '"2026-11-01T12:30:00.000000005"'),
        (pd.Series([5], dtype="int32")[0], "5"),
        ([np.int64(1), {"a": np.float32(2.5), "b": Decimal("1E-7")}], '[1,{"a":2.5,"b":0.0000001}]'),
        (Word.GOLD, '"gold"'),
        (Size.BIG, "7"),
        (date(9999, 12, 31), '"9999-12-31"'),
        (2**64, "18446744073709551616"),
        (-(2**200), str(-(2**200))),
        (0.1, "0.1"),
        (1.0, "1.0"),
        (True, "true"),
        (datetime(2026, 11, 1, 12, 30, 0, 5), '"2026-11-01T12:30:00.000005"'),
        (datetime(2026, 11, 1, 12, 30, tzinfo=timezone(timedelta(hours=2))), '"2026-11-01T10:30:00Z"'),
        (pd.Timestamp("2026-11-01T12:30:00+02:00"), '"2026-11-01T10:30:00Z"'),
        (date(2026, 11, 1), '"2026-11-01"'),
        (time(12, 30), '"12:30:00"'),
        (uuid.UUID(int=255), '"00000000-0000-0000-0000-0000000000ff"'),
        ('naïve "日本" 🙂\n\0', '"naïve \\"日本\\" 🙂\\n\\u0000"'),
        ("", '""'),
        ([1, None, [Decimal("2.50")]], "[1,null,[2.50]]"),
        ({"b": 1, "a": {"c": [Decimal("1.10")], "d": None}}, '{"a":{"c":[1.10],"d":null},"b":1}'),
        ((1, 2), "[1,2]"),
    ],
    ids=str,
)
def test_a_value_goes_out_to_the_last_digit(value, text):
    assert body_of({"v": Column("v")}, {"v": value}).decode() == f'{{"v":{text}}}'


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), -float("inf"), Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN"), b"bytes",
        bytearray(b"x"),
        memoryview(b"x"), "\ud800", ["\udfff"], {"\ud800": 1}, {"a": float("nan")}, [pd.NaT], {"a": pd.NA}, timedelta(1), {1, 2},
        object(), 1j, np.array([1, 2]), np.array(5), np.timedelta64(5, "D"), np.bytes_(b"x"), np.float32("nan"),
        [np.datetime64("NaT")], np.datetime64("20000-01-01"), np.datetime64("20000-01-01T00:00"), np.datetime64(1, "ps"),
        Decimal("1E+1000"), Decimal("1E-1001"), Decimal("9" * 1001), Decimal("1E+999999999"), 10**1000, -(10**5000),
        {"a": [Decimal("1E-99999")]}, datetime.max, datetime.min, datetime.max.replace(tzinfo=UTC), date.min, UNREADABLE_TIME,
        datetime(1, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))), np.datetime64(datetime.max),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_without_a_json_form_is_refused_by_name(value):
    with pytest.raises(UsageRowError, match=r"^row 7: column 'v' holds .*, which JSON cannot\. More: file:///\S+#usagerowerror$"):
        template(body={"v": Column("v")}).build({"id": 1, "v": value}, number=7)


@pytest.mark.parametrize("missing", [None, pd.NaT, pd.NA], ids=str)
@pytest.mark.parametrize("kind", [Column, Json])
def test_a_missing_value_is_an_error_or_left_out(kind, missing):
    with pytest.raises(UsageRowError, match=r"row 7: column 'v' has no value, and the body needs one"):
        template(body={"v": kind("v")}).build({"id": 1, "v": missing}, number=7)
    optional = {
        "a": 1,
        "v": kind("v", required=False),
        "n": {"v": kind("v", required=False)},
        "l": [kind("v", required=False), 2],
    }
    assert json.loads(body_of(optional, {"v": missing})) == {"a": 1, "n": {}, "l": [2]}
    assert json.loads(body_of(optional, {})) == {"a": 1, "n": {}, "l": [2]}


def test_a_float_nan_is_no_gap():
    with pytest.raises(UsageRowError, match="NaN or infinity"):
        body_of({"v": Column("v", required=False)}, {"v": float("nan")})


def test_json_columns_keep_every_digit():
    text = '{"b": 0.1000, "a": [123456789012345678901234567890, 1e400, null, "x\\u00e9"]}'
    assert body_of(
        Json("v"), {"v": text}, key_field=None
    ) == b'{"a":[123456789012345678901234567890,1%s,null,"x\xc3\xa9"],"b":0.1000}' % (b"0" * 400)
    assert body_of({"v": Json("v")}, {"v": {"a": Decimal("1.00")}}) == b'{"v":{"a":1.00}}'
    assert body_of({"v": Json("v")}, {"v": "null"}) == b'{"v":null}'


@pytest.mark.parametrize("text", ["", "{", "nope", "NaN", '"\\ud800"', b"\xff", "{'a': 1}", "1 2"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(UsageRowError, match="row 1: column 'v' holds no JSON"):
        body_of({"v": Json("v")}, {"v": text})


@pytest.mark.parametrize("text", ["1e1001", "[1E-1001]", "1e99999999999999999999", "1" * 5000, "0." + "1" * 1001], ids=len)
def test_a_number_of_too_many_digits_within_json_is_refused(text):
    with pytest.raises(UsageRowError, match="row 1: column 'v' holds a number of more than 1,000 digits"):
        body_of({"v": Json("v")}, {"v": text})


@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(10**40), 10**40)
)
def test_every_number_goes_out_in_plain_digits_and_keeps_its_value(number):
    [text] = [body_of({"v": Column("v")}, {"v": number}).decode().removeprefix('{"v":').removesuffix("}")]
    assert set(text) <= set("-.0123456789")
    assert Decimal(text) == Decimal(repr(number) if isinstance(number, float) else number)
    assert json.loads(text) == pytest.approx(float(number))
    in_text = fill(Text("{v}"), {"v": number}, number=1)
    assert in_text == text
    in_json = body_of(Json("v"), {"v": repr(number) if isinstance(number, float) else str(number)}, key_field=None).decode()
    assert set(in_json) <= set("-.0123456789")
    assert Decimal(in_json) == Decimal(text)


def test_texts_are_made_of_columns():
    row = {"plan": "gold", "n": Decimal("1.50"), "d": date(2026, 1, 2), "b": True}
    assert fill(Text("{plan}/{n}/{d}/{b}/{{}}"), row, number=1) == "gold/1.50/2026-01-02/true/{}"
    assert Text("{plan}-{n}-{plan}").columns() == ("plan", "n", "plan")
    with pytest.raises(UsageRowError, match="row 2: column 'plan' has no value"):
        fill(Text("{plan}"), {"plan": None}, number=2)
    with pytest.raises(UsageRowError, match="row 2: column 'plan' holds a nested value"):
        fill(Text("{plan}"), {"plan": [1]}, number=2)


def test_constants_stand_for_themselves():
    assert json.loads(body_of({"a": "x", "b": [1, None, Decimal("1.5")], "c": {"d": True}}, {})) == {
        "a": "x", "b": [1, None, 1.5], "c": {"d": True},
    }  # fmt: skip
    with pytest.raises(UsageRowError, match="the body holds a object"):
        body_of({"a": object()}, {})


def test_the_columns_of_a_template_are_known_before_the_first_row():
    tree = {"a": Column("x"), "b": [Json("y"), {"c": Text("{z}/{w}")}], "d": 1}
    assert columns_of(tree) == {"x", "y", "z", "w"}
    assert template(body=tree, path="/r/{rid}", key_columns=("id", "k")).columns() == {"x", "y", "z", "w", "rid", "id", "k"}
    check_columns(["id", "x"], needed=frozenset({"x"}))
    with pytest.raises(UsageRowError, match=r"^the rows have no column 'a', 'b'; they have 'x', 'y'\..*#usagerowerror$"):
        check_columns(["x", "y"], needed=frozenset({"b", "a", "x"}))


def test_members_are_written_in_one_order():
    assert encode({"b": 1, "a": {"d": 1, "c": 2}}) == encode({"a": {"c": 2, "d": 1}, "b": 1})


@pytest.mark.parametrize(
    ("field", "body"), [("idem", {"a": 1, "idem": "KEY"}), ("meta.idem", {"a": 1, "meta": {"idem": "KEY"}})]
)  # fmt: skip
def test_the_key_may_stand_in_the_body(field, body):
    row = template(body={"a": 1}, key_field=field).build({"id": 1}, number=1)
    assert json.loads(row.body) == json.loads(json.dumps(body).replace("KEY", row.key))


def test_the_key_joins_an_object_of_the_body_and_changes_no_other_row():
    made = template(body={"meta": {"source": Column("id")}}, key_field="meta.idem")
    one, two = made.build({"id": 1}, number=1), made.build({"id": 2}, number=2)
    assert json.loads(one.body) == {"meta": {"source": 1, "idem": one.key}}
    assert json.loads(two.body) == {"meta": {"source": 2, "idem": two.key}}
    assert made.body == {"meta": {"source": Column("id")}}


@pytest.mark.parametrize(
    ("body", "field", "match"),
    [({"idem": 1}, "idem", "a member 'idem' already"), ({"meta": 1}, "meta.idem", "no object at 'meta'"),
     ({"meta": {"idem": 1}}, "meta.idem", "'meta.idem' already"), ({"meta": [1]}, "meta.idem", "no object at 'meta'")],
)  # fmt: skip
def test_a_key_that_has_no_place_is_refused(body, field, match):
    with pytest.raises(UsageRowError, match=f"row 4: .*{match}"):
        template(body=body, key_field=field).build({"id": 1}, number=4)


@pytest.mark.parametrize(
    ("value", "path"),
    [("r-1", "/r/r-1/commit"), ("a/b", "/r/a%2Fb/commit"), ("a b?c#d", "/r/a%20b%3Fc%23d/commit"), ("é", "/r/%C3%A9/commit"),
     ("5%", "/r/5%25/commit"), (17, "/r/17/commit"), ("...", "/r/.../commit")],
)  # fmt: skip
def test_values_in_paths_are_percent_encoded(value, path):
    assert template(path="/r/{rid}/commit", body=None).build({"id": 1, "rid": value}, number=1).path == path


@pytest.mark.parametrize("value", ["", ".", "..", "%2e", None, pd.NaT])
def test_a_path_needs_its_values(value):
    with pytest.raises(UsageRowError, match=r"row 5: the path '/r/\{rid\}' needs a value"):
        template(path="/r/{rid}").build({"id": 1, "rid": value}, number=5)


def test_no_body_is_none():
    row = template(body=None).build({"id": 1}, number=1)
    assert row.body is None
    assert row.digest != template(body={}).build({"id": 1}, number=1).digest


# -- answers ---------------------------------------------------------------------------------------------------------


def read(body: bytes, *, keep=False, required=True, **members):
    answer = Response(status=200, headers={}, body=body)
    return read_answer(answer, response=ResponseMapping(**members), required=required, keep=keep)


@pytest.mark.parametrize(
    ("body", "state", "decision"),
    [
        (b'{"decision":"ALLOWED"}', State.COMMITTED, "ALLOWED"),
        (b'{"decision":"WARNING"}', State.COMMITTED, "WARNING"),
        (b'{"decision":"FEE_CALCULATED"}', State.COMMITTED, "FEE_CALCULATED"),
        (b'{"decision":"DENIED_BY_POLICY"}', State.DENIED, "DENIED_BY_POLICY"),
        (b'{"decision":"allowed"}', State.PARKED, "allowed"),
        (b'{"decision":"MAYBE"}', State.PARKED, "MAYBE"),
        (b'{"decision":null}', State.PARKED, None),
        (b'{"decision":true}', State.PARKED, None),
        (b'{"decision":["ALLOWED"]}', State.PARKED, None),
        (b'{"Decision":"ALLOWED"}', State.PARKED, None),
        (b"{}", State.PARKED, None),
        (b"", State.PARKED, None),
        (b"[]", State.PARKED, None),
        (b"<html>", State.PARKED, None),
        (b"\xff\x00", State.PARKED, None),
        (b'"ALLOWED"', State.PARKED, None),
    ],
)
def test_an_answer_means_what_its_decision_says(body, state, decision):
    outcome = read(body)
    assert (outcome.state, outcome.decision, outcome.http_status) == (state, decision, 200)
    assert bool(outcome.detail) == (state is State.PARKED)


@pytest.mark.parametrize("body", [b"{}", b'{"status":"ok"}'])
def test_an_answer_that_need_not_decide_is_carried_out(body):
    assert read(body, required=False).state is State.COMMITTED
    assert read(body, decision_field=None).state is State.COMMITTED


def test_a_decision_that_is_not_known_parks_even_where_none_is_needed():
    assert read(b'{"decision":"EXPIRED"}', required=False).state is State.PARKED


def test_fields_of_an_answer_may_have_other_names():
    outcome = read(
        b'{"result":"OK","rid":17,"traceId":"t-1"}',
        decision_field="result",
        reservation_field="rid",
        decisions={"OK": State.DENIED},
    )
    assert (outcome.state, outcome.decision, outcome.reservation_id, outcome.trace_id) == (State.DENIED, "OK", "17", "t-1")


def test_a_kept_answer_keeps_every_digit():
    body = b'{"decision":"ALLOWED","fees":[{"amount":0.1000}]}'
    outcome = read(body, keep=True)
    assert (outcome.fees, outcome.answer) == ('[{"amount":0.1000}]', body.decode())
    assert read(b"\xff\x00", keep=True).answer == "\ufffd\ufffd"
    assert (read(body).fees, read(body).answer) == (None, None)


def test_an_outcome_repeats_no_credential():
    remember_secret(held := Secret("s3cret-token-value"))
    outcome = read(b'{"decision":"s3cret-token-value","reservationId":"s3cret-token-value","s3cret-token-value":1}')
    assert held
    assert "s3cret" not in repr(outcome)


@pytest.mark.parametrize("form", FORMS)
def test_a_reservation_id_that_repeats_a_credential_is_left_out_and_the_decision_stands(form):
    remember_secret(held := Secret("q8Zt+Lw/92kd=Xx7?m"))
    said = FORMS[form](held.reveal())
    body = {"decision": "ALLOWED", "reservationId": f"r-{said}", "traceId": said, "fees": [said]}
    outcome = read(json.dumps(body).encode(), keep=True)
    assert (outcome.state, outcome.reservation_id) == (State.COMMITTED, None)
    assert "repeats a credential" in (outcome.detail or "")
    assert readable_pieces(repr(outcome), held.reveal()) == set()


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"with voids", "Base64 in lines"}))
def test_an_id_that_repeats_a_credential_goes_into_no_path(form):
    remember_secret(held := Secret("q8Zt+Lw/92kd=Xx7?m"))
    with pytest.raises(UsageRowError, match="column 'rid' repeats a credential") as caught:
        template(path="/r/{rid}").build({"id": 1, "rid": FORMS[form](held.reveal())}, number=5)
    assert readable_pieces(str(caught.value), held.reveal()) == set()


def test_an_answer_that_is_too_large_to_be_looked_through_is_not_kept():
    body = b'{"decision":"ALLOWED","fees":[1],"more":"%s"}' % (b"x" * 1_000_000)
    outcome = read(body, keep=True)
    assert (outcome.state, outcome.answer, outcome.fees) == (State.COMMITTED, '"left out: it is larger than 1 MB"', None)


def test_a_refusal_becomes_an_outcome():
    problem = ProblemDetails(
        message="no such meter", title="Bad request", error_code="E1", resource_key="m", field="meter", trace_id="t"
    )
    error = InvalidRequestError(RequestContext(api="LimitRail", status=400, problem=problem, trace_id="t"))
    outcome = outcome_of(error, state=State.REJECTED)
    assert (outcome.state, outcome.http_status, outcome.error_code, outcome.resource_key, outcome.field, outcome.trace_id) == (
        State.REJECTED, 400, "E1", "m", "meter", "t",
    )  # fmt: skip
    assert outcome.detail == "Bad request: no such meter"
    assert outcome_of(InvalidRequestError(RequestContext(api="x", reason="why")), state=State.PARKED).detail == "why"
    assert outcome_of(InvalidRequestError(RequestContext(api="x")), state=State.PARKED).detail == "InvalidRequestError"


def test_operations_are_found_by_name():
    assert {operation.name for operation in OPERATIONS.values()} == {f"usage.{short_name}" for short_name in OPERATIONS}
    assert find_operation("commit").path == "/v1/usage/commit"
    with pytest.raises(ParameterError, match="operation='burn' is none of commit, preview, reserve"):
        find_operation("burn")


@pytest.mark.parametrize("template", ["{", "}", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:.2f}"])
def test_a_text_that_is_none_is_refused_where_it_is_written(template):
    with pytest.raises(ParameterError, match="Text"):
        Text(template)


def test_a_column_of_a_text_may_have_any_plain_name():
    assert fill(Text("{my col}/{Ä}"), {"my col": 1, "Ä": "x"}, number=1) == "1/x"
