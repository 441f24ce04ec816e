# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a task makes of what its trigger has told, and lists in tasks of a real Dag."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferralError,
)

from limio_limitrail.polling.poll import NoAnswerError
from limio_limitrail.sensors.limio import LimioObjectSensor, LimioResourceSensor
from limio_limitrail.sensors.limitrail import LimitRailResourceSensor

MERCIES: list[dict[str, Any]] = [{}, {"soft_fail": True}, {"never_fail": True}, {"silent_fail": True}]
CONTEXT: Any = {"ti": SimpleNamespace(try_number=1)}


def resume(event: Any, **more: Any) -> Any:
    sensor = LimioObjectSensor(task_id="wait", path_type="orders", object_id="one", deferrable=True, **more)
    return sensor.resume_execution("execute_complete", {"event": event}, CONTEXT)


def fail(error: str, **more: Any) -> Any:
    """As Airflow resumes a task whose trigger told nothing."""
    sensor = LimioObjectSensor(task_id="wait", path_type="orders", object_id="one", deferrable=True, timeout=7, **more)
    return sensor.resume_execution("__fail__", {"error": error}, CONTEXT)


@pytest.mark.parametrize("mercy", MERCIES)
def test_found(mercy):
    assert resume({"format": 1, "kind": "found", "message": "there", "result": {"id": "one"}}, **mercy) == {"id": "one"}


@pytest.mark.parametrize("mercy", MERCIES)
@pytest.mark.parametrize(
    "event", [{"format": 1, "kind": "ended", "message": "answered 403"}, {"format": 1, "kind": "comet"}, {}, None, "found", []]
)
def test_ended_is_never_skipped(event, mercy):
    with pytest.raises(AirflowFailException, match=r"answered 403|without a result|carries no format"):
        resume(event, **mercy)


@pytest.mark.parametrize("mercy", MERCIES)
def test_no_answer_is_not_skipped_and_may_be_tried_again(mercy):
    with pytest.raises(NoAnswerError, match="3 polls in a row failed"):
        resume({"format": 1, "kind": "no_answer", "message": "3 polls in a row failed."}, **mercy)


@pytest.mark.parametrize("mercy", MERCIES)
def test_too_late(mercy):
    expected = AirflowSkipException if "soft_fail" in mercy else AirflowSensorTimeout
    with pytest.raises(expected, match=r"Timed out after .* s waiting for orders/one to exist"):
        resume({"format": 1, "kind": "timeout", "message": "waiting for orders/one to exist"}, **mercy)
    with pytest.raises(expected, match=r"Timed out after 7 s waiting for the trigger\. Is a triggerer running\?"):
        fail("Trigger timeout", **mercy)


@pytest.mark.parametrize("mercy", MERCIES)
def test_a_trigger_that_could_not_be_run(mercy):
    with pytest.raises(TaskDeferralError):
        fail("Trigger failure", **mercy)


MODES: list[dict[str, Any]] = [{"mode": "poke"}, {"mode": "reschedule"}, {"deferrable": True}]


