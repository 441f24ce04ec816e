# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The template of a body in a user's own unit test: the requests and the errors are those of the operator."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.usage import Column, Idempotency, Json, Text, check_body, check_requests
from limio_limitrail.usage.messages import UsageTemplate
from limio_limitrail.usage.row_buffer import ClashError, RowBuffer
from limio_limitrail.usage.rows import fill_row_buffer, rows_of_list

EXAMPLES = Path(__file__).resolve().parents[3] / "dags_examples"
BODY = {
    "account": Column("account"),
    "amount": Column("amount"),
    "note": Column("note", required=False),
    "lines": [{"at": Column("at")}, Json("more")],
    "label": Text("{account} of {amount}"),
    "fixed": 1,
}
N = Column("n")
ROW = {"account": "a", "amount": Decimal("1.500"), "at": datetime(2026, 1, 1, tzinfo=UTC), "more": '{"n": 1e-7}', "note": None}


def test_bodies_are_what_is_sent():
    [body] = check_body(BODY, [ROW])
    assert body == {
        "account": "a",
        "amount": Decimal("1.500"),
        "lines": [{"at": "2026-01-01T00:00:00Z"}, {"n": Decimal("0.0000001")}],
        "label": "a of 1.500",
        "fixed": 1,
    }
    assert str(body["amount"]) == "1.500"
    [request] = check_requests(BODY, [ROW], key_columns="account")
    assert request.body == body
    assert b'"amount":1.500' in request.content
    assert check_body(BODY, []) == []
    assert check_body({}, [{}, {}]) == [{}, {}]
    # Floats have the digits that are sent, and whole numbers stay whole.
    assert check_body({"n": Column("n")}, [{"n": 0.1}, {"n": 2**70}]) == [{"n": Decimal("0.1")}, {"n": 2**70}]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{**ROW, "amount": None}], "row 1: column 'amount' has no value"),
        ([ROW, {**ROW, "amount": float("nan")}, {**ROW, "more": "{"}], "2 rows cannot be sent.*row 2: .* NaN.*row 3: .*no JSON"),
        ([{"account": "a"}], "column 'amount' has no value"),
        ([{**ROW, "account": {1, 2}}], "column 'account' holds a set"),
        ([5], "row 1 of rows= is a int"),
        ({"account": "a"}, "rows= is a dict"),
    ],
)
def test_errors_are_the_operators(rows, says):
    with pytest.raises(ParameterError, match=says) as found:
        check_body(BODY, rows)
    template = UsageTemplate(tenant="t", operation="usage.commit", path="/p", key_columns=("account",), body=BODY)
    with RowBuffer() as row_buffer, pytest.raises(ParameterError) as own:
        fill_row_buffer(row_buffer, source=rows_of_list(rows), template=template)
    if "a set" not in says:
        assert str(found.value) == str(own.value)


@pytest.mark.parametrize(
    "template",
    [
        {"day": "{{ ds }}"},
        {"a": [{"b": "{% if x %}"}]},
        {"a": LimitRailCommitUsageOperator(task_id="t", key_columns="k", sql_conn_id="c").output},
    ],
)
def test_what_a_run_would_render_first_is_refused(template):
    with pytest.raises(ParameterError, match="holds Jinja or an XComArg, which a run renders first"):
        check_body(template, [ROW])


def test_the_advice_to_render_works():
    task = LimitRailCommitUsageOperator(
        task_id="t", key_columns="k", sql_conn_id="c", body={"day": "{{ ds }}", "n": [Column("n"), "{{ params.x }}"]}
    )
    body = task.render_template(task.body, {"ds": "2026-01-31", "params": {"x": "y"}})
    assert check_body(body, [{"n": 1}]) == [{"day": "2026-01-31", "n": [1, "y"]}]


