# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The page *Usage* in a real API server, with users who log in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.airflow_home import AirflowHome
from tests.support.airflow_whole import WholeAirflow
from tests.support.big_ledger import fill_ledger
from tests.support.databases import Database, fresh_postgres

OWN = {"X-Limitrail-Page": "1"}
LEDGERS = [
    {"conn_id": "billing", "dag_id": "commit", "task_id": "send", "ledger_table": "ledger", "name": "Billing"},
    {"conn_id": "nowhere", "dag_id": "commit", "name": "Broken"},
    {"conn_id": "billing"},
]

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def passwords() -> dict[str, str]:
    return {"ada": "ada's own", "vera": "vera's own"}


@pytest.fixture(scope="module")
def server(
    postgres_server: Any,
    whole_airflow_template: tuple[Path, str],
    passwords: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[WholeAirflow, Database]]:
    """An API server and a ledger of 5,000 rows."""
    template, name = whole_airflow_template
    folder = tmp_path_factory.mktemp("page")
    (folder / "passwords.json").write_text(json.dumps(passwords))
    with fresh_postgres(postgres_server, template=name) as metadata, fresh_postgres(postgres_server) as details:
        database = fill_ledger(details, rows=5000, dag_id="commit")
        home = AirflowHome(None, template, folder / "home", {"billing": details})
        airflow = WholeAirflow(
            home,
            metadata,
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="False",
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS="ada:user,vera:viewer",
            AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE=str(folder / "passwords.json"),
            AIRFLOW__LIMIO_LIMITRAIL__LEDGERS=json.dumps(LEDGERS),
        )
        try:
            airflow.start("api-server")
            airflow.wait_for(lambda: answers(airflow), "the API server answers", seconds=180)
            yield airflow, database
        finally:
            airflow.stop()


def answers(airflow: WholeAirflow) -> bool:
    try:
        return requests.get(f"{airflow.url}/api/v2/version", timeout=10).ok
    except requests.RequestException:
        return False


def log_in(airflow: WholeAirflow, user: str, passwords: dict[str, str]) -> requests.Session:
    body = {"username": user, "password": passwords[user]}
    token = requests.post(f"{airflow.url}/auth/token", json=body, timeout=60).json()["access_token"]
    session = requests.Session()
    session.cookies.set("_token", token)
    return session


def test_users_see_and_settle_as_airflow_lets_them(server: tuple[WholeAirflow, Database], passwords: dict[str, str]) -> None:
    airflow, database = server
    page = f"{airflow.url}/limio-limitrail"
    for path in ("/", "/data/overview", "/data/ledger?name=Billing"):
        assert requests.get(page + path, timeout=60).status_code == 401
    assert requests.post(f"{page}/data/settle?name=Billing", json={}, headers=OWN, timeout=60).status_code == 401

    vera = log_in(airflow, "vera", passwords)
    assert "Usage" in vera.get(f"{page}/", timeout=60).text
    overview = vera.get(f"{page}/data/overview", timeout=60).json()
    assert [(one["name"], one["may_settle"], one["runs"]) for one in overview["ledgers"]] == [
        ("Billing", False, []),
        ("Broken", False, None),
    ]
    assert "entry 3: Object missing required field `dag_id`" in overview["problems"][0]
    found = vera.get(f"{page}/data/ledger?name=Billing", timeout=60).json()
    assert sum(one["rows"] for one in found["days"]["value"]) == 5000
    broken = vera.get(f"{page}/data/ledger?name=Broken", timeout=60)
    assert (broken.status_code, broken.json()["detail"]) == (502, "there is no connection 'nowhere' that the API server can see")

    [row, *_] = found["open"]["value"]["rows"]
    body = {"decisions": [{"key": row["key"], "version": row["version"], "decision": "give_up"}]}
    assert vera.post(f"{page}/data/settle?name=Billing", json=body, headers=OWN, timeout=60).status_code == 403
    ada = log_in(airflow, "ada", passwords)
    assert ada.post(f"{page}/data/settle?name=Billing", json=body, timeout=60).status_code == 403
    settled = ada.post(f"{page}/data/settle?name=Billing", json=body, headers=OWN, timeout=60)
    assert settled.json()["settled_as"] == {"give_up": 1}, settled.text
    assert database.query(f"SELECT state, settled_by FROM ledger WHERE idempotency_key = '{row['key']}'") == [("given_up", "ada")]


def test_airflows_own_pages_know_of_it(server: tuple[WholeAirflow, Database], passwords: dict[str, str]) -> None:
    airflow, _ = server
    ada = log_in(airflow, "ada", passwords)
    plugins = ada.get(f"{airflow.url}/ui/config", timeout=60)
    assert plugins.ok
    printed = airflow.printed("api-server")
    assert "already registered" not in printed
    assert "Failed to" not in printed
