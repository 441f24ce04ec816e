# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Airflow's pages, as people use them: what is clicked, what is typed, what is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

RUN_PATIENCE = 300_000
"""How long a run may take, in milliseconds."""
LABELS = """
part => Object.fromEntries([...part.querySelectorAll("[data-scope=field][data-part=root]")].map(field => [
    field.querySelector("[data-part=label]").innerText.trim(),
    field.querySelector("[data-part=helper-text]")?.innerText.trim() ?? "",
]))
"""


@dataclass(frozen=True)
class Toast:
    """A message that Airflow shows in a corner."""

    title: str
    text: str


class Connections:
    """The list of connections."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self) -> Connections:
        """Go there."""
        self.page.goto("/connections")
        expect(self.page.get_by_role("button", name="Add Connection")).to_be_visible()
        return self

    def search(self, conn_id: str) -> None:
        """Let the list show this one alone; far down in a long one, messages in the corner would lie on its buttons."""
        self.page.get_by_role("textbox").first.fill(conn_id)
        expect(self.page.get_by_role("row")).to_have_count(2)
        expect(self.row(conn_id)).to_be_visible()

    def row(self, conn_id: str) -> Locator:
        """Find a connection's row."""
        return self.page.get_by_role("row").filter(has=self.page.get_by_role("cell", name=conn_id, exact=True))

    def add(self, conn_id: str, *, kind: str) -> ConnectionForm:
        """Open the form for a new connection, and choose its type."""
        self.page.get_by_role("button", name="Add Connection").click()
        form = ConnectionForm(self.page)
        form.rename(conn_id)
        form.dialog.get_by_role("combobox", name="Connection Type").fill(kind)
        self.page.get_by_role("option", name=kind, exact=True).click()
        expect(form.dialog.get_by_role("button", name="Standard Fields")).to_be_visible()
        return form

    def edit(self, conn_id: str) -> ConnectionForm:
        """Open the form of a connection that is there."""
        self.search(conn_id)
        self.row(conn_id).get_by_role("button", name="Edit Connection").click()
        form = ConnectionForm(self.page)
        expect(form.dialog.get_by_role("button", name="Standard Fields")).to_be_visible()
        return form

    def press_test(self, conn_id: str) -> None:
        """Press the button."""
        self.search(conn_id)
        self.page.evaluate("window.toasts = []")
        self.row(conn_id).get_by_role("button", name="Test Connection").click()

    def test(self, conn_id: str) -> Toast:
        """Press the button, and read what Airflow shows."""
        self.press_test(conn_id)
        return self.toast()

    def toast(self) -> Toast:
        """Read what Airflow shows of a test in the corner."""
        found = self.page.wait_for_function("window.toasts.find(text => text.startsWith('Test Connection'))").json_value()
        title, _, text = str(found).partition("\n")
        return Toast(title=title, text=text)


class ConnectionForm:
    """The form of a connection."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.dialog = page.get_by_role("dialog")

    def rename(self, conn_id: str) -> None:
        """Type the connection's name."""
        self.dialog.get_by_label("Connection ID").fill(conn_id)

    def open_part(self, name: str) -> None:
        """Open one of the parts that fold."""
        part = self.dialog.get_by_role("button", name=name, exact=True)
        if part.get_attribute("aria-expanded") != "true":
            part.click()
        expect(part).to_have_attribute("aria-expanded", "true")
        # The others fold while this one unfolds.
        expect(self._open_parts).to_have_count(1)

    @property
    def _open_parts(self) -> Locator:
        return self.dialog.locator("[data-scope=accordion][data-part=item-content]").filter(visible=True)

    def fields(self) -> dict[str, str]:
        """Give the fields of the part that is open: each label, and the text below the field."""
        found: dict[str, str] = self._open_parts.evaluate(LABELS)
        return found

    def field(self, name: str) -> Locator:
        """Find a field of Airflow's own by its name, such as ``host``."""
        return self.dialog.locator(f"[name={name}]")

    def extra(self, name: str) -> Locator:
        """Find a field of this provider's by its name."""
        return self.dialog.locator(f"#element_{name}, [name=element_{name}]").first

    def fill(self, **values: str) -> ConnectionForm:
        """Type into fields of Airflow's own."""
        self.open_part("Standard Fields")
        for name, value in values.items():
            self.field(name).fill(value)
        return self

    def fill_extra(self, **values: str) -> ConnectionForm:
        """Type into fields of this provider's."""
        self.open_part("Extra Fields")
        for name, value in values.items():
            self.extra(name).fill(value)
            self.extra(name).blur()
        return self

    def fill_json(self, name: str, text: str) -> ConnectionForm:
        """Type into the editor of one of this provider's fields."""
        self.open_part("Extra Fields")
        label = self._open_parts.locator("[data-scope=field][data-part=root]").filter(has=self.page.get_by_text(name, exact=True))
        label.locator(".view-lines").click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.insert_text(text)
        # The editor closes brackets and quotes by itself.
        self.page.keyboard.press("ControlOrMeta+Shift+End")
        self.page.keyboard.press("Delete")
        # And it sets them on lines of their own as soon as they can be read.
        expect(label.locator(".view-lines")).to_contain_text(text.strip("{}"))
        expect(self.dialog.get_by_role("button", name="Save")).to_be_enabled()
        return self

    def choose(self, name: str, option: str) -> ConnectionForm:
        """Choose one of a field's options."""
        self.open_part("Extra Fields")
        self.extra(name).get_by_role("combobox").click()
        self.page.get_by_role("option", name=option, exact=True).click()
        return self

    def save(self) -> None:
        """Press the button, and wait until the form is gone."""
        self.dialog.get_by_role("button", name="Save").click()
        expect(self.dialog).to_be_hidden()

    def close(self) -> None:
        """Leave the form without saving."""
        self.dialog.get_by_role("button", name="Close").click()
        expect(self.dialog).to_be_hidden()