def test_requests_have_the_keys_and_paths_of_a_run():
    rows = [ROW, ROW, {**ROW, "account": "b"}]
    given = {"key_columns": ["account"], "path": "/v1/{account}/usage", "tenant": "acme", "key_namespace": "storage"}
    found = check_requests(BODY, rows, idempotency={"field": "meta.key"}, **given)
    assert [(request.row, request.path) for request in found] == [(1, "/v1/a/usage"), (3, "/v1/b/usage")]
    template = UsageTemplate(
        tenant="acme", operation="usage.commit", path="/p", key_columns=("account",), body=None, namespace="storage"
    )
    assert [request.idempotency_key for request in found] == [template.build(rows[at], number=1).key for at in (0, 2)]
    assert [request.body["meta"]["key"] for request in found] == [request.idempotency_key for request in found]
    [other] = check_requests(BODY, [ROW], key_columns="account", operation="reserve", idempotency=Idempotency(header="X"))
    assert (other.path, "meta" in other.body) == ("/v1/usage/reserve", False)
    [cancel] = check_requests(None, [{"reservation_id": "r"}], key_columns="reservation_id", operation="cancel_reservation")
    assert (cancel.path, cancel.body, cancel.content) == ("/v1/usage/reservations/r/cancel", None, None)
    with pytest.raises(ClashError):
        check_requests(BODY, [ROW, {**ROW, "amount": 2}], key_columns="account")
    with pytest.raises(ParameterError, match="operation='commit' needs a body"):
        check_requests(None, [ROW], key_columns="account")
    with pytest.raises(ParameterError, match="operation='cancel_reservation' needs a body"):
        check_requests(
            None,
            [{"reservation_id": "r"}],
            key_columns="reservation_id",
            operation="cancel_reservation",
            idempotency={"field": "k"},
        )
    with pytest.raises(ParameterError, match="operation must be one of"):
        check_requests(BODY, [ROW], key_columns="account", operation="send")


def test_the_example_of_the_docs(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    tests = runpy.run_path(str(EXAMPLES / "recipes" / "testing" / "test_usage_body.py"))
    from limitrail_usage_commit import commit_usage

    found = [value for name, value in tests.items() if name.startswith("test_")]
    assert len(found) == 3
    for test in found:
        test(commit_usage)


def test_it_needs_no_airflow_home(tmp_path):
    code = (
        "import sys; from limio_limitrail.usage import Column, check_body; "
        "print(check_body({'n': Column('n')}, [{'n': 1}])); "
        "assert not [name for name in ('pandas', 'duckdb', 'requests', 'sqlalchemy') if name in sys.modules]"
    )
    home = tmp_path / "home"
    own = {**os.environ, "AIRFLOW_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout.replace("'", '"')) == [{"n": 1}], done.stderr
    assert not list(home.glob("*.db"))


def test_values_of_every_kind_are_sent_as_a_run_sends_them():
    """What cursors and pandas return for the same value makes the same bytes, in a test and in a run."""
    pd, np = pytest.importorskip("pandas"), pytest.importorskip("numpy")
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    same = {
        b"0.1": [0.1, Decimal("0.1"), np.float64(0.1), np.float32(0.1)],
        b"9007199254740993": [2**53 + 1, Decimal(2**53 + 1), np.int64(2**53 + 1), np.uint64(2**53 + 1)],
        b"0.0000001": [1e-7, Decimal("1E-7"), np.float64(1e-7)],
        b'"2026-01-01T12:00:00Z"': [noon, pd.Timestamp(noon), noon.astimezone(timezone(timedelta(hours=5)))],
        b'"2026-01-01T12:00:00"': [noon.replace(tzinfo=None), pd.Timestamp("2026-01-01T12"), np.datetime64("2026-01-01T12")],
        b"true": [True, np.bool_(True)],
    }
    template = UsageTemplate(tenant="tenant", operation="usage.commit", path="/p", key_columns=("k",), body={"n": N})
    for text, values in same.items():
        rows = [{"k": number, "n": value} for number, value in enumerate(values)]
        bodies = [request.content for request in check_requests({"n": N}, rows, key_columns="k")]
        assert bodies == [b'{"n":' + text + b"}"] * len(values)
        assert bodies == [template.build(row, number=1).body for row in rows]
        assert len({str(body) for body in check_body({"n": N}, rows)}) == 1
    optional = {"n": Column("n", required=False)}
    assert check_body(optional, [{"n": one} for one in (None, pd.NA, pd.NaT, np.datetime64("NaT"))] + [{}]) == [{}] * 5
    for wrong in (float("nan"), np.float64("nan"), Decimal("NaN"), np.array([1]), timedelta(1), b"x", 10**1001):
        with pytest.raises(ParameterError, match="row 1: column 'n' holds "):
            check_body(optional, [{"n": wrong}])
