# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which parameters the copies of a mapped task certainly have in common."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, task

from limio_limitrail.transfers.limio_to_sql import LimioToSqlOperator
from limio_limitrail.transfers.mapped_copies import copies_share

SHARED = {"table": "t", "sql_conn_id": "duck"}


@task
def names():
    return ["customers", "events"]


@pytest.mark.parametrize(
    ("given", "expand", "shared"),
    [
        (SHARED, lambda make: make.expand(resource=["a", "b"]), True),
        (SHARED, lambda make: make.expand(resource=["a"], page_size=[1, 2]), True),
        (SHARED, lambda make: make.expand(resource=names()), True),
        (SHARED, lambda make: make.expand(path_params=[{"service": "a"}, {"service": "b"}]), True),
        (SHARED, lambda make: make.expand_kwargs([{"resource": "a"}, {"since": "2026-01-01"}]), True),
        (SHARED, lambda make: make.expand_kwargs(names()), True),
        ({"table": "t"}, lambda make: make.expand(resource=["a", "b"]), True),
        ({"table": "t"}, lambda make: make.expand_kwargs(names()), False),
        ({"table": "t"}, lambda make: make.expand(sql_conn_id=["a", "b"]), False),
        ({"sql_conn_id": "duck"}, lambda make: make.expand(table=["a", "b"]), False),
        ({"sql_conn_id": "duck"}, lambda make: make.expand_kwargs([{"resource": "a"}, {"table": "b"}]), False),
        ({**SHARED, "table": "{{ task.resource }}"}, lambda make: make.expand(resource=["a", "b"]), False),
        ({**SHARED, "table": "{% if 1 %}t{% endif %}"}, lambda make: make.expand(resource=["a", "b"]), False),
        (SHARED, lambda make: make.expand(resource=["a"]), False),
        (SHARED, lambda make: make.expand_kwargs([{"resource": "a"}]), False),
    ],
)
def test_what_copies_share(given, expand, shared):
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        expand(LimioToSqlOperator.partial(task_id="load", **given))
    context = {"dag": dag, "ti": SimpleNamespace(task_id="load")}
    assert copies_share(frozenset(SHARED), context=context) is shared


def test_a_task_that_is_not_mapped_has_no_copies():
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        LimioToSqlOperator(task_id="load", resource="orders", **SHARED)
    context = {"dag": dag, "ti": SimpleNamespace(task_id="load")}
    assert not copies_share(frozenset(SHARED), context=context)
    assert not copies_share(frozenset(SHARED), context={"ti": context["ti"]})
