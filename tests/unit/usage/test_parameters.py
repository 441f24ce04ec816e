# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a user may choose, and what a task says in the end."""

from __future__ import annotations

import logging
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.parameters.readers import rows_or_percent
from limio_limitrail.usage import Refusal, ResponseMapping
from limio_limitrail.usage.conventions import Idempotency
from limio_limitrail.usage.ledger.model import Entry, Outcome
from limio_limitrail.usage.ledger.other_rows import LeftInDoubt
from limio_limitrail.usage.ledger.rules import Policy
from limio_limitrail.usage.ledger.states import OnUnknown, State
from limio_limitrail.usage.parameters import ErrorBudget, one_of, read_policy
from limio_limitrail.usage.rows import rows_of_list
from limio_limitrail.usage.summary import (
    THRESHOLDS,
    OutcomeCounts,
    UsageCommitSummary,
    UsageFailedError,
    UsageUnknownError,
    check_thresholds,
    log_summary,
    summarize,
)
from tests.support.ledgers import make_row, make_worker

NOTHING_LEFT = LeftInDoubt()


def read_budget(name, value):
    return ErrorBudget(name=name, most=rows_or_percent(name, value))


@pytest.mark.parametrize(
    ("value", "of", "allowed"),
    [
        (0, 100, 0), (10, 100, 10), ("10", 100, 10), (" 7 ", 100, 7), ("1%", 100, 1), (" 1 % ", 100, 1), ("0%", 100, 0),
        ("0.0%", 9, 0), (1, 100, 1), ("100%", 100, 100), ("100.0%", 100, 100), ("29%", 100, 29), ("7%", 100, 7), ("10%", 30, 3),
        ("50%", 3, 1), ("1.0%", 1000, 10), (10**12, 5, 10**12), ("57%", 100, 57), ("0.0000001%", 10, 0),
    ],
)  # fmt: skip
def test_a_threshold_is_a_number_of_rows_or_a_percentage(value, of, allowed):
    budget = read_budget("max_rejected", value)
    assert not budget.exceeded_by(allowed, of=of)
    assert budget.exceeded_by(allowed + 1, of=of)
    assert budget.rows(of=of) == allowed
    assert read_budget("max_rejected", budget.most) == budget


@given(st.integers(1, 999), st.integers(1, 5000))
def test_a_share_is_taken_as_it_is_written(thousandths, rows):
    budget = read_budget("max_parked", f"{thousandths // 10}.{thousandths % 10}%")
    assert budget.exceeded_by(rows, of=rows)
    most = thousandths * rows // 1000
    assert not budget.exceeded_by(most, of=rows)
    assert budget.exceeded_by(most + 1, of=rows)


@pytest.mark.parametrize(
    "value",
    [
        -1, "-1", -0.1, 1.5, "1.5", 2.0, "nan", float("nan"), "inf", float("inf"), "", "None", None, True, "ten", "ten%", "%",
        "101%", "-1%", "1e1%", [1], b"1", 1.0, 0.5, "0.5", "1.0", "1e-2", Decimal("0.5"), Decimal(1), "100.01%",
    ],
)  # fmt: skip
def test_what_is_no_threshold_is_refused(value):
    with pytest.raises(ParameterError, match=r"max_parked must be a whole number of rows, such as 10, or a share .* \"1%\""):
        rows_or_percent("max_parked", value)


@pytest.mark.parametrize(
    ("value", "correction"),
    [
        (0.5, 'write "50%"'), ("0.5", 'write "50%"'), (0.01, 'write "1%"'), ("1e-2", 'write "1%"'), (0.29, 'write "29%"'),
        (Decimal("0.005"), 'write "0.5%"'), (1.0, 'write 1 for one row, "100%" for all of them'), (2.0, "write 2"),
        (0.0, "write 0"),
    ],
)  # fmt: skip
def test_the_message_says_what_to_write(value, correction):
    with pytest.raises(ParameterError) as refused:
        rows_or_percent("max_parked", value)
    assert f"({correction})" in str(refused.value)


def read(name, value):
    return LimitRailCommitUsageOperator.parameters[name].read(name, value)


@pytest.mark.parametrize(("name", "least", "most"), [("concurrency", 1, 64), ("batch_size", 1, 1000)])
def test_numbers_have_bounds(name, least, most):
    assert [read(name, least), read(name, str(most))] == [least, most]
    for value in (least - 1, most + 1, -1, None, True, 1.5):
        with pytest.raises(ParameterError, match=f"{name} must be a whole number from {least} to {most}, got"):
            read(name, value)


