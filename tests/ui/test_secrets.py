# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""No secret and no token is on any page, nor in anything else that the browser is given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_pages import Connections, DagPages
from tests.support.browser import Seen

TABS = [
    ["Rendered Templates"],
    ["Storage", "Task State Store"],
    ["Storage", "XCom"],
    ["Asset Events"],
    ["Audit Log"],
    ["Code"],
    ["Details"],
    ["Logs"],
]
PAGES = ["connections", "variables", "configs", "providers", "plugins", "events", "xcoms", "jobs", "task_instances", "assets"]


@pytest.mark.parametrize("dag_id", ["limio_subscriptions", "usage_without_scope"])
def test_no_secret_on_a_tasks_pages(
    dag_id: str, page: Page, dags: DagPages, seen: Seen, hidden: Callable[[], list[str]], finished: Callable[..., str]
) -> None:
    ends = "Failed" if dag_id == "usage_without_scope" else "Success"
    page.goto(finished(dag_id, ends=ends))
    seen.look(page)
    [task_id] = dags.tasks()
    dags.open_task(task_id)
    for names in TABS:
        dags.open_tab(*names)
        page.wait_for_load_state("networkidle")
        seen.look(page)
    assert len(hidden()) >= 4, "no token was handed out, so that none could have been seen"
    assert seen.leaks() == []
    # What is sure to be there is found, so that what must not be there would be.
    assert any("/logs/" in place for place in seen.where("pulling" if ends == "Success" else "limitrail.usage.write"))


def test_no_secret_elsewhere(page: Page, connections: Connections, connected: None, seen: Seen, emulator: EmulatorServer) -> None:
    for path in PAGES:
        page.goto(f"/{path}")
        page.wait_for_load_state("networkidle")
        seen.look(page)
    form = connections.open().edit("limio_default")
    form.dialog.get_by_role("button", name="Show value").click()
    expect(form.field("password")).to_have_value("***")
    seen.look(page)
    assert seen.leaks() == []
    places = seen.where(emulator.client_id)
    assert "page /connections" in places
    assert "GET /api/v2/connections" in places
