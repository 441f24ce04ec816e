# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One whole Airflow, one emulator and one browser for all tests of the user interface."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from limio_limitrail.emulator import EmulatorServer, LimitRailClient, LimitRailOptions
from tests.support.airflow_home import AirflowHome
from tests.support.airflow_pages import ConnectionForm, Connections, DagPages
from tests.support.airflow_whole import WholeAirflow
from tests.support.browser import Seen, open_browser, open_context
from tests.support.databases import fresh_postgres

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "dags_examples"
LEDGERS = [
    {"conn_id": "billing", "dag_id": "limitrail_usage_commit", "ledger_table": "ledger", "name": "Billing"},
    {"conn_id": "warehouse", "dag_id": "limitrail_usage_commit", "task_id": "commit_usage", "name": "Usage"},
]
PULLS = [{"dag_id": "pull_subscriptions", "task_id": "pull", "fresh_within": "PT26H", "name": "subscriptions"}]
"""What the page *Usage* shows."""

APPROVE = "limitrail_usage_approve"
"""The Dag that asks a person."""

PORT = 8765
"""The emulator's, where nobody else has it: it is in the pictures."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, help="the folder that pictures are written into; without it there are none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def emulator() -> Iterator[EmulatorServer]:
    """Both APIs; LimitRail knows a second client, which may only read."""
    # A slash, because that is written otherwise in URLs.
    limio, demo, reader = (f"secret/{secrets.token_urlsafe(24)}" for _ in range(3))
    clients = (
        LimitRailClient("lr_demo", demo, "demo"),
        LimitRailClient("lr_reader", reader, "demo", scopes=("limitrail.usage.read",)),
    )
    server = EmulatorServer(port=PORT, client_secret=limio, limitrail=LimitRailOptions(clients=clients))
    try:
        server.start()
    except OSError:
        server = EmulatorServer(client_secret=limio, limitrail=LimitRailOptions(clients=clients)).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def approvals_emulator() -> Iterator[EmulatorServer]:
    """A LimitRail of its own for the Dag that asks a person: what the person says is made up, and agrees with no list."""
    client = LimitRailClient("lr_approvals", f"secret/{secrets.token_urlsafe(24)}", "demo")
    with EmulatorServer(limitrail=LimitRailOptions(clients=(client,))) as server:
        yield server


@pytest.fixture(scope="session")
def hidden(emulator: EmulatorServer, approvals_emulator: EmulatorServer) -> Callable[[], list[str]]:
    """What nobody may see: all clients' secrets, and all tokens handed out so far."""

    def give() -> list[str]:
        return [
            hidden
            for server in (emulator, approvals_emulator)
            for hidden in (
                server.client_secret,
                *(client.client_secret for client in server.limitrail.options.clients),
                *server.minted_tokens,
                *server.limitrail.tokens,
            )
        ]

    return give


def with_own_connections(text: str) -> str:
    """Let the Dag that asks a person use connections that no other Dag uses."""
    name = f'dag_id="{APPROVE}",'
    assert name in text
    defaults = 'default_args={"limitrail_conn_id": "limitrail_approvals"},'
    return text.replace('"warehouse"', '"approvals"').replace(name, f"{name} {defaults}")


@pytest.fixture(scope="session")
def airflow(
    postgres_server: Any, whole_airflow_template: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WholeAirflow]:
    """A whole Airflow with the example Dags and those of `dags`. It has a warehouse, and no other connection."""
    template, name = whole_airflow_template
    folder = tmp_path_factory.mktemp("ui")
    with fresh_postgres(postgres_server, template=name) as database:
        home = AirflowHome(None, template, folder / "home", {})
        for path in [*EXAMPLES.glob("*.py"), *(HERE / "dags").glob("*.py")]:
            # Runs are there when somebody presses the button, and no others beside them.
            text = path.read_text().replace('schedule="@daily"', "schedule=None")
            if path.stem == APPROVE:
                text = with_own_connections(text)
            (home.path / "dags" / path.name).write_text(text)
        shown = {
            "AIRFLOW__LIMIO_LIMITRAIL__LEDGERS": json.dumps(LEDGERS),
            "AIRFLOW__LIMIO_LIMITRAIL__PULLS": json.dumps(PULLS),
        }
        with WholeAirflow(home, database, AIRFLOW__CORE__TEST_CONNECTION="Enabled", **shown) as whole:
            for name in ("warehouse", "approvals"):
                whole.add_connection(name, json.dumps({"conn_type": "duckdb", "host": str(folder / f"{name}.duckdb")}))
            yield whole


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium."""
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def context(browser: Browser, airflow: WholeAirflow) -> Iterator[BrowserContext]:
    """What all pages are opened in."""
    with open_context(browser, base_url=airflow.url) as context:
        yield context


@pytest.fixture(scope="session", autouse=True)
def seen(context: BrowserContext, hidden: Callable[[], list[str]]) -> Iterator[Seen]:
    """All that the browser has been given. No secret may have been in it when all tests are done."""
    seen = Seen(context, hidden=hidden)
    yield seen
    assert seen.leaks() == []
    # Chromium forgets some answers when a page is left. What was not looked at must be next to nothing.
    assert len(seen.unread) <= seen.count / 50, seen.unread


@pytest.fixture
def page(context: BrowserContext, seen: Seen) -> Iterator[Page]:
    """A page of the test's own; how it looks at the end is kept."""
    page = context.new_page()
    yield page
    seen.look(page)
    # What is chosen on one page, such as the graph for the grid, Airflow keeps for the others.
    if page.url != "about:blank":
        page.evaluate("localStorage.clear()")
    page.close()


