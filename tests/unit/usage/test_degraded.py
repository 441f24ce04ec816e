# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What is usual, when a run is far slower, and who is told."""

from __future__ import annotations

import runpy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.bases.notifier import BaseNotifier

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.notifications.degraded import WARNINGS as NAMES
from limio_limitrail.notifications.degraded import DegradedNotifier
from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.usage.commit_warnings import WARNINGS, UsageQueries, add_warnings, usual_rows, usual_seconds
from limio_limitrail.usage.ledger.model import Worker
from limio_limitrail.usage.ledger.other_rows import LeftInDoubt
from limio_limitrail.usage.ledger.run_history import PastRun
from limio_limitrail.usage.ledger.states import State
from limio_limitrail.usage.reconciliation import warnings as reconciliation
from limio_limitrail.usage.summary import OutcomeCounts, UsageCommitSummary, summarize

ROOT = Path(__file__).resolve().parents[3]
WORKER = Worker(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1)
NONE = {"requests": 0, "retries": 0, "tokens": 0, "waited": 0.0, "seconds": 0.0}
QUERIES = UsageQueries(table="ledger", of_run="SELECT 1 ORDER BY state", of_changes="SELECT 2", operation="usage.commit")


def runs(*numbers: tuple[int, int, float]) -> list[PastRun]:
    return [PastRun(run_id=str(at), rows=rows, sent=sent, seconds=s) for at, (rows, sent, s) in enumerate(numbers)]


class History:
    """Earlier runs in memory."""

    run_id = "r"

    def __init__(self, earlier: list[PastRun]) -> None:
        self._earlier = earlier
        self.added: list[PastRun] = []

    def earlier(self) -> list[PastRun]:
        return self._earlier

    def add(self, run: PastRun) -> None:
        self.added.append(run)


def assess(*, seconds: float, sent: int, history: Any, failed: bool = False, **limits: Any) -> UsageCommitSummary:
    counts = OutcomeCounts(sent, worker=WORKER)
    counts.sent = sent
    summary = summarize(
        counts,
        operation="usage.commit",
        table="ledger",
        duplicates=0,
        rekeyed=0,
        left=LeftInDoubt(),
        requests={"requests": sent, "retries": 7, "tokens": 1, "waited": 3.0, "seconds": seconds},
    )
    given = {**dict.fromkeys(WARNINGS), **limits}
    add_warnings(summary, counts=counts, limits=given, queries=QUERIES, failed=failed, history=history)
    return summary


def test_usual_is_the_median_of_runs_with_rows() -> None:
    assert usual_rows(runs((10, 0, 0), (0, 0, 0), (30, 0, 0))) is None
    assert usual_rows(runs((10, 0, 0), (0, 0, 0), (1000, 0, 0), (30, 0, 0))) == 30


def test_more_rows_take_longer_and_fewer_rows_take_as_long() -> None:
    earlier = runs((100, 100, 10.0), (100, 100, 12.0), (100, 100, 14.0), (100, 0, 0.1))
    assert usual_seconds(earlier, sent=100) == 12.0
    assert usual_seconds(earlier, sent=1000) == 120.0
    assert usual_seconds(earlier, sent=1) == 12.0
    assert usual_seconds(earlier[1:], sent=100) is None


@pytest.mark.parametrize(
    ("seconds", "sent", "slow"),
    [(35.0, 100, False), (37.0, 100, True), (37.0, 200, False), (37.0, 2, True), (400.0, 1000, True)],
)
def test_far_slower_than_usual(seconds: float, sent: int, *, slow: bool) -> None:
    earlier = runs((100, 100, 12.0), (100, 100, 12.0), (100, 100, 12.0))
    summary = assess(seconds=seconds, sent=sent, history=History(earlier), warn_slower="300%")
    assert [warning["name"] for warning in summary["warnings"]] == (["slower"] if slow else [])
    if slow:
        assert summary["warnings"][0]["reasons"][:2] == ["7 retries of requests", "3 s waited between attempts"]


def test_a_second_more_is_not_far_slower() -> None:
    earlier = runs(*[(3, 3, 0.2)] * 3)
    assert assess(seconds=5.1, sent=3, history=History(earlier), warn_slower="300%")["status"] == "ok"
    assert assess(seconds=5.3, sent=3, history=History(earlier), warn_slower="300%")["status"] == "degraded"


def test_a_failed_run_is_not_compared_and_does_not_count() -> None:
    history = History(runs(*[(1000, 1000, 1.0)] * 3))
    summary = assess(
        seconds=100, sent=1, history=history, failed=True, warn_slower="300%", warn_fewer_rows="50%", warn_no_rows=True
    )
    assert (summary["status"], summary["warnings"], history.added) == ("failed", [], [])


def test_what_goes_wrong_with_warnings_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    summary = assess(seconds=1, sent=1, history=object(), warn_slower="300%")
    assert (summary["status"], summary["warnings"]) == ("ok", [])
    assert "its warnings could not be made (AttributeError)" in caplog.text


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("300%", "300%"),
        (" 150.5 % ", "150.5%"),
        ("1000%", "1000%"),
        (600, timedelta(minutes=10)),
        ("PT1H", timedelta(hours=1)),
        (timedelta(minutes=1), timedelta(minutes=1)),
        ("None", None),
    ],
)
def test_far_slower_is_a_share_or_a_time(given: object, read: object) -> None:
    reader = LimitRailCommitUsageOperator.parameters["warn_slower"].read
    assert reader("warn_slower", given) == read
    assert reader("warn_slower", read) == read


