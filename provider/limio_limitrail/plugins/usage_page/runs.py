# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The last runs of a task, and how fresh what it loads is, as Airflow's own database has them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

MAX_TASKS = 300
"""Task instances that are looked at, the newest first; a mapped task has many in a run."""

MAX_RUNS = 10
"""Runs that the page lists."""

_COUNTS = ("rows", "sent", "committed", "denied", "rejected", "parked", "unknown")
_INSTANTS = ("watermark", "until")


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task in one run; of a mapped task, all its copies.

    :param state: the state of all copies, or of the first that has not succeeded.
    :param seconds: the longest copy's.
    :param facts: members of the summaries: numbers are added up, times are the latest.
    :param as_of: if it succeeded: what the source had until then has been read.
    """

    run_id: str
    state: str
    started: datetime | None
    seconds: float | None
    facts: Mapping[str, Any]
    as_of: datetime | None


def read_runs(*, dag_id: str, task_id: str) -> list[TaskRun]:
    """Return the last runs of a task, the newest first."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        tasks: Any = session.execute(
            select(
                TaskInstance.run_id, TaskInstance.map_index, TaskInstance.state, TaskInstance.start_date, TaskInstance.duration
            )
            .where(TaskInstance.dag_id == dag_id, TaskInstance.task_id == task_id, TaskInstance.start_date.is_not(None))
            .order_by(TaskInstance.start_date.desc())
            .limit(MAX_TASKS)
        ).all()
        run_ids = {task.run_id for task in tasks}
        stored: Any = session.execute(
            select(XComModel.run_id, XComModel.map_index, XComModel.value).where(
                XComModel.dag_id == dag_id,
                XComModel.task_id == task_id,
                XComModel.key == "return_value",
                XComModel.run_id.in_(run_ids),
            )
        ).all()
    summaries = {(one.run_id, one.map_index): _facts(one.value) for one in stored}
    by_run: dict[str, list[Any]] = defaultdict(list)
    for task in tasks:
        by_run[task.run_id].append(task)
    if len(tasks) == MAX_TASKS and len(by_run) > 1:
        # Of the oldest run, some copies may be missing.
        by_run.popitem()
    return [_task_run(run_id, copies, summaries=summaries) for run_id, copies in by_run.items()]


def _task_run(run_id: str, copies: Sequence[Any], *, summaries: Mapping[tuple[str, int], Mapping[str, Any]]) -> TaskRun:
    states = [str(one.state or "none") for one in copies]
    state = next((one for one in states if one != "success"), "success")
    facts: dict[str, Any] = {}
    for copy in copies:
        for name, value in summaries.get((run_id, copy.map_index), {}).items():
            other = facts.get(name)
            facts[name] = value if other is None else other + value if name in _COUNTS else max(other, value)
    started = min((_aware(one.start_date) for one in copies), default=None)
    until = facts.pop("until", None)
    as_of = None if state != "success" or started is None else started if until is None else min(until, started)
    return TaskRun(
        run_id=run_id,
        state=state,
        started=started,
        seconds=max((float(one.duration) for one in copies if one.duration is not None), default=None),
        facts=facts,
        as_of=as_of,
    )


def _facts(value: Any) -> dict[str, Any]:
    """Return the members of a summary that the page shows; none of what another XCom backend has stored."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    if isinstance(value, dict) and "__data__" in value:
        value = value["__data__"]
    if not isinstance(value, dict):
        return {}
    found: dict[str, Any] = {
        name: value[name] for name in _COUNTS if isinstance(value.get(name), int) and not isinstance(value.get(name), bool)
    }
    for name in _INSTANTS:
        if (when := _instant(value.get(name))) is not None:
            found[name] = when
    return found


def _instant(value: Any) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(value)) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def _aware(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def show_runs(runs: Sequence[TaskRun]) -> list[dict[str, Any]]:
    """Return the last runs as the page shows them."""
    return [
        {
            "run_id": one.run_id,
            "state": one.state,
            "started": _milliseconds(one.started),
            "seconds": one.seconds,
            **{name: _milliseconds(value) if isinstance(value, datetime) else value for name, value in one.facts.items()},
        }
        for one in runs[:MAX_RUNS]
    ]


def show_freshness(runs: Sequence[TaskRun], *, promise: timedelta | None, now: datetime) -> dict[str, Any]:
    """Return how fresh a table is: by the newest run that read it whole, whenever that was."""
    as_of = max((one.as_of for one in runs if one.as_of is not None), default=None)
    age = None if as_of is None else max(0.0, (now - as_of).total_seconds())
    promised = None if promise is None else promise.total_seconds()
    is_late = promised is not None and (age is None or age > promised)
    return {"as_of": _milliseconds(as_of), "age": age, "promised": promised, "is_late": is_late}


def _milliseconds(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp() * 1000)