@pytest.mark.parametrize(
    ("given_", "policy"),
    [
        (("park", None, True), Policy(on_unknown=OnUnknown.PARK)),
        (("resend", "", True), Policy(on_unknown=OnUnknown.RESEND)),
        (("Park", "None", True), Policy(on_unknown=OnUnknown.PARK)),
        (("park", "parked", True), Policy(on_unknown=OnUnknown.PARK, replay=State.PARKED)),
        (("resend", "rejected", True), Policy(on_unknown=OnUnknown.RESEND, replay=State.REJECTED)),
        (("park", None, False), Policy(on_unknown=OnUnknown.RESEND)),
    ],
)
def test_policies(given_, policy):
    on_unknown, replay, changes = given_
    chosen = {"on_unknown": read("on_unknown", on_unknown), "replay": read("replay", replay)}
    assert read_policy(**chosen, changes=changes) == policy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("on_unknown", "send"),
        ("on_unknown", ""),
        ("replay", "committed"),
        ("replay", "unknown"),
        ("replay", "all"),
        ("operation", ""),
    ],
)
def test_words_that_are_none(name, value):
    with pytest.raises(ParameterError, match=f"{name} must be one of "):
        read(name, value)


def test_decisions_mean_committed_or_denied():
    found = read("response", {"decisions": {"OK": "committed", "NO": "Denied"}})
    assert found.decisions == {"OK": "committed", "NO": "denied"}
    assert (found.states["OK"], found.states["NO"], found.states["ALLOWED"]) == (State.COMMITTED, State.DENIED, State.COMMITTED)
    assert read("response", {"decisions": None}).decisions == {}
    for meaning in ("rejected", "parked", "sending", "", None):
        with pytest.raises(ParameterError, match=r"response\['decisions'\]\['X'\] must be one of committed, denied"):
            read("response", {"decisions": {"X": meaning}})


@pytest.mark.parametrize(
    "given_",
    [
        {"decision_field": "a.b", "reservation_field": "r", "fees_field": "f"},
        '{"decision_field": "a.b", "reservation_field": "r", "fees_field": "f"}',
        ResponseMapping(decision_field="a.b", reservation_field="r", fees_field="f"),
    ],
)
def test_members_of_an_answer_are_read_from_what_a_template_gives(given_):
    assert read("response", given_) == ResponseMapping(decision_field="a.b", reservation_field="r", fees_field="f")
    assert read("response", {"decision_field": None}) == ResponseMapping(decision_field=None)


@pytest.mark.parametrize(
    "given_",
    [
        {"header": "X-Key", "resend_within": "PT20M"},
        '{"header": "X-Key", "field": "", "resend_within": 1200}',
        Idempotency(header="X-Key", resend_within=timedelta(minutes=20)),
    ],
)
def test_idempotency_is_read_from_what_a_template_gives(given_):
    found = read("idempotency", given_)
    assert found == Idempotency(header="X-Key", resend_within=timedelta(minutes=20)) == read("idempotency", found)
    assert read("idempotency", None) is None
    for wrong in ({"header": None}, {"header": "a b"}, {"resend_within": None}, {"honoured": True}, 5):
        with pytest.raises(ParameterError, match="idempotency"):
            read("idempotency", wrong)


@pytest.mark.parametrize(
    ("name", "given_", "member"),
    [
        ("idempotency", Idempotency(header="{{ params.header }}"), "idempotency['header']"),
        ("idempotency", Idempotency(field="{{ params.field }}"), "idempotency['field']"),
        ("response", ResponseMapping(decision_field="{{ params.field }}"), "response['decision_field']"),
        ("response", ResponseMapping(decisions={"HELD": "{{ params.held }}"}), "response['decisions']"),
        (
            "response",
            {"already_committed": [Refusal(status=409, error_code="{% if a %}b{% endif %}")]},
            "response['already_committed'][0]['error_code']",
        ),
    ],
)
def test_a_template_where_airflow_renders_none_is_refused(name, given_, member):
    """Taken as it stands, it would put the key into a member that no API knows."""
    with pytest.raises(ParameterError) as refused:
        read(name, given_)
    assert f"{member} is a template" in str(refused.value)
    assert "give a mapping with its members instead" in str(refused.value)


KNOWN = ResponseMapping(already_committed=(Refusal(status=409, error_code="KEY_KNOWN"),))


@pytest.mark.parametrize(
    "given_",
    [
        KNOWN,
        ResponseMapping(already_committed=[{"status": "409", "error_code": "KEY_KNOWN"}]),
        {"already_committed": [Refusal(status=409, error_code="KEY_KNOWN")]},
        {"already_committed": {"status": 409, "error_code": "KEY_KNOWN"}},
        {"already_committed": '[{"status": 409, "error_code": "KEY_KNOWN"}]'},
        '{"already_committed": [{"status": 409, "error_code": "KEY_KNOWN"}]}',
    ],
)
def test_a_response_mapping_is_read_from_what_a_template_gives(given_):
    found = read("response", given_)
    assert found == KNOWN == read("response", found)
    assert found.is_committed(status=409, error_code="KEY_KNOWN")
    for status, code in ((409, "OTHER"), (409, None), (422, "KEY_KNOWN"), (None, None)):
        assert not found.is_committed(status=status, error_code=code)