@pytest.fixture
def connections(page: Page) -> Connections:
    """The list of connections, opened."""
    return Connections(page).open()


@pytest.fixture
def dags(page: Page) -> DagPages:
    """The pages of Dags."""
    return DagPages(page)


@pytest.fixture(scope="session")
def fill_limio(emulator: EmulatorServer) -> Callable[..., ConnectionForm]:
    """Fill in the form of a Limio connection to the emulator."""

    def fill(form: ConnectionForm, *, secret: str | None = None) -> ConnectionForm:
        host, _, port = emulator.url.rpartition(":")
        return form.fill(host=host, port=port, login=emulator.client_id, password=secret or emulator.client_secret)

    return fill


@pytest.fixture(scope="session")
def fill_limitrail(emulator: EmulatorServer) -> Callable[..., ConnectionForm]:
    """Fill in the form of a LimitRail connection to the emulator, as one of its clients."""

    def fill(form: ConnectionForm, *, client: str = "lr_demo", scope: str = "", secret: str | None = None) -> ConnectionForm:
        host, _, port = emulator.url.rpartition(":")
        [known] = [one for one in emulator.limitrail.options.clients if one.client_id == client]
        form.fill(host=host, port=port, login=client, password=secret or known.client_secret)
        return form.fill_extra(scope=scope) if scope else form

    return fill


@pytest.fixture(scope="session")
def connected(
    context: BrowserContext, fill_limio: Callable[..., ConnectionForm], fill_limitrail: Callable[..., ConnectionForm]
) -> None:
    """The connections that the Dags need, made through the form."""
    page = context.new_page()
    connections = Connections(page).open()
    fill_limio(connections.add("limio_default", kind="Limio")).save()
    form = fill_limio(connections.add("limio_pages", kind="Limio"))
    form.fill_json("Pages", '{"subscriptions": "/lists/{resource}?region=eu"}').save()
    fill_limitrail(connections.add("limitrail_default", kind="LimitRail"), scope="limitrail.usage.write").save()
    fill_limitrail(connections.add("limitrail_reader", kind="LimitRail"), client="lr_reader", scope="limitrail.usage.read").save()
    page.close()


@pytest.fixture(scope="session")
def finished(context: BrowserContext, airflow: WholeAirflow, connected: None) -> Callable[..., str]:
    """Trigger a Dag and follow it to its end, once for all tests; gives the address of the run's page."""
    runs: dict[str, str] = {}

    def run(dag_id: str, *, ends: str = "Success", **params: str) -> str:
        if dag_id not in runs:
            airflow.wait_for(lambda: airflow.query("SELECT 1 FROM dag WHERE dag_id = %s", dag_id), f"{dag_id} is read")
            page = context.new_page()
            dags = DagPages(page)
            url = dags.trigger(dag_id, **params)
            assert dags.follow() == ends, "\n".join([dag_id, str(dags.tasks()), *errors_of(airflow, dag_id)])
            page.close()
            runs[dag_id] = url
        return runs[dag_id]

    return run


def errors_of(airflow: WholeAirflow, dag_id: str) -> list[str]:
    """Give what a Dag's tasks have logged as errors."""
    files = sorted((airflow.home.path / "logs").glob(f"dag_id={dag_id}/**/*.log"))
    return [line[:2000] for file in files for line in file.read_text().splitlines() if '"level":"error"' in line]


@pytest.fixture
def take_picture(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Write a picture, where the run was asked for pictures."""
    folder: Path | None = request.config.getoption("screenshots")

    def take(name: str, what: Page | Locator, **how: Any) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            what.screenshot(path=folder / name, animations="disabled", caret="hide", **how)

    return take
