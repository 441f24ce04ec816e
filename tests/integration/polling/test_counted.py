# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Failures in a row, counted from one process to the next, and what triggers have told: as other versions have stored them."""

from __future__ import annotations

import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import given

from limio_limitrail.polling.poll import NoAnswerError
from limio_limitrail.sensors.base import FAILURES_KEY, WaitFailedError
from limio_limitrail.sensors.limio import LimioObjectSensor
from tests.support.stored import bad_values


class Store(dict[str, str]):
    """A task's state store. What is put into it goes through JSON."""

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self[key]) if key in self else default

    def set(self, key: str, value: Any) -> None:
        self[key] = json.dumps(value)


NOW = {"format": 1, "try_number": 1, "failures": 1}


def sensor() -> LimioObjectSensor:
    return LimioObjectSensor(task_id="wait", path_type="orders", object_id="one", mode="reschedule", max_transient_failures=1)


def look(stored: Any, *, attempt: int = 1) -> tuple[Any, Any]:
    """Look once in vain, after what is stored: give the end or none, and what is stored then."""
    store = Store()
    store.set(FAILURES_KEY, stored)
    context: Any = {"ti": SimpleNamespace(try_number=attempt), "task_state_store": store}
    try:
        assert sensor().poke(context) is False
    except WaitFailedError as ended:
        return ended.reason, store.get(FAILURES_KEY)
    return None, store.get(FAILURES_KEY)


@pytest.fixture
def failing(connected: Any, script: Any) -> None:
    script.answers["one"] = [503]


@pytest.mark.usefixtures("failing")
def test_counted_failures_go_on():
    end, now = look(NOW)
    assert isinstance(end, NoAnswerError)
    assert "2 polls in a row" in str(end)
    assert now == {**NOW, "failures": 2}
    # Those of an earlier try of the task count no more.
    assert look(NOW, attempt=2) == (None, {"format": 1, "try_number": 2, "failures": 1})


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ({**NOW, "format": 2}, "has format 2, and this version reads format 1"),
        ({**NOW, "failures": "x"}, "cannot be read"),
        ({"failures": 7}, "carries no format"),
        ([], "cannot be read"),
        ("many", "cannot be read"),
        (7, "cannot be read"),
    ],
)
def test_what_cannot_be_read_counts_as_none(stored, says, capsys):
    assert look(stored) == (None, NOW)
    said = capsys.readouterr().out
    assert says in said
    assert "It starts again at 0" in said


@given(bad_values(NOW))
def test_no_count_raises_anything(value):
    store = Store()
    store.set(FAILURES_KEY, value)
    context: Any = {"ti": SimpleNamespace(try_number=1), "task_state_store": store}
    assert sensor()._failures_so_far(context) >= 0


# -- what triggers tell ----------------------------------------------------------------------------------------------

FOUND = {"format": 1, "kind": "found", "message": "there", "result": {"id": "one"}}


def resume(event: Any) -> Any:
    one = LimioObjectSensor(task_id="wait", path_type="orders", object_id="one", deferrable=True)
    return one.resume_execution("execute_complete", {"event": event}, {"ti": SimpleNamespace(try_number=1)})  # type: ignore[typeddict-item]


@pytest.mark.parametrize("change", [{}, {"kind": "seen"}, {"result": 7}])
def test_what_a_trigger_of_a_newer_version_has_told(change):
    with pytest.raises(AirflowFailException, match="has format 2, and this version reads format 1"):
        resume({**FOUND, **change, "format": 2})


@given(bad_values(FOUND))
def test_no_event_raises_anything_else(event):
    with suppress(AirflowFailException, NoAnswerError):
        resume(event)
