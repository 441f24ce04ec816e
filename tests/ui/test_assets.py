# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Assets: a list of Limio's between the Dag that pulls it and the Dag that begins then, and the graph of both."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.support.airflow_pages import DagPages
from tests.support.airflow_whole import WholeAirflow

LIST = "limio://acme.prod.limio.com/subscriptions"


def test_an_asset_and_what_came_of_it(
    page: Page,
    dags: DagPages,
    finished: Callable[..., str],
    airflow: WholeAirflow,
    take_picture: Callable[..., None],
) -> None:
    finished("pull_subscriptions")
    airflow.wait_for(lambda: airflow.runs("report_subscriptions"), "the Dag that waits for the asset has a run")
    page.goto("/assets")
    page.get_by_role("textbox").first.fill(LIST)
    page.get_by_role("link", name=LIST, exact=True).click()

    graph = page.get_by_role("application")
    for name in ("pull_subscriptions", LIST, "report_subscriptions"):
        expect(graph.get_by_role("link", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="1 Asset Event", exact=True)).to_be_visible()

    asset = page.url
    page.locator("a[href*='/dags/report_subscriptions/runs/']").click()
    assert dags.follow() == "Success"
    # Nothing changes any more.
    page.goto(asset)
    expect(page.locator(".view-lines")).to_contain_text("{")
    for name in ("pull_subscriptions", LIST, "report_subscriptions"):
        expect(graph.get_by_role("link", name=name, exact=True)).to_be_visible()
    page.wait_for_load_state("networkidle")
    take_picture("asset.png", page, clip={"x": 0, "y": 0, "width": 1280, "height": 620})


def test_the_graph_of_a_dag_shows_its_assets(page: Page, finished: Callable[..., str]) -> None:
    page.goto(finished("pull_subscriptions"))
    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Options").click()
    page.get_by_role("combobox").filter(has_text="Only tasks").click()
    page.get_by_role("option", name="All Dag Dependencies").click()
    graph = page.get_by_role("application")
    for name in ("pull", LIST, "report_subscriptions"):
        expect(graph.get_by_role("link", name=name, exact=True)).to_be_visible()
