# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What fails a reconciliation, and what it warns of, by its summary."""

from __future__ import annotations

from pathlib import Path

import pytest

from limio_limitrail.notifications.degraded import DegradedNotifier
from limio_limitrail.usage.reconciliation.model import Finding, Kind, Record, Row
from limio_limitrail.usage.reconciliation.reasons import Reasons
from limio_limitrail.usage.reconciliation.summary import DIFFERENCES, THRESHOLDS, UsageDifferencesError, find_failure
from limio_limitrail.usage.reconciliation.warnings import WARNINGS, add_warnings
from limio_limitrail.usage.settling import SettlementConflictError
from limio_limitrail.usage.summary import MAX_REASONS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "degraded.md"
STRICT = dict.fromkeys(THRESHOLDS, 0)


def summary(*, settlement=None, free_there=0, **counts):
    settled = None if settlement is None else {"table": "t", "decisions": 9, "examples": [], "contradicted": 0, **settlement}
    return {
        **{kind.value: 0 for kind in Kind},
        "equal": 90,
        **counts,
        "table": "ledger",
        "not_sent_because": ["the list lacks 3 rows"],
        "reasons": {kind: [f"why {kind}"] for kind in counts},
        "ledger_rows": 100,
        "list_records": 100,
        "resource": "usage",
        "since": "s",
        "until": "u",
        "free_there": free_there,
        "settlement": settled,
        "differences_table": "d",
        "differences_query": "SELECT * FROM d WHERE task_id = 't' ORDER BY kind, row_key",
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


def warned(found, *, failed=False, **limits):
    add_warnings(found, limits={**dict.fromkeys(WARNINGS), **limits}, failed=failed)
    return found["warnings"]


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_degrades_if_it_is_asked_for(name):
    kind = DIFFERENCES[name][0]
    found = summary(**{kind: 2})
    for allowed in (2, "2%", None):
        assert warned(found, **{f"warn_{name}": allowed}) == []
        assert found["status"] == "ok"
    [warning] = warned(found, **{f"warn_{name}": "1%"})
    assert (found["status"], warning["name"], warning["count"], warning["limit"]) == ("degraded", name, 2, "1%")
    assert f"(warn_{name}=1%)" in warning["message"]
    assert f"why {kind}" in warning["reasons"]
    kinds = ", ".join(f"'{one}'" for one in DIFFERENCES[name])
    assert warning["query"] == f"SELECT * FROM d WHERE task_id = 't' AND kind IN ({kinds}) ORDER BY kind, row_key"
    heading = warning["docs"].partition("#")[2].replace("-", " ").capitalize()
    assert f"\n## {heading}\n" in PAGE.read_text()
    warned(found, failed=True, **{f"warn_{name}": 0})
    assert found["status"] == "failed"


def test_what_is_settled_warns_of_nothing():
    settled = {"settled": 3, "already": 1}
    assert warned(summary(uncertain_missing=4, settlement=settled), warn_uncertain=0) == []
    [warning] = warned(summary(uncertain_missing=5, settlement=settled), warn_uncertain=0)
    assert warning["message"] == "1 are still uncertain (warn_uncertain=0)"
    assert "no row was set free to be sent again: the list lacks 3 rows" in warning["reasons"]


def test_nothing_to_compare_is_a_warning_if_it_is_asked_for():
    # What lies outside of the range was read, and is not compared.
    found = summary(equal=0, outside=7)
    assert warned(found) == []
    [warning] = warned(found, warn_no_rows=True)
    assert (warning["name"], found["status"]) == ("no_rows", "degraded")
    assert "from s to u" in warning["message"]
    assert warned(summary(), warn_no_rows=True) == []


def test_a_message_about_a_reconciliation():
    found = summary(only_theirs=2)
    warned(found, warn_only_theirs=0)
    told = []

    class Instance:
        dag_id, task_id, run_id, map_index, log_url = "month", "reconcile", "r", -1, "https://airflow/log"

        def xcom_pull(self, **_):
            return found

    DegradedNotifier(told.append, warnings=["only_theirs"])({"ti": Instance()})
    [message] = [one["degraded"] for one in told]
    assert message["title"] == "month.reconcile is degraded: only theirs"
    assert "100 rows of ledger, 100 records of usage from s to u" in message["text"]
    assert "why only_theirs" in message["html"]
    DegradedNotifier(lambda _: pytest.fail("called"), warnings=["different"])({"ti": Instance()})


def test_reasons_are_few_and_the_most_frequent_ones():
    reasons = Reasons()
    row = Row(key="k", operation="usage.commit", row_key='{"id": 1}', state="committed", version="v")
    for number in range(5000):
        record = Record(id=str(number))
        reasons.add(Finding(kind=Kind.ONLY_THEIRS, record=record, reason=f"reason {number}" if number < 1500 else "frequent"))
    for _ in range(3):
        reasons.add(Finding(kind=Kind.DIFFERENT, row=row, record=Record(), members=("amount", "currency")))
    texts = reasons.texts()
    assert texts["different"] == ['3 x other values of amount, currency; for example row {"id": 1}']
    assert len(texts["only_theirs"]) == MAX_REASONS
    # There are too many to count each one.
    assert texts["only_theirs"][0] == "4,000 x other reasons; for example record 1000"
