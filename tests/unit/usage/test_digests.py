# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Requests compare by value, and their members can be told apart without their values."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.usage.body import Column, Json, encode
from limio_limitrail.usage.ledger.changes import by_value, differing_members, member_digests, same_content
from limio_limitrail.usage.messages import UsageTemplate
from limio_limitrail.usage.row_buffer import ClashError, RowBuffer
from tests.support.usage import digest_of


def build(tree, row, *, path="/p", key=1):
    template = UsageTemplate(tenant="t", operation="o", path=path, key_columns=("id",), body=tree)
    return template.build({"id": key, **row}, number=1)


SAME = [
    (Decimal("1.50"), Decimal("1.500000")),
    (Decimal("1.5"), 1.5),
    (5, Decimal("5.00")),
    (5, 5.0),
    (Decimal("5E+2"), 500),
    (0, Decimal("0E-18")),
    (-0.0, 0),
    (Decimal("1E-18"), Decimal("0.000000000000000001000")),
    (1e22, 10**22),
    ([1, {"a": Decimal("2.0")}], [Decimal("1.0"), {"a": 2}]),
    ("Zo\u00eb", "Zo\u00eb"),
]
OTHER = [
    (Decimal("1.5"), Decimal("1.51")), (1, "1"), (1, True), (0, False), (0, None), ("", None), ("a", "a "), ([], {}), ([1], 1),
    ([1, 2], [2, 1]), ("1.50", "1.5"), (0.1, Decimal("0.1000000000000000055511151231257827")),
    ("Zo\u00eb", "Zoe\u0308"), (2**63, 2**63 + 1),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME, ids=str)
def test_one_value_has_one_digest(one, other):
    left, right = (build({"a": {"v": value}, "b": "x"}, {}) for value in (one, other))
    assert left.digest == right.digest
    assert left.members == right.members
    assert left.digest == digest_of("/p", left.body) == digest_of("/p", right.body)


@pytest.mark.parametrize(("one", "other"), OTHER, ids=str)
def test_another_value_has_another_digest(one, other):
    left, right = (build({"a": {"v": value}, "b": "x"}, {}) for value in (one, other))
    assert left.digest != right.digest
    assert differing_members(left.members, right.members)[0].startswith("a")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_body_is_digested_by_value(value):
    try:
        row = build({"v": Json("v")}, {"v": encode(value).decode()})
    except ValueError:
        return
    assert row.digest == digest_of("/p", row.body)


def test_members_have_names_and_no_values():
    body = {"a": Column("a"), "m": {"x": 1, "y": {"z": [1, 2]}, "e": {}}, "dotted.name": 1}
    row = build(body, {"a": "secret"})
    found = json.loads(row.members)
    assert set(found) == {"a", "m.x", "m.y.z", "m.e", "dotted.name"}
    assert all(len(digest) == 6 for digest in found.values())
    # Salted: the same value of another row has another digest.
    assert json.loads(build(body, {"a": "secret"}, key=2).members)["a"] != found["a"]


@pytest.mark.parametrize(
    ("now", "before", "names"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ["b"]),
        ({"a": 1}, {"a": 1, "b": 3}, ["b"]),
        ({"a": {"x": 1}}, {"a": 1}, ["a", "a.x"]),
        ({"a": 1}, {"a": 1}, []),
        ({}, {"a": 1}, ["", "a"]),
    ],
)
def test_the_members_that_differ(now, before, names):
    now, before = (member_digests(by_value(content), salt="k") for content in (now, before))
    assert differing_members(now, before) == names


@pytest.mark.parametrize("unknown", [None, "", "{", "[]", '{"a": 1}'])
def test_members_that_are_not_known(unknown):
    assert differing_members('{"a":"abcdef"}', unknown) is None


def test_a_row_without_a_body():
    row = build(None, {})
    assert row.members is None
    assert row.digest != build({}, {}).digest


# -- the path ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "before", "is_same"),
    [
        (("/v2/usage", {"v": 1}), ("/v1/usage", {"v": 1}), True),
        (("/v1/usage", {"v": 2}), ("/v1/usage", {"v": 1}), False),
        # The key says so already.
        (("/v1/{id}/usage", {"v": 1}), ("/v1/usage", {"v": 1}), True),
        (("/v1/{v}", {"v": 1}), ("/v1/{v}", {"v": 2}), False),
        (("/v1/{v}", {"v": 1}), ("/v2/{v}", {"v": 1}), True),
    ],
)
def test_a_corrected_path_keeps_the_content_and_is_another_request(now, before, is_same):
    body = {"a": "x"} if "{v}" in now[0] else {"a": Column("v")}
    one, other = (build(body, row, path=path) for path, row in (now, before))
    assert same_content(one.digest, other.digest) is is_same
    assert (one.digest == other.digest) is (is_same and one.path == other.path)


def test_rows_that_differ_in_their_path_alone_clash():
    one, other = (build(None, {"v": value}, path="/v1/{v}") for value in (1, 2))
    with RowBuffer() as row_buffer:
        row_buffer.add(one)
        row_buffer.add(other)
        with pytest.raises(ClashError):
            row_buffer.check()