@pytest.mark.parametrize("nothing", [{}, ResponseMapping(), {"already_committed": None}])
def test_no_response_mapping_means_nothing_more(nothing):
    assert read("response", nothing) == ResponseMapping()
    assert all(read("response", left_out) is None for left_out in (None, "", "None"))


def test_a_refusal_without_a_code_is_any_of_its_status():
    found = read("response", {"already_committed": [{"status": 409}]})
    assert all(found.is_committed(status=409, error_code=code) for code in (None, "A", "B"))
    assert not found.is_committed(status=400, error_code=None)


@pytest.mark.parametrize("given_", [[204], (204,), {204}, 204, "204", ["204"], "[204]", 204.0])
def test_statuses_of_empty_answers_are_read_from_what_a_template_gives(given_):
    found = read("response", {"committed_statuses": given_})
    assert found == ResponseMapping(committed_statuses=(204,)) == read("response", found)
    assert read("response", ResponseMapping(committed_statuses=given_)) == found


@pytest.mark.parametrize("wrong", [[404], [199], [300], True, [204.5], "no content", [[204]], {"204": True}, [None]])
def test_statuses_of_empty_answers_are_of_2xx(wrong):
    with pytest.raises(ParameterError, match=r"response\['committed_statuses'\]"):
        read("response", {"committed_statuses": wrong})


def test_one_source_of_rows():
    assert one_of(sql=None, parts_path="x", rows=None) == "parts_path"
    assert one_of(sql=None, parts_path=None, rows=[]) == "rows"
    with pytest.raises(ParameterError, match="exactly one of sql=, parts_path=, rows=; given: sql, rows"):
        one_of(sql="x", parts_path=None, rows=[])
    with pytest.raises(ParameterError, match="given: none"):
        one_of(sql=None, parts_path=None)


def test_key_columns():
    assert read("key_columns", "id") == ("id",)
    assert read("key_columns", ["a", "b"]) == ("a", "b")
    for wrong in ("", [], [""], ["a", None], "a,b", None):
        with pytest.raises(ParameterError, match="key_columns must be a list of columns"):
            read("key_columns", wrong)


def test_lists_are_taken_as_they_are():
    source = rows_of_list([{"a": 1}, {"b": 2}])
    assert source.columns is None
    assert list(source.rows) == [{"a": 1}, {"b": 2}]
    assert list(rows_of_list(iter({"a": n} for n in range(3))).rows) == [{"a": n} for n in range(3)]


@pytest.mark.parametrize("wrong", ["[{}]", b"x", {"a": 1}, 5, None])
def test_what_is_no_list_is_refused(wrong):
    with pytest.raises(ParameterError, match=rf"rows= is a {type(wrong).__name__}; give a list of mappings"):
        rows_of_list(wrong)


def test_a_row_that_is_no_mapping_is_named():
    with pytest.raises(ParameterError, match="row 2 of rows= is a list"):
        list(rows_of_list([{}, [1], {}]).rows)


# -- verdicts --------------------------------------------------------------------------------------------------------


def counts_of(*outcomes: Outcome, rows: int | None = None) -> OutcomeCounts:
    counts = OutcomeCounts(len(outcomes) if rows is None else rows, worker=make_worker())
    for number, outcome in enumerate(outcomes, start=1):
        counts.add(make_row(number, number=number), outcome)
    return counts


def rejected(detail, **more) -> Outcome:
    return Outcome(state=State.REJECTED, http_status=400, detail=detail, **more)


def verdict(counts, *, left=NOTHING_LEFT, **allowed):
    thresholds = {**dict.fromkeys(THRESHOLDS), "max_rejected": 0, "max_parked": 0, **allowed}
    return check_thresholds(
        counts, table="book.ledger", operation="usage.commit", thresholds=thresholds, left=left, changes_table="changes"
    )


def test_all_well_is_no_failure():
    assert verdict(counts_of(*[Outcome(state=State.COMMITTED, decision="ALLOWED")] * 3, Outcome(state=State.DENIED))) is None
    assert verdict(counts_of()) is None


def test_the_five_most_frequent_reasons_are_told_with_an_example_each():
    outcomes = [
        rejected(f"reason {letter}") for letter, count in zip("abcdefg", range(7, 0, -1), strict=True) for _ in range(count)
    ]
    failure = verdict(counts_of(*outcomes))
    assert isinstance(failure, UsageFailedError)
    text = str(failure)
    assert "28 of 28 rows were rejected (max_rejected=0)" in text
    for letter, count, example in (("a", 7, 1), ("b", 6, 8), ("c", 5, 14), ("d", 4, 19), ("e", 3, 23)):
        assert f'{count} x rejected: status 400, reason {letter}; for example row {example} {{"id": "{example}"}}' in text
    assert "reason f" not in text
    assert "replay='rejected'" in text
    assert "book.ledger" in text


