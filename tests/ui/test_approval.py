# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A person answers the form about usage rows, in Airflow's own pages."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from limio_limitrail.emulator import EmulatorServer, Fault
from tests.support.airflow_pages import DagPages
from tests.support.airflow_whole import WholeAirflow

DAG = "limitrail_usage_approve"
COMMIT = "/v1/usage/commit"


def test_a_person_answers(
    page: Page,
    dags: DagPages,
    airflow: WholeAirflow,
    emulator: EmulatorServer,
    connected: None,
    take_picture: Callable[..., None],
) -> None:
    # Words of the API that would be a link, an image or a script in a page.
    evil = "<img src=x onerror=alert(1)> [here](https://evil.example) | https://evil.example"
    emulator.limitrail.add_accounts(f"acme-{number}" for number in range(5))
    emulator.faults.add(Fault("reset_after", COMMIT, times=3))
    emulator.faults.add(Fault("status", COMMIT, status=422, after=3, times=2, body={"error": {"code": "X", "message": evil}}))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    url = dags.trigger(DAG)
    run_id = url.rpartition("/")[2].partition("?")[0]
    form = airflow.form(DAG, _unquoted(run_id), "approve_usage")
    emulator.faults.clear()
    page.goto(f"/dags/{DAG}/runs/{run_id}/tasks/approve_usage/required_actions")
    expect(page.get_by_text(form["subject"])).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 1500})
    page.wait_for_timeout(1500)
    page.screenshot(path="/tmp/approve-form.png")
    print(page.locator("body").inner_text())
    print(page.content()[:0])
    raise AssertionError


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)
