# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What fails a reconciliation, by its summary."""

from __future__ import annotations

import pytest

from limio_limitrail.usage.reconciliation.model import Kind
from limio_limitrail.usage.reconciliation.summary import THRESHOLDS, UsageDifferencesError, find_failure
from limio_limitrail.usage.settling import SettlementConflictError

STRICT = dict.fromkeys(THRESHOLDS, 0)


def summary(*, settlement=None, free_there=0, **counts):
    settled = None if settlement is None else {"table": "t", "decisions": 9, "examples": [], "contradicted": 0, **settlement}
    return {
        **{kind.value: 0 for kind in Kind},
        **counts,
        "ledger_rows": 100,
        "list_records": 100,
        "resource": "usage",
        "since": "s",
        "until": "u",
        "free_there": free_there,
        "settlement": settled,
        "differences_table": "d",
        "differences_query": "q",
    }


@pytest.mark.parametrize("kind", [kind for kinds in THRESHOLDS.values() for kind in kinds])
def test_each_difference_fails_unless_it_is_allowed(kind):
    [name] = [name for name, kinds in THRESHOLDS.items() if kind in kinds]
    found = summary(**{kind: 2})
    assert isinstance(find_failure(found, thresholds={**STRICT, name: 1}), UsageDifferencesError)
    for allowed in (2, "2%", None):
        assert find_failure(found, thresholds={**STRICT, name: allowed}) is None


def test_what_is_settled_is_no_longer_uncertain():
    settled = {"settled": 3, "already": 1}
    assert find_failure(summary(uncertain_missing=4, settlement=settled), thresholds=STRICT) is None
    left = find_failure(summary(uncertain_missing=3, uncertain_there=2, settlement=settled), thresholds=STRICT)
    assert "1 are still uncertain" in str(left)
    # A free row that was committed is none of the uncertain ones.
    one = find_failure(summary(uncertain_missing=4, unexpected_there=1, free_there=1, settlement=settled), thresholds=STRICT)
    assert "1 are still uncertain" in str(one)
    assert "1 are in the list, although" in str(one)


def test_what_somebody_else_has_settled_otherwise_fails_first():
    found = summary(only_ours=1, settlement={"settled": 0, "already": 0, "contradicted": 1})
    assert isinstance(find_failure(found, thresholds=STRICT), SettlementConflictError)
