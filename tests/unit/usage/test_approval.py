# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A form about usage rows: what it shows, what it never shows, and what an answer stands for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from airflow.sdk import Param
from hypothesis import given, settings
from hypothesis import strategies as st

from limio_limitrail.usage import approval_options
from limio_limitrail.usage.approval import AS_GROUP, MAX_GROUPS, AnswerError, ShownForm, make_form, read_answer
from limio_limitrail.usage.approval_options import CARRY_OUT, LEAVE_ALL
from limio_limitrail.usage.approval_text import cell
from limio_limitrail.usage.decision_lists import decisions
from limio_limitrail.usage.ledger.open_rows import KINDS, OpenRow
from tests.support.strategies import examples

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
ADA = {"id": "7", "name": "Ada"}


def row(number, *, kind="parked", reason="status 500", **more):
    more = {"row_key": json.dumps({"account": f"acme-{number}", "day": "2026-01-01"}), "members": None, "trace_id": None, **more}
    return OpenRow(
        key=f"key-{number}", operation="usage.commit", kind=kind, reason=reason, since=1_790_000_000_000 + number, attempts=2,
        dag_id="usage", task_id="send", run_id="one", map_index=-1, version=f"v{number}", in_doubt=False, **more,
    )  # fmt: skip


def answer(form, *, chosen=CARRY_OUT, user=ADA, **fields):
    """Answer as the API does: the values of all fields, some of them chosen."""
    values = {name: field["default"] for name, field in form.fields.items()}
    for name, value in fields.items():
        [full] = [one for one in values if one == name or one.startswith(f"{name}_")]
        values[full] = value
    shown = msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(form.shown))), ShownForm)
    return read_answer(shown, values, chosen=[chosen], user=user, at=NOON)


def decided(found):
    return {one["key"]: one["decision"] for one in found["decisions"]}


ROWS = [row(1), row(2), row(3, reason="no response"), row(4, kind="changed", reason="changed", members='["amount"]')]


def test_the_kinds_are_those_of_the_ledger():
    assert approval_options.KINDS == KINDS


def test_a_group_decides_its_rows_and_a_row_its_own():
    form = make_form(ROWS, table="ledger", listed_rows=10)
    found = answer(form, group_1="committed", row_2="send", group_3="accept", note="looked up")
    assert decided(found) == {"key-1": "committed", "key-2": "send", "key-4": "accept"}
    assert found["by"] == "Ada (7)"
    assert {one["version"] for one in found["decisions"]} == {"v1", "v2", "v4"}
    assert {one["note"] for one in found["decisions"]} == {"answered at 2026-11-01 12:00:00Z: looked up"}
    read = decisions("decisions", found)
    assert (read.by, len(read.rows)) == ("Ada (7)", 3)


def test_a_row_can_be_left_out_of_its_group():
    form = make_form(ROWS, table="ledger", listed_rows=10)
    assert decided(answer(form, group_1="give_up", row_1="leave")) == {"key-2": "give_up"}


@pytest.mark.parametrize(
    "how", [{"chosen": LEAVE_ALL, "group_1": "send"}, {}, {"chosen": LEAVE_ALL, "user": None}, {"group_1": None, "row_1": ""}]
)
def test_without_a_choice_all_is_left(how):
    assert decided(answer(make_form(ROWS, table="ledger", listed_rows=10), **how)) == {}


def test_nobody_is_named_where_nobody_has_answered():
    form = make_form(ROWS, table="ledger", listed_rows=10)
    assert answer(form, chosen=LEAVE_ALL, user=None) == {"by": None, "decisions": []}
    assert decisions("decisions", answer(form, chosen=LEAVE_ALL, user=None)).rows == ()


def test_rows_that_are_not_listed_are_decided_with_their_group():
    rows = [row(number) for number in range(5000)]
    form = make_form(rows, table="ledger", listed_rows=3, not_shown=7)
    assert len(form.fields) == 1 + 3 + 1
    assert decided(answer(form, group_1="send", row_1="leave")) == {f"key-{number}": "send" for number in range(1, 5000)}
    assert "4,997 more rows belong to these groups" in form.body
    assert "7 younger rows are not in this form" in form.body
    assert form.subject == "5,007 usage rows of ledger need a decision"


def test_a_form_is_bounded_whatever_the_reasons_are():
    rows = [row(number, reason=f"no account {number} " * 50) for number in range(3000)]
    rows += [row(5000, kind="changed", reason="changed")]
    form = make_form(rows, table="ledger", listed_rows=20)
    assert len([name for name in form.fields if name.startswith("group_")]) == 2 < MAX_GROUPS
    assert len(form.body) < 20_000
    assert decided(answer(form, group_1="give_up")) == {f"key-{number}": "give_up" for number in range(3000)}
    # A row of each group is listed.
    assert {line.split("|")[2].strip() for line in form.body.splitlines() if "acme-" in line} == {"1", "2"}


