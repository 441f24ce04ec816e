# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Templates, native types and XComArgs give the same values, in real tasks of each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_home import AirflowHome

VALUES: dict[str, Any] = {
    "five": 5,
    "two": 2,
    "on": True,
    "off": False,
    "nothing": None,
    "hidden": ["recoveryLink", "email"],
    "nested": {"total": "order.total"},
    "key": ["id"],
    "query": {"note": 7},
    "since": "2026-01-01T00:00:00+00:00",
    "until": "2026-03-01T00:00:00+00:00",
    "hour": 3600,
    "day": "P31D",
    "scopes": ["limitrail.usage.read", "limitrail.usage.write"],
    "mode": "append",
    "statuses": ["active", "pending"],
    "id": 12345,
    "rows": [{"account": "acme", "amount": 5}],
    "response": {"decisions": {"HELD": "denied"}},
    "body": {"externalAccount": "acme", "operation": "PAYMENT", "amount": "1", "currency": "EUR"},
}
PARAMETERS = {
    "LimioToSqlOperator": (
        "resource='abandoned_baskets', sql_conn_id='duck', table='t_{way}'",
        (
            "page_size=five, part_rows=two, since=since, overlap=hour, drop_columns=hidden, nested_columns=nested, "
            "primary_key=key, mode=mode, incremental=off, full_refresh=on, detail=off, time_column=nothing, "
            "query_params=query, staging=nothing"
        ),
    ),
    "LimioToObjectStorageOperator": (
        "resource='abandoned_baskets', destination='file://{folder}'",
        "page_size=five, part_rows=two, since=since, overlap=hour, drop_columns=hidden, nested_columns=nested, full_refresh=on",
    ),
    "LimitRailToSqlOperator": (
        "resource='usage', sql_conn_id='duck', table='u_{way}'",
        "page_size=five, since=since, until=until, slice_size=day, concurrency=two, scope=scopes, primary_key=key, part_rows=two",
    ),
    "LimitRailToObjectStorageOperator": (
        "resource='usage', destination='file://{folder}'",
        "page_size=nothing, since=since, until=until, slice_size=day, concurrency=two, scope=scopes",
    ),
    "LimitRailCommitUsageOperator": (
        "key_columns='account', sql_conn_id='duck', ledger_table='l_{way}'",
        (
            "rows=rows, body=body, concurrency=two, batch_size=five, max_rejected=five, max_parked=two, response=response, "
            "replay=nothing, scope=scopes, path=nothing"
        ),
    ),
    "LimioObjectSensor": ("path_type='orders'", "object_id=id, target_statuses=statuses, max_transient_failures=two"),
    "LimioResourceSensor": (
        "resource='abandoned_baskets'",
        "min_records=two, since=since, page_size=five, max_transient_failures=two, query_params=query",
    ),
    "LimitRailResourceSensor": ("resource='usage'", "min_records=two, since=since, until=until, scope=scopes, page_size=five"),
}
"""Each class: what stands in the Dag, and what comes late."""
WAYS = ("plain", "text", "native", "xcom")
VOLATILE = {"seconds", "folder", "manifest", "table", "tokens", "requests", "wait_seconds"}


def dag_of(tmp_path: Path) -> str:
    lines = ["@task(multiple_outputs=True)", "def give():", f"    return {VALUES!r}", "values = give()"]
    for cls, (fixed, late) in PARAMETERS.items():
        for way in WAYS:
            pairs = [pair.split("=") for pair in late.split(", ")]
            given = ", ".join(f"{name}={form(value, way)}" for name, value in pairs)
            native = ", render_template_as_native_obj=True" if way == "native" else ""
            here = fixed.format(way=way, folder=tmp_path / way)
            lines.append(f"values >> {cls}(task_id='{way}_{cls}', {here}, {given}{native})")
    return "\n".join(lines)


def form(value: str, way: str) -> str:
    if way == "plain":
        return repr(VALUES[value])
    if way == "xcom":
        return f"values[{value!r}]"
    return f"\"{{{{ ti.xcom_pull('give')['{value}'] }}}}\""


@pytest.fixture
def done(home: AirflowHome, limio_emulator: EmulatorServer, tmp_path: Path) -> Any:
    baskets = [
        {"id": f"b{n:02}", "created": "2026-02-01T00:00:00Z", "recoveryLink": "SECRET", "email": "x", "order": {"total": n}}
        for n in range(12)
    ]
    limio_emulator.put_records("checkout/abandoned", baskets)
    limio_emulator.put_records("objects/limio/orders", [{"id": "12345", "status": "Active"}])
    limio_emulator.limitrail.add_usage([{"id": f"u{n:02}", "committedAt": f"2026-01-{n + 1:02}T00:00:00Z"} for n in range(20)])
    limio_emulator.limitrail.add_accounts(["acme"])
    home.write_dag(dag_of(tmp_path))
    return home.run(), home.output()


def why_of(output: str, task_id: str) -> str:
    """What a task has logged."""
    return output.partition(f"starting task_id={task_id} ")[2].partition(f"end task task_id={task_id} ")[0][-6000:]


@pytest.mark.exhaustive
def test_each_way_gives_the_same(done: Any) -> None:
    outcome, output = done
    for cls in PARAMETERS:
        found = {}
        for way in WAYS:
            task = outcome.task(f"{way}_{cls}")
            assert (way, cls, task["state"]) == (way, cls, "success"), why_of(output, f"{way}_{cls}")
            found[way] = {name: value for name, value in (task["xcom"] or {}).items() if name not in VOLATILE}
        if cls == "LimitRailCommitUsageOperator":
            # The API honours the key: what one task has sent, no other does again.
            assert {way: (one["committed"], one["rows"]) for way, one in found.items()} == dict.fromkeys(found, (1, 1))
            continue
        assert found["text"] == found["native"] == found["xcom"] == found["plain"], cls
    assert "SECRET" not in output
