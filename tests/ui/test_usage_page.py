# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The page *Usage*, inside Airflow's own pages: light and dark, with a ledger of 100,000 rows, and a row that is settled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import FrameLocator, Locator, Page, expect

from tests.support.airflow_whole import WholeAirflow
from tests.support.big_ledger import NASTY, NASTY_WORDS, fill_ledger
from tests.support.databases import Database, fresh_postgres

ROWS = 100_000


@pytest.fixture(scope="session")
def billing(airflow: WholeAirflow, postgres_server: Any) -> Iterator[Database]:
    """A ledger of 100,000 rows."""
    with fresh_postgres(postgres_server) as details:
        airflow.add_connection("billing", json.dumps(details))
        yield fill_ledger(details, rows=ROWS, dag_id="limitrail_usage_commit")


def open_usage(page: Page) -> FrameLocator:
    """Open the page as a person does."""
    page.goto("/")
    page.wait_for_load_state("networkidle")  # Chromium forgets answers of a page that is left
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Usage").click()
    frame = page.frame_locator("iframe[title=Usage]")
    expect(frame.locator("main")).to_have_attribute("aria-busy", "false")
    return frame


def card(frame: FrameLocator, name: str) -> Locator:
    return frame.locator(f"[data-ledger={name}], [data-pull={name}]")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ledgers_and_pulls_in_airflows_look(
    theme: str, page: Page, finished: Callable[..., str], billing: Database, take_picture: Callable[..., None]
) -> None:
    finished("limio_warehouse_sync")
    finished("limitrail_usage_commit")
    finished("pull_subscriptions")
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("/")
    page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    frame = open_usage(page)
    expect(frame.locator("html")).to_have_attribute("data-theme", theme)
    expect(frame.locator(".problem")).to_have_count(0)

    small, big, pull = card(frame, "Usage"), card(frame, "Billing"), card(frame, "subscriptions")
    expect(small).to_contain_text("Last runs of commit_usage")
    expect(small.locator("table").last).to_contain_text("success")
    [(committed,)] = billing.query("SELECT count(*) FROM ledger WHERE state = 'committed'")
    expect(big.locator(".tiles")).to_contain_text(f"committed {committed:,}")
    assert big.locator("svg rect").count() > 60
    expect(big).to_contain_text("422")
    expect(big).to_contain_text("the meter m-… is unknown")
    expect(pull).to_contain_text("as promised, within 26 h")
    # What stands in a key is text.
    expect(big).to_contain_text(NASTY)
    expect(big.locator("td").filter(has_text=NASTY_WORDS)).to_have_count(3)  # two reasons, one run
    assert frame.locator("body").evaluate("() => window.hacked") is None
    page.wait_for_load_state("networkidle")
    # The picture is for people who look up what the page is like.
    hostile = "() => document.querySelectorAll('tr').forEach(row => row.textContent.includes('hacked') && row.remove())"
    frame.locator("body").evaluate(hostile)
    page.set_viewport_size({"width": 1280, "height": 1240})
    take_picture(f"usage-{theme}.png", page)
    page.set_viewport_size({"width": 1280, "height": 800})
    assert [text for text in errors if "limio-limitrail" in text or "Content Security Policy" in text] == []


def test_the_theme_changes_with_airflows(page: Page, billing: Database) -> None:
    frame = open_usage(page)
    expect(frame.locator("html")).to_have_attribute("data-theme", "light")
    page.evaluate("localStorage.setItem('theme', 'dark')")
    expect(frame.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_row_is_settled(page: Page, billing: Database) -> None:
    frame = open_usage(page)
    big = card(frame, "Billing")
    settle = big.get_by_role("button", name="Settle")
    expect(settle).to_be_disabled()
    box = big.get_by_role("checkbox").first
    name = (box.get_attribute("aria-label") or "").removeprefix("Choose ")
    box.check()
    big.get_by_label("Decision").select_option("send")
    big.get_by_label("Note").fill("not in the console")
    big.get_by_role("button", name="Settle 1 rows").click()
    [(before,)] = billing.query("SELECT count(*) FROM ledger WHERE state = 'free'")
    assert before == 0
    big.get_by_role("button", name="Yes: 1 rows").click()
    expect(big.get_by_role("status").first).to_contain_text("1")
    expect(big.locator(".tiles")).to_contain_text("free 1")
    [(row_key, by, settlement)] = billing.query("SELECT row_key, settled_by, settlement FROM ledger WHERE state = 'free'")
    # The oldest is no JSON, and stands there as it is.
    assert (row_key, by) == (name, "Anonymous")
    assert json.loads(settlement)["note"] == "not in the console"


def test_a_large_ledger_is_measured(page: Page, billing: Database, record_property: Callable[..., None]) -> None:
    """From the request to the last drawn row; nothing is asserted about it."""
    frame = open_usage(page)
    big = card(frame, "Billing")
    seconds = []
    for _ in range(5):
        page.wait_for_timeout(3500)  # what was read before is no longer good
        began = time.monotonic()
        # That the card is busy may be over before it is looked at.
        with page.expect_response(lambda response: "data/ledger?name=Billing" in response.url):
            big.get_by_role("button", name="Reload").click()
        expect(big).to_have_attribute("aria-busy", "false")
        seconds.append(time.monotonic() - began)
    record_property("seconds", seconds)
    print(f"{ROWS:,} rows: {', '.join(f'{one:.2f}' for one in seconds)} s")