def test_airflow_takes_the_fields():
    form = make_form(ROWS, table="ledger", listed_rows=10)
    for name, field in form.fields.items():
        assert re.fullmatch(r"[a-z]\w*", name)
        param = Param(**field)
        param.resolve()
        for word in field.get("enum", ["why", None]):
            param.resolve(word)
        json.dumps(param.serialize())


def test_what_a_kind_cannot_become_is_not_offered():
    form = make_form(ROWS, table="ledger", listed_rows=10)
    [group] = [field for field in form.fields.values() if "changed" in field["title"]]
    assert group["enum"] == ["leave", "accept"]
    with pytest.raises(AnswerError, match="must be one of leave, accept, got 'send'"):
        answer(form, group_3="send")


@pytest.mark.parametrize("value", ["yes", 5, ["send"], {"a": 1}, True])
def test_a_word_that_is_none_decides_nothing(value):
    form = make_form(ROWS, table="ledger", listed_rows=10)
    with pytest.raises(AnswerError, match="group_1_"):
        answer(form, group_1=value)
    with pytest.raises(AnswerError, match="row_1_"):
        answer(form, row_1=value)


def test_an_answer_to_another_form_decides_nothing():
    """The same rows an hour later, of which one was sent again: what was meant for the first form does not fit the second."""
    first = make_form(ROWS, table="ledger", listed_rows=10)
    second = make_form([ROWS[0], replace(ROWS[1], version="new"), *ROWS[2:]], table="ledger", listed_rows=10)
    values = {name: field["default"] for name, field in first.fields.items()}
    with pytest.raises(AnswerError, match="another form"):
        read_answer(second.shown, values, chosen=[CARRY_OUT], user=ADA, at=NOON)


def test_secrets_do_not_reach_the_form():
    secret = "client_secret=abcdefgh12345678"
    rows = [row(1, reason=secret, row_key=json.dumps({"a": secret}), trace_id=f"Bearer {'x' * 20}")]
    form = make_form(rows, table="ledger", listed_rows=10)
    shown = json.dumps([form.subject, form.body, form.fields])
    assert "abcdefgh12345678" not in shown
    assert "xxxxxxxxxx" not in shown


EVIL = [
    "<script>alert(1)</script>", "[x](https://evil.example)", "https://evil.example/login", "![x](http://evil.example/p.png)",
    "a | b", "a \\| b", "``` x", "`` ` ``", "a\n\n# heading", "a\r| 1 | 2 |", "\u202eabc", "\\", "a@evil.example",
    "&lt;b&gt;", "",
]  # fmt: skip


@pytest.mark.parametrize("text", EVIL)
def test_what_an_api_says_has_no_meaning_in_a_form(text):
    rows = [row(1, reason=text, row_key=json.dumps({text: text}), members=json.dumps([text]), trace_id=text, kind="changed")]
    form = make_form(rows, table=text or "t", listed_rows=10)
    for line in form.body.splitlines():
        if line.startswith("|"):
            assert line.count("|") in (7, 8)
        # Outside of code there is nothing but the form's own words.
        outside = re.sub(r"`[^`]*`", "", line)
        assert not re.search(r"[<>\[\]\\`]|http|@|#", outside), line
    assert len(form.body.splitlines()) == 13
    assert all(one.isprintable() for one in form.body.replace("\n", ""))


@settings(max_examples=examples(300), deadline=None)
@given(st.text(max_size=60))
def test_a_cell_is_one_piece_of_code(text):
    found = cell(text)
    assert found == "" or re.fullmatch(r"`[^`|\n\r]+`", found)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["parked", "rejected", "changed"]), st.sampled_from("abc")), min_size=1, max_size=12),
    st.integers(0, 12),
    st.data(),
)
def test_each_row_gets_the_decision_that_was_chosen_for_it(kinds, listed, data):
    rows = [row(number, kind=kind, reason=reason) for number, (kind, reason) in enumerate(kinds)]
    form = make_form(rows, table="ledger", listed_rows=listed)
    values = {name: data.draw(st.sampled_from(field["enum"])) for name, field in form.fields.items() if "enum" in field}
    found = read_answer(form.shown, values, chosen=[CARRY_OUT], user=ADA, at=NOON)
    group_of = {key: group.field for group in form.shown.groups for key, _ in group.rows}
    own = {key: values[name] for name, key in form.shown.own_fields.items()}
    assert set(group_of) == {one.key for one in rows}
    wanted = {key: values[group] if own.get(key, AS_GROUP) == AS_GROUP else own[key] for key, group in group_of.items()}
    assert decided(found) == {key: word for key, word in wanted.items() if word != "leave"}
    assert len(found["decisions"]) == len(decided(found))