def test_what_is_particular_to_a_row_makes_no_reason_of_its_own():
    details = [f"meter 'm{n}' of 0{n}a1b2c3-0000-0000-0000-00000000000{n} exceeds {n}00" for n in range(1, 6)]
    [reason] = counts_of(*map(rejected, details)).reasons(State.REJECTED)
    assert reason.count == 5
    assert reason.example.startswith("row 1 ")
    two = counts_of(rejected("x", error_code="A"), rejected("x", error_code="B"), rejected("x", field="f"))
    assert len(two.reasons(State.REJECTED)) == 3


def test_very_many_reasons_are_counted_together():
    counts = counts_of(
        *[rejected("x" + "abcdefghij"[n % 10] + "".join("abcdefghij"[int(d)] for d in str(n))) for n in range(1500)]
    )
    assert counts.reasons(State.REJECTED)[0].count == 500
    assert counts.reasons(State.REJECTED)[0].text == "other reasons"


def test_unknown_rows_are_for_another_try():
    failure = verdict(counts_of(Outcome(state=State.UNKNOWN, detail="timeout"), rejected("no")))
    assert isinstance(failure, UsageUnknownError)
    assert "1 of 2 rows" in str(failure)
    assert "timeout" in str(failure)


def test_rejected_and_parked_rows_are_both_told():
    failure = verdict(counts_of(rejected("no"), Outcome(state=State.PARKED, detail="timeout"), Outcome(state=State.COMMITTED)))
    assert "1 of 3 rows were rejected" in str(failure)
    assert "1 of 3 rows are parked" in str(failure)
    assert "'airflow limitrail ledger settle'" in str(failure)
    enough = {"max_rejected": "34%", "max_parked": 1}
    assert verdict(counts_of(rejected("no"), Outcome(state=State.PARKED), Outcome(state=State.COMMITTED)), **enough) is None


def test_a_summary_counts_every_row_once(caplog):
    counts = counts_of(
        Outcome(state=State.COMMITTED, decision="ALLOWED"),
        Outcome(state=State.DENIED, decision="DENIED_BY_POLICY"),
        rejected("no"),
        Outcome(state=State.PARKED, detail="timeout"), rows=7,
    )  # fmt: skip
    entry = Entry(
        state=State.COMMITTED, worker=make_worker(), lease_until=0, digest="another", attempts=1,
        outcome=Outcome(state=State.COMMITTED, decision="ALLOWED"),
    )  # fmt: skip
    counts.add_settled(make_row("old", number=5), entry)
    requests = {"requests": 4, "retries": 0, "tokens": 1, "waited": 0.0, "seconds": 0.5}
    summary = summarize(
        counts, operation="usage.commit", table="ledger", duplicates=2, rekeyed=0, left=NOTHING_LEFT, requests=requests
    )
    assert list(summary) == list(UsageCommitSummary.__annotations__)
    assert {name: summary[name] for name in ("rows", "sent", "settled_before", "changed", "not_tried", "duplicates")} == {
        "rows": 7, "sent": 4, "settled_before": 1, "changed": 1, "not_tried": 2, "duplicates": 2,
    }  # fmt: skip
    states = ("committed", "denied", "rejected", "parked", "unknown")
    assert [summary[name] for name in states] == [2, 1, 1, 1, 0]
    assert summary["decisions"] == {"ALLOWED": 2, "DENIED_BY_POLICY": 1}
    with caplog.at_level(logging.INFO):
        log_summary(counts, summary=summary)
    for part in ("timeout", "parked: row 4", "done earlier with another body", "row 5", "of 7 rows 2 committed"):
        assert part in caplog.text


def test_the_connections_page_of_the_ledger_needs_nothing_of_airflow():
    operator = LimitRailCommitUsageOperator(task_id="commit", key_columns="id", sql_conn_id="db", rows=[])
    operator._commit = SimpleNamespace(query="SELECT 1")
    operator.__dict__["hook"] = SimpleNamespace(own_page_url=lambda what, **values: f"https://sql/{what}/{values['run_id']}")
    assert operator.ledger_url(SimpleNamespace(run_id="one")) == "https://sql/ledger/one"
    operator.__dict__["hook"] = SimpleNamespace(own_page_url=lambda what, **values: None)
    assert operator.ledger_url(SimpleNamespace(run_id="one", log_url="http://h/dags/d?try_number=1")) == "http://h/dags/d/xcom"
