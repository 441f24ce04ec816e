# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The example Dags, triggered by their buttons and followed to their ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_pages import DagPages

NEEDS = {"limitrail_usage_commit": "limio_warehouse_sync"}
"""Examples that use what another one leaves."""
LOOK_AT = {
    "limio_subscriptions": ("subscriptions", r"subscriptions: {subscriptions} rows came in \d+ pages; .* requests", '"rows": '),
    "limio_warehouse_sync": ("orders", r"orders: {orders} rows came in \d+ pages; .* requests", '"table": "orders"'),
    "limitrail_usage_commit": ("commit_usage", r"usage.commit: of \d+ rows \d+ committed, \d+ denied", '"denied": '),
    "limio_object_storage": ("customers", r"customers: {customers} rows", '"rows": '),
    "limio_order_wait": ("processed", None, '"status": "processed"'),
    "limio_hook": ("counts", None, '"schedules": '),
}
"""A task of each example, what its log says, and what its XCom shows. The page draws the first lines only, short names first."""


@pytest.mark.parametrize("dag_id", LOOK_AT)
def test_example(
    dag_id: str, page: Page, dags: DagPages, finished: Callable[..., str], emulator: EmulatorServer, tmp_path: Path
) -> None:
    if dag_id in NEEDS:
        finished(NEEDS[dag_id])
    params = {
        "limio_order_wait": {"process_id": emulator.tenant.ids("process")[0]},
        "limio_object_storage": {"root": f"file://{tmp_path}"},
    }
    page.goto(finished(dag_id, **params.get(dag_id, {})))
    expect(dags.state).to_have_text("Success")
    assert set(dags.tasks().values()) == {"Success"}

    task_id, line, value = LOOK_AT[dag_id]
    counts = {kind: emulator.tenant.count(kind) for kind in ("subscriptions", "orders", "customers")}
    dags.open_task(task_id)
    expect(dags.state).to_have_text("Success")
    if line is not None:
        expect(dags.log).to_contain_text(re.compile(re.sub(r"{(\w+)}", lambda found: f"{counts[found[1]]:,}", line)))
    expect(dags.xcom("return_value")).to_contain_text(value)


def test_a_finished_run_on_one_page(
    page: Page, dags: DagPages, finished: Callable[..., str], take_picture: Callable[..., None]
) -> None:
    page.goto(finished("limio_warehouse_sync"))
    dags.open_task("orders")
    expect(dags.log).to_contain_text("rows came in")
    take_picture("run.png", page, clip={"x": 0, "y": 0, "width": 1280, "height": 470})
    dags.open_tab("Details")
    expect(page.get_by_role("row", name="Operator LimioToSqlOperator")).to_be_visible()
    dags.open_tab("Rendered Templates")
    expect(page.get_by_role("row").filter(has_text="limio_conn_id")).to_contain_text("limio_default")


def test_a_missing_scope_fails_at_once_and_says_what_to_do(page: Page, dags: DagPages, finished: Callable[..., str]) -> None:
    page.goto(finished("usage_without_scope", ends="Failed"))
    assert dags.tasks() == {"commit_usage": "Failed"}
    expect(page.get_by_test_id("table-cell-try_number")).to_have_text("1")
    dags.open_task("commit_usage")
    expect(dags.log).to_contain_text("It needs the scope 'limitrail.usage.write'; the token was granted: limitrail.usage.read.")
    expect(dags.log).to_contain_text("Ask whoever issued the client credentials to grant the scope. Trying again cannot help.")
