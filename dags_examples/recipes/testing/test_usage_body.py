# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A test of the requests that a Dag of one's own sends. Copy it to ``tests/test_usage_body.py``."""

# [START test]
from datetime import date
from decimal import Decimal

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.usage import check_body, check_requests

ROW = {
    "subscription_id": "sub-1",
    "day": date(2026, 1, 31),
    "account": "acme",
    "operation": "EXPORT",
    "amount": Decimal("1.50"),
    "currency": None,
    "plan": "Digital Monthly",
}


@pytest.fixture
def task():
    from limitrail_usage_commit import commit_usage

    return commit_usage


def test_the_request_of_a_row(task):
    [body] = check_body(task.body, [ROW])
    assert body == {
        "externalAccount": "acme",
        "operation": "EXPORT",
        "amount": Decimal("1.50"),
        "metadata": {"subscription": "sub-1", "label": "Digital Monthly on 2026-01-31", "source": "warehouse"},
    }


def test_a_row_without_an_amount_is_not_sent(task):
    with pytest.raises(ParameterError, match="row 2: column 'amount' has no value"):
        check_body(task.body, [ROW, {**ROW, "amount": None}])


def test_each_day_has_a_key_of_its_own(task):
    rows = [ROW, {**ROW, "day": date(2026, 2, 1)}]
    one, other = check_requests(task.body, rows, key_columns=task.key_columns)
    assert one.path == other.path == "/v1/usage/commit"
    assert one.idempotency_key != other.idempotency_key


# [END test]
