# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A person answers the form about usage rows, in Airflow's own pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing

import duckdb
from playwright.sync_api import Locator, Page, expect

from limio_limitrail.emulator import EmulatorServer, Fault
from tests.support.airflow_pages import RUN_PATIENCE, DagPages
from tests.support.airflow_whole import WholeAirflow

DAG = "limitrail_usage_approve"
COMMIT = "/v1/usage/commit"
EVIL = "<img src=x onerror=alert(1)> [here](https://evil.example) | https://evil.example"
"""Words of the API that would be an image, a script, a link and a cell."""


def choose(page: Page, field: str, option: str) -> None:
    """Choose an option of a field, by what a person reads."""
    page.get_by_role("combobox", name=re.compile(rf"^{field}\b")).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_person_answers(
    page: Page,
    dags: DagPages,
    airflow: WholeAirflow,
    emulator: EmulatorServer,
    connected: None,
    take_picture: Callable[..., None],
) -> None:
    emulator.limitrail.add_accounts(f"acme-{number}" for number in range(5))
    emulator.faults.add(Fault("reset_after", COMMIT, times=3))
    refused = {"errorCode": "POLICY", "message": EVIL, "detail": EVIL, "title": EVIL}
    emulator.faults.add(Fault("status", COMMIT, status=422, after=3, times=2, body=refused))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    dags.trigger(DAG)
    waits = page.get_by_test_id("table-cell-state").filter(has_text="Awaiting Input")
    expect(waits).to_be_visible(timeout=RUN_PATIENCE)
    emulator.faults.clear()
    dags.open_task("approve_usage")
    page.get_by_role("link", name=re.compile("^Required Action")).click()
    carry_out = page.get_by_role("button", name="Carry out")
    expect(carry_out).to_be_visible()

    # Each row is listed once, and nothing that the API has said means anything.
    rows = page.get_by_role("row").filter(has_text="subscription_id=")
    expect(rows).to_have_count(5)
    expect(page.get_by_role("code").filter(has_text="onerror=alert").first).to_be_visible()
    assert page.locator("a[href*='evil']").count() == 0
    assert page.locator("img[src='x']").count() == 0

    choose(page, "Group 1", "was carried out")
    choose(page, "Row 3", "was certainly not carried out: send it again")
    choose(page, "Group 2", "was certainly not carried out: never send it")
    page.locator("[id*=note], [name*=note]").last.fill("on the invoice")
    picture(page, take_picture)
    carry_out.click()
    expect(dags.state).to_have_text("Success", timeout=RUN_PATIENCE)
    page.get_by_role("link", name=re.compile("^manual__")).click()
    assert dags.follow() == "Success"
    dags.open_task("settle_usage")
    expect(dags.xcom("return_value")).to_contain_text('"committed": 2')
    assert not [url for url in requests if "evil" in url]

    database = airflow.home.path.parent / "warehouse.duckdb"
    with closing(duckdb.connect(str(database), read_only=True)) as connection:
        query = (
            "SELECT state, settlement FROM limitrail_usage_ledger WHERE settled_by IS NOT NULL AND settled_by NOT LIKE 'task %'"
        )
        found = connection.execute(query).fetchall()
    assert sorted(state for state, _ in found) == ["committed", "committed", "free", "given_up", "given_up"]
    assert all("on the invoice" in settlement for _, settlement in found)


def picture(page: Page, take_picture: Callable[..., None]) -> None:
    """Take a picture of the whole form."""
    page.set_viewport_size({"width": 1500, "height": 1500})
    page.get_by_role("button", name="Carry out").scroll_into_view_if_needed()
    part: Locator = page.locator("body")
    take_picture("approve.png", part)
    page.set_viewport_size({"width": 1280, "height": 720})
