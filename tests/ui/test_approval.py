# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A person answers the form about usage rows, in Airflow's own pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from urllib.parse import unquote, urlsplit

import duckdb
import pytest
from playwright.sync_api import Locator, Page, expect

from limio_limitrail.emulator import EmulatorServer, Fault
from tests.support.airflow_pages import RUN_PATIENCE, DagPages
from tests.support.airflow_whole import WholeAirflow

DAG = "limitrail_usage_approve"
COMMIT = "/v1/usage/commit"
EVIL = "<img src=x onerror=alert(1)> [here](https://evil.example) | https://evil.example"
"""Words of the API that would be an image, a script, a link and a cell."""


@pytest.fixture
def approvals(approvals_emulator: EmulatorServer, airflow: WholeAirflow) -> EmulatorServer:
    """The LimitRail that the Dag of these tests has for itself."""
    host, _, port = approvals_emulator.url.rpartition(":")
    [client] = approvals_emulator.limitrail.options.clients
    details = {"conn_type": "limitrail", "host": host, "port": int(port), "login": client.client_id}
    airflow.add_connection("limitrail_approvals", json.dumps({**details, "password": client.client_secret}))
    return approvals_emulator


def choose(page: Page, field: str, option: str) -> None:
    """Choose an option of a field, by what a person reads."""
    page.get_by_role("combobox", name=re.compile(rf"^{field}\b")).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_person_answers(
    page: Page,
    dags: DagPages,
    airflow: WholeAirflow,
    approvals: EmulatorServer,
    take_picture: Callable[..., None],
) -> None:
    emulator = approvals
    emulator.limitrail.add_accounts(f"acme-{number}" for number in range(5))
    # A list that lags settles nothing before the form.
    emulator.configure_limitrail(list_lag_seconds=3600)
    emulator.faults.add(Fault("reset_after", COMMIT, times=3))
    emulator.faults.add(refusal("The account is on hold"))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    open_form(page, dags, airflow)
    # Each row is listed once.
    expect(page.get_by_role("row").filter(has_text="subscription_id=")).to_have_count(5)
    choose(page, "Group 1", "was carried out")
    choose(page, "Row 3", "was certainly not carried out: send it again")
    choose(page, "Group 2", "was certainly not carried out: never send it")
    page.locator("[id*=note], [name*=note]").last.fill("on the invoice")
    take_form(page, take_picture)
    answer(page, dags, "Carry out")
    dags.open_task("settle_usage")
    expect(dags.xcom("return_value")).to_contain_text('"settled": 5')
    assert ledger(airflow) == ["committed", "committed", "free", "given_up", "given_up"]

    # The row is sent again, and refused in words that would do something in a page.
    emulator.faults.clear()
    emulator.faults.add(refusal(EVIL))
    open_form(page, dags, airflow)
    expect(page.get_by_role("code").filter(has_text="onerror=alert").first).to_be_visible()
    assert page.locator("a[href*='evil']").count() == 0
    assert page.locator("img[src='x']").count() == 0
    answer(page, dags, "Leave all as they are")
    emulator.faults.clear()
    assert not [url for url in requests if "evil" in url]
    assert "rejected" in ledger(airflow)


def refusal(words: str) -> Fault:
    """Refuse two rows, after three others."""
    body = {"errorCode": "ON_HOLD", "message": words, "detail": words, "title": words}
    return Fault("status", COMMIT, status=422, after=3 if words != EVIL else 0, times=2, body=body)


def open_form(page: Page, dags: DagPages, airflow: WholeAirflow) -> None:
    """Run the Dag until it asks, and open its form."""
    run_id = unquote(urlsplit(dags.trigger(DAG)).path.rpartition("/")[2])
    waits = page.get_by_test_id("table-cell-state").filter(has_text="Awaiting Input")
    expect(waits).to_be_visible(timeout=RUN_PATIENCE)
    # Beside the run's state there is a badge for what it needs.
    page.get_by_test_id("table-list").get_by_role("link", name="approve_usage", exact=True).click()
    page.get_by_role("link", name=re.compile("^Required Action")).click()
    expect(page.get_by_role("button", name="Carry out")).to_be_visible()
    # No person answers before the scheduler has seen that the task waits.
    airflow.form(DAG, run_id, "approve_usage")


def answer(page: Page, dags: DagPages, option: str) -> None:
    """Press one of the buttons, and follow the run to its end."""
    page.get_by_role("button", name=option).click()
    expect(dags.state).to_have_text("Success", timeout=RUN_PATIENCE)
    page.get_by_role("link", name=re.compile("^manual__")).first.click()
    page.get_by_test_id("table-list").get_by_role("link", name="settle_usage", exact=True).wait_for()
    others = page.get_by_test_id("table-cell-state").filter(has_not_text="Success")
    expect(others).to_have_count(0, timeout=RUN_PATIENCE)
    expect(page.get_by_role("button", name="Required Actions")).to_have_count(0)


def ledger(airflow: WholeAirflow) -> list[str]:
    """Return the states of the rows that the person has settled, and of those that are not committed."""
    database = airflow.home.path.parent / "approvals.duckdb"
    with closing(duckdb.connect(str(database), read_only=True)) as connection:
        query = "SELECT state, settlement FROM limitrail_usage_ledger WHERE settled_by IS NOT NULL OR state <> 'committed'"
        found = connection.execute(query).fetchall()
    assert all("on the invoice" in settlement for _, settlement in found)
    return sorted(state for state, _ in found)


def take_form(page: Page, take_picture: Callable[..., None]) -> None:
    """Take a picture of the whole form."""
    page.set_viewport_size({"width": 1500, "height": 1700})
    page.get_by_role("button", name="Carry out").scroll_into_view_if_needed()
    part: Locator = page.locator("body")
    take_picture("approve.png", part)
    page.set_viewport_size({"width": 1280, "height": 800})
