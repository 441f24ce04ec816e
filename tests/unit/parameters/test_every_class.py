# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Every parameter of every public class is read by the one mechanism, before the first request."""

from __future__ import annotations

import importlib
import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.emulator import EmulatorServer
from limio_limitrail.landing.parts import PartFormat
from limio_limitrail.landing.sql import WriteMode
from limio_limitrail.operators.limitrail import LimitRailCommitUsageOperator
from limio_limitrail.operators.limitrail_approve import LimitRailApproveUsageOperator
from limio_limitrail.operators.limitrail_ledger import LimitRailSettleUsageOperator
from limio_limitrail.operators.limitrail_reconcile import LimitRailReconcileUsageOperator
from limio_limitrail.parameters.declared import Parameter
from limio_limitrail.polling.conditions import Missing
from limio_limitrail.provider_info import get_provider_info
from limio_limitrail.sensors.base import WaitFailedError
from limio_limitrail.sensors.limio import LimioObjectSensor, LimioResourceSensor
from limio_limitrail.sensors.limitrail import LimitRailResourceSensor
from limio_limitrail.transfers.limio_to_object_storage import LimioToObjectStorageOperator
from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator
from limio_limitrail.transfers.limitrail_to_object_storage import LimitRailToObjectStorageOperator
from limio_limitrail.transfers.limitrail_to_sql import LimitRailToSqlOperator
from limio_limitrail.triggers.events import WatchParameterError
from limio_limitrail.triggers.limio import LimioResourceEventTrigger
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger
from limio_limitrail.usage.conventions import OPERATIONS

