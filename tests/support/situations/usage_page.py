# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The page *Usage*, with users who log in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import requests

from tests.support.airflow_whole import WholeAirflow
from tests.support.big_ledger import fill_ledger

OWN = {"X-Limitrail-Page": "1"}
LEDGERS = [
    {"conn_id": "billing", "dag_id": "commit", "task_id": "send", "ledger_table": "ledger", "name": "Billing"},
    {"conn_id": "nowhere", "dag_id": "commit", "name": "Broken"},
    {"conn_id": "billing"},
]

USERS = {"root": "admin", "ada": "user", "vera": "viewer"}
PASSWORDS = {user: f"{user}'s own" for user in USERS}


def settings(folder: Path) -> dict[str, str]:
    """Give what such an Airflow is started with."""
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps(PASSWORDS))
    return {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__LIMIO_LIMITRAIL__LEDGERS": json.dumps(LEDGERS),
    }


def log_in(airflow: WholeAirflow, user: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    airflow.log_in(user, PASSWORDS[user], session=session)
    return session


def check_usage_page(airflow: WholeAirflow, warehouse: dict[str, Any]) -> None:
    """:param warehouse: a Postgres database, as the fields of a connection."""
    database = fill_ledger(warehouse, rows=5000, dag_id="commit")
    airflow.add_connection("billing", json.dumps(warehouse))
    page = f"{airflow.url}/limio-limitrail"
    for path in ("/", "/data/overview", "/data/ledger?name=Billing"):
        assert requests.get(page + path, timeout=60).status_code == 401
    assert requests.post(f"{page}/data/settle?name=Billing", json={}, headers=OWN, timeout=60).status_code == 401

    vera = log_in(airflow, "vera")
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
    ada = log_in(airflow, "ada")
    assert ada.post(f"{page}/data/settle?name=Billing", json=body, timeout=60).status_code == 403
    settled = ada.post(f"{page}/data/settle?name=Billing", json=body, headers=OWN, timeout=60)
    assert settled.json()["settled_as"] == {"give_up": 1}, settled.text
    assert database.query(f"SELECT state, settled_by FROM ledger WHERE idempotency_key = '{row['key']}'") == [("given_up", "ada")]

    # Airflow's own pages know of it.
    assert ada.get(f"{airflow.url}/ui/config", timeout=60).ok
    printed = airflow.printed("api-server")
    assert "already registered" not in printed
    assert "Failed to" not in printed