class DagPages:
    """The pages of Dags, runs and tasks."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @property
    def state(self) -> Locator:
        """What the page says of the run's or the task's state."""
        return self.page.get_by_test_id("header-card").get_by_test_id("state-badge")

    def trigger(self, dag_id: str, **params: str) -> str:
        """Press the button of a Dag, fill in the dialog, and give the path of the run's page."""
        self.page.goto(f"/dags/{dag_id}")
        self.page.get_by_test_id("trigger-dag-button").click()
        dialog = self.page.get_by_role("dialog")
        for name, value in params.items():
            dialog.locator(f"#element_{name}").fill(value)
        dialog.get_by_role("button", name="Trigger", exact=True).click()
        self.page.wait_for_url(re.compile(rf"/dags/{dag_id}/runs/.+"))
        return self.page.url

    def follow(self) -> str:
        """Stay on a run's page until it has ended or waits for a retry, and give the run's state."""
        ended = self.state.filter(has_text=re.compile("Success|Failed"))
        waits = self.page.get_by_test_id("table-cell-state").filter(has_text="Up For Retry")
        expect(ended.or_(waits).first).to_be_visible(timeout=RUN_PATIENCE)
        return self.state.inner_text().strip()

    def tasks(self) -> dict[str, str]:
        """Give the states of a run's tasks, from the table on its page."""
        table = self.page.get_by_test_id("table-list")
        expect(table.get_by_test_id("table-cell-state").first).to_be_visible()
        # In one look: the page replaces its rows while the run goes on.
        rows: list[list[str]] = table.evaluate(
            """table => ["task_display_name", "state"].map(name =>
                [...table.querySelectorAll(`[data-testid="table-cell-${name}"]`)].map(cell => cell.innerText.trim()))"""
        )
        names, states = rows
        return dict(zip(names, states, strict=True))

    def open_task(self, task_id: str) -> None:
        """Go from a run's page to that of one of its tasks."""
        self.page.get_by_test_id("table-list").get_by_role("link", name=task_id, exact=True).click()
        self.page.wait_for_url(re.compile(rf"/tasks/{task_id}"))
        expect(self.state).to_be_visible()

    def open_tab(self, *names: str) -> None:
        """Go to a tab of the page, or to one within a tab."""
        for name in names:
            self.page.get_by_role("link", name=name, exact=True).click()

    @property
    def log(self) -> Locator:
        """The task's log, on its page."""
        return self.page.get_by_test_id("virtualized-list")

    def xcom(self, key: str) -> Locator:
        """Open the tab of XComs, unfold them, and give the row of one."""
        self.open_tab("Storage", "XCom")
        row = self.page.get_by_role("row").filter(has=self.page.get_by_role("cell", name=key, exact=True))
        expect(row.locator(".view-lines")).to_contain_text(re.compile(r"\S"))
        unfold = self.page.get_by_role("button", name="Expand all extra JSON")
        if unfold.is_enabled():
            unfold.click()
        return row