TABLE = {"sql_conn_id": "lite", "table": "t"}
GOOD: dict[type[Any], dict[str, Any]] = {
    LimioToSqlOperator: {"resource": "orders", **TABLE},
    LimitRailToSqlOperator: {"resource": "usage", "since": "2026-01-01", "until": "2026-01-02", **TABLE},
    LimioToObjectStorageOperator: {"resource": "orders", "destination": "file:///nowhere"},
    LimitRailToObjectStorageOperator: {
        "resource": "usage", "since": "2026-01-01", "until": "2026-01-02", "destination": "file:///nowhere",
    },
    LimitRailCommitUsageOperator: {"key_columns": "id", "sql_conn_id": "lite", "body": {"a": 1}, "rows": [{"id": 1}]},
    LimitRailApproveUsageOperator: {"sql_conn_id": "lite"},
    LimitRailSettleUsageOperator: {"sql_conn_id": "lite", "decisions": [{"key": "k", "decision": "send"}]},
    LimitRailReconcileUsageOperator: {"sql_conn_id": "lite", "match": {"idempotencyKey": "idempotency_key"}},
    LimioObjectSensor: {"path_type": "orders", "object_id": "x"},
    LimioResourceSensor: {"resource": "orders"},
    LimitRailResourceSensor: {"resource": "usage", "since": "2026-01-01", "until": "2026-01-02"},
}  # fmt: skip
"""Each public operator and sensor, and what it needs."""
AIRFLOWS_DEFAULTS = (
    "inlets", "outlets", "retries", "retry_delay", "pool", "pool_slots", "queue", "priority_weight", "trigger_rule", "owner",
    "depends_on_past", "executor_config", "execution_timeout",
)  # fmt: skip
WATCHES: dict[type[Any], dict[str, Any]] = {
    LimioResourceEventTrigger: {"resource": "abandoned_baskets"},
    LimitRailResourceEventTrigger: {"resource": "usage"},
}
WRONG: dict[str, list[Any]] = {
    "page_size": [0, "many", True], "part_rows": [0, None, "1.5"], "slice_size": [0, "0.5",
    "P1M", -1],
    "overlap": [-1, "PT", None], "drop_columns": ["a,b", None, "None"], "nested_columns": [{"a": ""}, "x"],
    "since": ["soon", 1767225600],
    "until": ["soon", 1767225600], "min_records": [0, "1.5", None], "max_transient_failures": [-1, None],
    "concurrency": [0, 65, "x", None],
    "limit": [0, -1, "many", True, 1.5], "mask_members": [None, "", "a,b"],
    "batch_size": [0, 1001], "max_rejected": [-1, 1.5, None, 1.0, 0.5, "0.5"], "max_parked": ["ten", True, "101%"],
    "mode": ["upsert", "", None], "operation": ["upsert", "", None],
    "new_columns": ["drop", "", None], "type_changes": ["narrow", None], "required_columns": ["a,b", None],
    "checks": ["x", [1], [{}]], "load": ["later", "", None], "dry_run": ["perhaps"], "max_partitions": [0, None],
    "format": ["csv", None], "missing": ["perhaps", None], "on_unknown": ["", "send"], "replay": ["all", "committed"],
    "scope": ["a,b", 1.5], "table": ["", None], "sql_conn_id": ["", "None"], "key_columns": ["", [], "a,b"], "parts_path": ["nowhere://x"],
    "target_statuses": [None, ""],
    "failed_statuses": [None, "a,b"], "object_id": ["", "None"], "path_type": [None], "service": [""],
    "resource": ["", 5, None],
    "path_params": ["x", {"a": []}, ["a"]], "query_params": ["x", {"a": []}, ["a"]],
    "full_refresh": ["perhaps"], "incremental": [2], "detail": ["maybe"],
    "primary_key": ["a,b", [""]], "time_column": [1.5], "staging": ["nowhere://x"], "destination": ["", "nowhere://x", None],
    "idempotency": ["x", [1], {"header": ""}, {"header": "a b"}, {"header": "a:b"}, {"resend_within": -1}, {"keys": 1}],
    "body": ["x", [1]], "by": [1.5], "ledger_table": ["", None], "changes_table": ["", None],
    "decisions": ["x", 5, [1], b"x"],
    "kinds": [None, [], "committed", ["parked", "x"]], "older_than": [-1, "soon"], "max_rows": [0, None, "x"],
    "listed_rows": [-1, 201], "response_timeout": [0, "soon"], "notifiers": [["x"]],
    "assigned_users": [[], [1.5], [{"id": "a", "mail": "b"}], [{"name": "a"}]],
    "rows": ["x", 5, {"a": 1}],
    "limio_conn_id": ["", None], "limitrail_conn_id": ["", None], "predicate": ["f", "no way"], "transform": ["f",
    "no.such.module"],
    "poke_interval": [0, "x", True],
    "response": [
        "x", [1], {"already_done": []}, {"already_committed": [{"status": 200}]}, {"already_committed": [{"status": 429}]},
        {"already_committed": 409}, {"already_committed": [409]}, {"already_committed": [{"error_code": "X"}]},
        {"already_committed": [{"status": 409, "error_code": ""}]}, {"already_committed": [{"status": 409, "code": "X"}]},
        {"committed_statuses": [404]}, {"committed_statuses": True}, {"decisions": {"A": "rejected"}}, {"decisions": "x"},
        {"reservation_field": ""}, {"reservation_field": None}, {"decision_field": 1.5},
    ],
}  # fmt: skip
"""More of what does not fit; an `object` never does."""


def own_parameters(cls: type[Any]) -> set[str]:
    """The parameters of a class that are not Airflow's own."""
    names: set[str] = set()
    for base in cls.__mro__:
        init = vars(base).get("__init__")
        # Airflow wraps what a class inherits, too.
        if base.__module__.startswith("limio_limitrail") and init is not None and init.__module__.startswith("limio_limitrail"):
            signature = inspect.signature(init).parameters.values()
            names |= {one.name for one in signature if one.kind is one.KEYWORD_ONLY}
    return names - {"format_version"}


def pairs(classes: dict[type[Any], dict[str, Any]]) -> list[Any]:
    return [pytest.param(cls, name, id=f"{cls.__name__}-{name}") for cls in classes for name in sorted(own_parameters(cls))]