@pytest.mark.parametrize("mercy", MERCIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lookup", ["not there", "not now"])
def test_a_connection_that_is_not_found_is_never_skipped(monkeypatch, mode, mercy, lookup):
    """A typing error in its id would otherwise be green for ever."""
    looks = []
    instance = SimpleNamespace(try_number=1, get_first_reschedule_date=lambda context: None)

    def look(conn_id: str) -> None:
        looks.append(conn_id)
        raise AirflowNotFoundException("none of that name") if lookup == "not there" else OSError("the secrets backend is away")

    monkeypatch.setattr("airflow.sdk.BaseHook.get_connection", staticmethod(look))
    for make in (
        partial(LimioObjectSensor, path_type="orders", object_id="one"),
        partial(LimitRailResourceSensor, resource="usage", since=datetime(2026, 1, 1, tzinfo=UTC)),
    ):
        sensor = make(task_id="wait", poke_interval=0.01, timeout=5, **mode, **mercy)
        with pytest.raises(AirflowNotFoundException if lookup == "not there" else OSError) as caught:
            sensor.execute({"ti": instance, "task_reschedule_count": 0})
        assert caught.value.__cause__ is not caught.value
    assert len(looks) == 2


@pytest.mark.parametrize("mercy", MERCIES)
@pytest.mark.usefixtures("connected")
def test_a_predicate_that_no_triggerer_can_have_is_told_before_the_first_poll(mercy, api_requests):
    """And not on the first day on which the list is not there at once."""
    sensor = LimioResourceSensor(task_id="wait", resource="orders", predicate=bool, deferrable=True, **mercy)
    with pytest.raises(AirflowFailException, match="predicate= is a function, which cannot be handed to a triggerer"):
        sensor.execute(CONTEXT)
    assert api_requests() == []


@pytest.mark.parametrize("max_wait", [None, timedelta(seconds=60)])
def test_a_backoff_of_thousands_of_pokes(max_wait):
    sensor = LimioObjectSensor(
        task_id="wait", path_type="orders", object_id="one", poke_interval=30, exponential_backoff=True, max_wait=max_wait
    )
    first, *waits = [sensor._get_next_poke_interval(0.0, lambda: 1.0, count) for count in (1, 100, 1_026, 1_027, 10**6)]
    assert 15 <= first <= 30
    assert set(waits) == {60 if max_wait else sensor.timeout - 1}


def test_deferring_by_default(monkeypatch):
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    assert LimioObjectSensor(task_id="wait", path_type="orders", object_id="one").deferrable
    assert not LimioObjectSensor(task_id="wait", path_type="orders", object_id="one", deferrable=False).deferrable


@pytest.mark.exhaustive
def test_lists_in_a_real_dag(home, limio_emulator):
    """Functions and Resources stand in the Dag; the triggerer is handed what it can make again."""
    limio_emulator.put_records("custom/things", [{"id": "a"}])
    limio_emulator.limitrail.add_usage([{"committedAt": "2026-09-01T12:00:00Z"}])
    asked: dict[str, int] = {}

    def come(call: Any) -> None:
        if "/custom/" in call.path:
            name = call.params["for"]
            asked[name] = asked.get(name, 0) + 1
            limio_emulator.put_records("custom/things", [{"id": "a"}, {"id": "b"}] if asked[name] >= 3 else [{"id": "a"}])

    limio_emulator.on_request(come)
    home.write_dag(
        """
        things = Resource(name="things", path="/custom/things")

        def is_b(record):
            return record["id"] == "b"

        common = dict(poke_interval=0.1, timeout=600, retries=0)
        for mode in ("poke", "reschedule"):
            LimioResourceSensor(
                task_id=mode, resource=things, predicate=is_b, query_params={"for": "{{ ti.task_id }}"}, mode=mode, **common
            )
        LimioResourceSensor(
            task_id="deferred",
            resource=things,
            min_records=2,
            predicate="operator.truth",
            query_params={"for": "{{ ti.task_id }}"},
            deferrable=True,
            **common,
        )
        LimioResourceSensor(
            task_id="refused", resource=things, min_records=9, predicate=is_b, query_params={"for": "refused"},
            deferrable=True, soft_fail=True, **common
        )
        LimitRailResourceSensor(
            task_id="usage", resource="usage", since="2026-09-01", until="{{ '2026-09-02' }}", deferrable=True, **common
        )
        LimitRailResourceSensor(task_id="empty", resource="usage", soft_fail=True, **common)
        """
    )
    outcome = home.run(logical_date="2026-09-01T00:00:00+00:00")
    states = {name: (task["state"], task["tries"]) for name, task in outcome.result["tasks"].items()}
    assert states == {
        "poke": ("success", 1),
        "reschedule": ("success", 1),
        "deferred": ("success", 1),
        "usage": ("success", 1),
        "refused": ("failed", 1),
        "empty": ("failed", 1),
    }
    # A predicate that no triggerer can be given is refused before the first poll, and not on the first night without a match.
    assert asked == {"poke": 3, "reschedule": 3, "deferred": 3}
    assert outcome.task("poke")["xcom"]["ids"] == outcome.task("reschedule")["xcom"]["ids"] == ["b"]
    assert outcome.task("deferred")["xcom"] == {"resource": "things", "count": 2, "ids": ["a", "b"], "watermark": None}
    assert outcome.task("usage")["xcom"]["count"] == 1
    assert "which cannot be handed to a triggerer" in home.output()