@pytest.mark.parametrize("given", ["100%", "50%", "x%", "%", "-5%", "1e9%", 0, -1, "soon", True])
def test_far_slower_is_nothing_else(given: object) -> None:
    with pytest.raises(ParameterError, match=r"^warn_slower must be "):
        LimitRailCommitUsageOperator.parameters["warn_slower"].read("warn_slower", given)


class Instance:
    """A task instance with an XCom."""

    dag_id, task_id, run_id, map_index, log_url = "usage", "commit", "r", 3, "https://airflow/log"

    def __init__(self, xcom: object) -> None:
        self._xcom = xcom

    def xcom_pull(self, **_: object) -> object:
        if isinstance(self._xcom, Exception):
            raise self._xcom
        return self._xcom


def degraded_summary() -> UsageCommitSummary:
    summary = assess(seconds=700, sent=2, history=None, warn_slower=timedelta(seconds=1), warn_fewer_rows=9)
    summary["warnings"][0]["reasons"] = ["<b>the API's own words</b>"]
    return summary


def test_a_message_has_everything() -> None:
    found: list[Any] = []
    context: Any = {"ti": Instance(degraded_summary())}
    DegradedNotifier([found.append])(context)
    [told] = found
    message = told["degraded"]
    assert message["title"] == "usage.commit[3] is degraded: fewer rows, slower"
    for part in (
        "2 rows, fewer than 9",
        "SELECT 1",
        "how-to/degraded.md#far-slower",
        "https://airflow/log",
        "the API's own words",
    ):
        assert part in message["text"]
    assert "&lt;b&gt;the API&#x27;s own words" in message["html"]
    assert "<b>" not in message["html"]
    assert [warning["name"] for warning in message["warnings"]] == ["fewer_rows", "slower"]
    assert "degraded" not in context


@pytest.mark.parametrize(
    "xcom",
    [None, "text", {}, {"dry_run": True, "rows": 3}, {"status": "ok", "warnings": []}, {"status": "failed"}, OSError("gone")],
)
def test_nobody_is_called_for_nothing(xcom: object) -> None:
    context: Any = {"ti": Instance(xcom)}
    DegradedNotifier(lambda _: pytest.fail("called"))(context)


class Note(BaseNotifier):
    """A notifier that could be made of a context."""

    def __init__(self, title: object) -> None:
        super().__init__()
        self.title = title


async def tell_later(context: object) -> None:
    """Tell somebody, if it is awaited."""


@pytest.mark.parametrize("notifier", [[], "slack", [print, None], Note, [tell_later]])
def test_a_notifier_that_would_tell_nobody(notifier: Any) -> None:
    with pytest.raises(ValueError, match="notifier must be"):
        DegradedNotifier(notifier)


@pytest.mark.parametrize(
    ("names", "says"), [([], "got none"), (["warn_denied"], "got 'warn_denied'"), (["denied", "norows"], "got 'norows'")]
)
def test_warnings_that_there_are_not(names: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=rf"warnings must be some of changed, denied, different, .*{says}"):
        DegradedNotifier(print, warnings=names)
    with pytest.raises(TypeError, match=r'write \["denied"\]'):
        DegradedNotifier(print, warnings="denied")
    assert {f"warn_{name}" for name in NAMES} == {*WARNINGS, *reconciliation.WARNINGS}


def test_each_warning_has_its_section() -> None:
    limits = {"warn_no_rows": True, "warn_slower": timedelta(microseconds=1)}
    found = assess(seconds=1, sent=0, history=None, **limits)["warnings"] + degraded_summary()["warnings"]
    page = (ROOT / "docs" / "how-to" / "degraded.md").read_text()
    headings = {line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")}
    assert {warning["docs"].partition("#")[2] for warning in found} == {"no-rows", "far-slower", "fewer-rows"}
    assert headings >= {"no-rows", "far-slower", "fewer-rows", "rejected", "parked", "denied", "changed"}


def test_the_example_has_a_deadline_that_airflow_can_store() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = runpy.run_path(str(ROOT / "dags_examples" / "limitrail_watched_commit.py"))["dag"]
    assert "SmtpNotifier" in str(DagSerialization.serialize_dag(dag)["deadline"])


def test_the_number_itself_is_not_too_few() -> None:
    assert assess(seconds=1, sent=9, history=None, warn_fewer_rows=9)["warnings"] == []
    [warning] = assess(seconds=1, sent=8, history=None, warn_fewer_rows=9)["warnings"]
    assert (warning["name"], warning["count"], warning["limit"]) == ("fewer_rows", 8, "9")


@pytest.mark.parametrize(("left", "kept"), [(0, 1), (3, 0)])
def test_a_run_that_leaves_rows_makes_nothing_usual_and_earlier_denials_are_not_told_again(left: int, kept: int) -> None:
    counts = OutcomeCounts(5, worker=WORKER)
    counts.left_for_later = left
    counts.states[State.DENIED], counts.denied_before = 4, 4
    summary = summarize(
        counts, operation="usage.commit", table="ledger", duplicates=0, rekeyed=0, left=LeftInDoubt(), requests=NONE
    )
    history: Any = History(runs(*[(1000, 1000, 1.0)] * 3))
    limits = {**dict.fromkeys(WARNINGS), "warn_denied": 0, "warn_fewer_rows": "50%"}
    add_warnings(summary, counts=counts, limits=limits, queries=QUERIES, failed=False, history=history)
    assert [warning["name"] for warning in summary["warnings"]] == ["fewer_rows"] * kept
    assert len(history.added) == kept