def test_these_are_all_classes() -> None:
    info = get_provider_info()
    modules = [name for room in ("operators", "sensors") for entry in info[room] for name in entry["python-modules"]]
    modules += [
        f"limio_limitrail.transfers.{kind}_to_{where}" for kind in ("limio", "limitrail") for where in ("sql", "object_storage")
    ]
    modules += [name for entry in info["triggers"] for name in entry["python-modules"]]
    found = set()
    for name in modules:
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and value.__module__ == name and not value.__name__.startswith("_"):
                found.add(value)
    public = {cls for cls in found if issubclass(cls, BaseOperator) or cls.__name__.endswith("EventTrigger")}
    assert public == set(GOOD) | set(WATCHES)


@pytest.mark.parametrize("cls", [*GOOD, *WATCHES])
def test_each_parameter_is_declared(cls: type[Any]) -> None:
    assert set(cls.parameters) == own_parameters(cls)
    assert all(isinstance(parameter, Parameter) for parameter in cls.parameters.values())
    templated = {name for name, parameter in cls.parameters.items() if parameter.templated}
    if cls in GOOD:
        assert set(cls.template_fields) == templated
        assert set(cls.parameters) - templated <= {"transform", "predicate", "deferrable", "notifiers"}
    else:
        assert not templated


@pytest.mark.parametrize("cls", [*GOOD, *WATCHES])
def test_each_parameter_is_documented(cls: type[Any]) -> None:
    text = "\n".join(base.__doc__ or "" for base in cls.__mro__ if base.__module__.startswith("limio_limitrail"))
    assert own_parameters(cls) <= set(re.findall(r":param (\w+):", text))


@pytest.mark.parametrize(("cls", "name"), pairs(GOOD))
def test_what_does_not_fit_ends_the_task_before_anything_is_sent(cls: type[Any], name: str, reached: EmulatorServer) -> None:
    reached.counters.reset()
    for value in [object(), *WRONG.get(name, [])]:
        with pytest.raises(
            (AirflowFailException, ParameterError), match=rf"\b{name}(\[.*\])? must be |\b{name}=.*cannot be imported"
        ):
            cls(task_id="t", **{**GOOD[cls], name: value}).execute({"ti": None})
    assert list(reached.counters.log) == []


@pytest.mark.parametrize("cls", [LimioObjectSensor, LimioResourceSensor, LimitRailResourceSensor])
@pytest.mark.parametrize("how", [{"deferrable": True}, {"mode": "reschedule"}, {"soft_fail": True}, {"silent_fail": True}])
def test_a_sensor_is_never_skipped_for_it(cls: type[Any], how: dict[str, Any], reached: EmulatorServer) -> None:
    reached.counters.reset()
    ti: Any = SimpleNamespace(get_first_reschedule_date=lambda context: None)
    with pytest.raises(AirflowFailException, match="max_transient_failures must be a whole number of at least 0, got 'few'"):
        cls(task_id="t", **{**GOOD[cls], **how, "max_transient_failures": "few"}).execute({"ti": ti})
    with pytest.raises(WaitFailedError):
        cls(task_id="t", **{**GOOD[cls], **how, "max_transient_failures": "few"}).poke({})
    assert list(reached.counters.log) == []


@pytest.mark.parametrize("cls", [LimitRailToSqlOperator, LimitRailToObjectStorageOperator])
def test_a_pull_reads_sixteen_slices_at_once_at_most(cls: type[Any], reached: EmulatorServer) -> None:
    for value in (17, "17"):
        with pytest.raises(AirflowFailException, match="concurrency must be a whole number from 1 to 16, got "):
            cls(task_id="t", **{**GOOD[cls], "slice_size": 3600, "concurrency": value}).execute({"ti": None})


def test_all_that_is_wrong_is_said_at_once(reached: EmulatorServer) -> None:
    wrong = LimioToSqlOperator(task_id="t", resource="orders", **TABLE, page_size="many", overlap=-1, mode="upsert")
    with pytest.raises(AirflowFailException, match=r"page_size must .*; overlap must .*; mode must "):
        wrong.execute({})


@pytest.mark.parametrize(
    ("cls", "name"), [one for one in pairs(GOOD) if one.values[1] in {"transform", "predicate", "deferrable", "notifiers"}]
)
def test_what_is_no_template_says_so_when_the_dag_is_parsed(cls: type[Any], name: str) -> None:
    first = BaseOperator(task_id="first")
    for value in (first.output, "{{ params.x }}", "{% if x %}a.b{% endif %}"):
        with pytest.raises(ParameterError, match=f"{name} is not a template"):
            cls(task_id="t", **{**GOOD[cls], name: value})


