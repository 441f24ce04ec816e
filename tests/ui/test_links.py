# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The links on tasks' pages: where they lead to."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_pages import DagPages


@pytest.mark.parametrize(
    ("dag_id", "task_id", "name", "path"),
    [
        ("limio_warehouse_sync", "orders", "Limio app", "/"),
        ("pull_subscriptions", "pull", "Limio app", "/lists/subscriptions?region=eu"),
        ("limitrail_usage_commit", "commit_usage", "LimitRail console", "/developer-console"),
        ("limitrail_usage_commit", "usage_at_limitrail", "LimitRail console", "/developer-console"),
    ],
)
def test_a_link_to_the_app_and_the_console(
    dag_id: str,
    task_id: str,
    name: str,
    path: str,
    page: Page,
    dags: DagPages,
    finished: Callable[..., str],
    emulator: EmulatorServer,
) -> None:
    page.goto(finished(dag_id))
    dags.open_task(task_id)
    dags.open_tab("Details")
    expect(page.get_by_role("heading", name="Extra Links")).to_be_visible()
    expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("href", emulator.url + path)


def test_the_link_to_the_ledger_leads_to_the_query(page: Page, dags: DagPages, finished: Callable[..., str]) -> None:
    page.goto(finished("limitrail_usage_commit"))
    dags.open_task("commit_usage")
    dags.open_tab("Details")
    page.get_by_role("link", name="Usage ledger", exact=True).click()
    page.wait_for_url(re.compile("/tasks/commit_usage/xcom"))
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="ledger_query", exact=True))
    expect(row).to_contain_text("SELECT * FROM limitrail_usage_ledger WHERE dag_id = 'limitrail_usage_commit'")