@pytest.mark.parametrize(
    ("cls", "name"), [one for one in pairs(GOOD) if one.values[1] not in {"transform", "predicate", "deferrable", "notifiers"}]
)
def test_what_is_a_template_takes_an_xcom_arg_and_waits_for_its_task(cls: type[Any], name: str) -> None:
    from airflow.sdk import DAG

    with DAG("d"):
        first = BaseOperator(task_id="first")
        task = cls(task_id="t", **{**GOOD[cls], name: first.output})
    assert task.upstream_task_ids == {"first"}
    assert getattr(task, name) is first.output or getattr(task, name) == first.output


@pytest.mark.parametrize(("cls", "name"), pairs(WATCHES))
def test_a_watch_says_at_once_what_does_not_fit(cls: type[Any], name: str) -> None:
    for value in [object(), *WRONG.get(name, [])]:
        if name == "overlap" and value == 0:
            continue
        with pytest.raises(WatchParameterError, match=rf"\b{name}(\[.*\])? must be |resource"):
            cls(**{**WATCHES[cls], name: value})
    templates: list[Any] = [BaseOperator(task_id="first").output, "{{ params.x }}"]
    if name in {"path_params", "query_params"}:
        templates.append({"service": "{{ params.x }}"})
    for value in templates:
        with pytest.raises(WatchParameterError, match=f"{name} is not a template"):
            cls(**{**WATCHES[cls], name: value})


@pytest.mark.parametrize("cls", WATCHES)
def test_a_watch_is_the_same_however_it_was_given(cls: type[Any]) -> None:
    from datetime import UTC, date, datetime, timedelta

    usual = {"poke_interval": timedelta(minutes=5), "overlap": 60, "page_size": 50, "since": datetime(2026, 1, 1, tzinfo=UTC)}
    other = {"poke_interval": "PT5M", "overlap": "60", "page_size": "50", "since": date(2026, 1, 1)}
    one, two = (cls(resource="abandoned_baskets" if "Limio" in cls.__name__ else "usage", **how) for how in (usual, other))
    assert one.serialize() == two.serialize()
    assert cls(**one.serialize()[1]).serialize() == one.serialize()


@pytest.mark.parametrize(
    ("cls", "name", "words"),
    [
        (LimioToSqlOperator, "mode", WriteMode),
        (LimioToObjectStorageOperator, "format", (PartFormat.JSONL, PartFormat.PARQUET)),
        (LimioObjectSensor, "missing", Missing),
        (LimitRailCommitUsageOperator, "operation", OPERATIONS),
    ],
)
def test_the_words_are_those_that_the_code_knows(cls: type[Any], name: str, words: Any) -> None:
    for word in words:
        assert cls.parameters[name].read(name, str(word)) == str(word)
    with pytest.raises(ParameterError, match=", ".join(map(str, words))):
        cls.parameters[name].read(name, "something else")


@pytest.mark.parametrize("cls", GOOD)
def test_a_mapped_task_has_the_same_defaults_of_airflows_as_any_other(cls: type[Any]) -> None:
    """Airflow takes them from the signatures of all classes below its own, also of those that it has made itself."""
    (name, value), *rest = GOOD[cls].items()
    with DAG("mapped", schedule=None):
        mapped = cls.partial(task_id="mapped", **dict(rest)).expand(**{name: [value]})
        alone = cls(task_id="alone", **GOOD[cls])
    own = [one for one in AIRFLOWS_DEFAULTS if hasattr(mapped, one)]
    assert {"inlets", "outlets", "retries"} <= set(own)
    assert {one: getattr(mapped, one) for one in own} == {one: getattr(alone, one) for one in own}


def test_airflows_own_parameters_are_not_ours() -> None:
    assert not own_parameters(LimioResourceSensor) & set(inspect.signature(BaseSensorOperator.__init__).parameters)
