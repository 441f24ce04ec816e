# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The page's requests: who is answered, with what, and what a warehouse in trouble does to them."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from types import SimpleNamespace

import pytest
from airflow.api_fastapi.core_api import security
from airflow.configuration import conf
from fastapi.testclient import TestClient
from jwt import InvalidTokenError
from starlette.applications import Starlette

from limio_limitrail.plugins.usage_page import app as app_module
from limio_limitrail.plugins.usage_page import databases as databases_module
from limio_limitrail.plugins.usage_page.app import create_app
from limio_limitrail.plugins.usage_page.settings import read_settings
from limio_limitrail.usage.ledger.model import Outcome
from limio_limitrail.usage.ledger.states import State
from tests.support.databases import make_database
from tests.support.ledgers import PARK, FailingDatabase, make_ledger, make_rows, make_worker
from tests.support.settlements import columns, states

ROWS = make_rows(4)
OWN = {"X-Limitrail-Page": "1"}
PATHS = ("/", "/data/overview", "/data/ledger?name=ledger", "/data/settle?name=ledger", "/nothing", "/openapi.json", "/docs")

RIGHTS = {
    "ada": {"GET": {"usage", "other"}, "PUT": {"usage", "other"}},
    "eve": {"GET": {"usage"}, "PUT": {"usage"}},
    "vera": {"GET": {"usage"}, "PUT": set()},
    "otto": {"GET": {"another"}, "PUT": {"another"}},
}


class AuthManager:
    """Users by their tokens, with rights by Dag."""

    async def get_user_from_token(self, token):
        if token not in RIGHTS:
            raise InvalidTokenError
        return SimpleNamespace(get_name=lambda: token, get_id=lambda: token)

    def is_authorized_dag(self, *, method, user, access_entity=None, details=None):
        return details.id in RIGHTS[user.get_name()][method]


@pytest.fixture
def warehouse(tmp_path, monkeypatch):
    """A ledger with one row committed, one parked of each of two Dags, and one rejected."""
    database = make_database("sqlite", folder=tmp_path)
    held = FailingDatabase(database.hook())
    ledger = make_ledger(held, make_worker())
    ledger.prepare()
    ledger.claim(ROWS, policy=PARK)
    found = [State.COMMITTED, State.PARKED, State.PARKED, State.REJECTED]
    ledger.record({row.key: Outcome(state=state, http_status=400) for row, state in zip(ROWS, found, strict=True)})
    held.close()
    database.execute(f"UPDATE ledger SET dag_id = 'other' WHERE idempotency_key = '{ROWS[2].key}'")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(database.connection))
    return database


@pytest.fixture
def client_of(monkeypatch):
    """A maker of clients of the page, as Airflow mounts it."""
    monkeypatch.setattr(security, "get_auth_manager", AuthManager)
    monkeypatch.setattr(security.DagModel, "get_team_name", lambda *_args, **_more: None)
    clients = []

    def make(ledgers=None, pulls=None, *, user=None):
        default = [{"conn_id": "warehouse", "dag_id": "usage", "ledger_table": "ledger", "changes_table": "changes"}]
        ledgers = default if ledgers is None else ledgers
        for option, value in (("LEDGERS", ledgers), ("PULLS", pulls or "")):
            monkeypatch.setenv(f"AIRFLOW__LIMIO_LIMITRAIL__{option}", value if isinstance(value, str) else json.dumps(value))
        outer = Starlette()
        outer.mount("/limio-limitrail", create_app())
        client = TestClient(outer, base_url="http://airflow/limio-limitrail")
        client.__enter__()
        clients.append(client)
        if user:
            client.cookies.set("_token", user)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def settle(client, *rows, word="committed", headers=OWN, found=None, note=""):
    found = found or {row["key"]: row for row in client.get("data/ledger?name=ledger").json()["open"]["value"]["rows"]}
    decisions = [{"key": row.key, "version": found[row.key]["version"], "decision": word} for row in rows]
    return client.post("data/settle?name=ledger", json={"decisions": decisions, "note": note}, headers=headers)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD"])
def test_nobody_is_answered_without_a_user(warehouse, client_of, method):
    client = client_of()
    for path in PATHS:
        answer = client.request(method, path.lstrip("/"), headers=OWN)
        assert answer.status_code in (401, 404, 405), path
        assert answer.text in (
            "",
            *(f'{{"detail":"{word}"}}' for word in ("Not authenticated", "Not Found", "Method Not Allowed")),
        )
    assert client.get("data/overview").status_code == 401
    assert client.get("").status_code == 401
    assert client.post("data/settle?name=ledger", json={}, headers=OWN).status_code == 401
    client.cookies.set("_token", "somebody")
    assert client.get("data/ledger?name=ledger").status_code == 403


def test_every_route_asks_for_a_user(client_of):
    client_of([])
    routes = [route for route in create_app().routes if hasattr(route, "dependant")]
    assert len(routes) == 4
    for route in routes:
        assert security.get_user in {one.call for one in route.dependant.dependencies}


def test_who_reads_the_dag_sees_its_ledger(warehouse, client_of):
    client = client_of(user="vera")
    [ledger] = client.get("data/overview").json()["ledgers"]
    assert (ledger["name"], ledger["may_settle"]) == ("ledger", False)
    found = client.get("data/ledger?name=ledger").json()
    counts = {one["state"]: one["rows"] for one in found["days"]["value"]}
    assert counts == {"committed": 1, "parked": 2, "rejected": 1}
    assert found["ages"]["value"]["rows"] == [2, 0, 0, 0, 0]
    assert {row["row_key"] for row in found["open"]["value"]["rows"]} == {row.row_key for row in ROWS[1:]}
    assert client_of(user="ada").get("data/overview").json()["ledgers"][0]["may_settle"] is True


def test_a_ledger_that_a_user_may_not_see_does_not_exist(warehouse, client_of):
    client = client_of(user="otto")
    assert client.get("data/overview").json()["ledgers"] == []
    hidden, unknown = client.get("data/ledger?name=ledger"), client.get("data/ledger?name=nothing")
    assert (hidden.status_code, hidden.text) == (unknown.status_code, unknown.text) == (404, unknown.text)


def test_who_edits_the_dag_settles(warehouse, client_of):
    answer = settle(client_of(user="eve"), ROWS[1], note="seen in the console")
    assert answer.json()["settled_as"] == {"committed": 1}, answer.text
    [by, settlement] = columns(warehouse, "settled_by", "settlement")[ROWS[1].key]
    assert by == "eve"
    assert json.loads(settlement)["note"] == "seen in the console"


@pytest.mark.parametrize("user", ["vera", "otto"])
def test_others_do_not_settle(warehouse, client_of, user):
    found = {row["key"]: row for row in client_of(user="ada").get("data/ledger?name=ledger").json()["open"]["value"]["rows"]}
    before = states(warehouse)
    assert settle(client_of(user=user), ROWS[1], found=found).status_code in (403, 404)
    assert states(warehouse) == before


def test_rows_of_a_dag_that_one_may_not_edit_stay(warehouse, client_of):
    before = states(warehouse)
    answer = settle(client_of(user="eve"), ROWS[1], ROWS[2])
    assert answer.status_code == 502
    assert "may not edit 'other'" in answer.json()["detail"]
    assert states(warehouse) == before
    assert settle(client_of(user="ada"), ROWS[1], ROWS[2]).json()["settled"] == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({**OWN, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**OWN, "Sec-Fetch-Site": "same-site"}, 403),
        ({**OWN, "Content-Type": "text/plain"}, 415),
        ({**OWN, "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_no_other_site_settles_in_a_users_name(warehouse, client_of, headers, status):
    before = states(warehouse)
    assert settle(client_of(user="ada"), ROWS[1], headers=headers).status_code == status
    assert (states(warehouse) == before) is (status != 200)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'{"decisions": []}', b'{"decisions": [{"key": "k", "decision": "committed"}]}',
        b'{"decisions": [{"key": "k", "version": "v", "decision": "perhaps"}]}',
        b'{"decisions": [{"key": "k", "version": "v", "decision": "send"}], "by": "somebody else"}',
        b'{"decisions": ' + b"[" * 100_000,
        b'{"decisions": [' + b",".join([b'{"key": "k", "version": "v", "decision": "send"}'] * 501) + b"]}",
    ],
)  # fmt: skip
def test_what_is_no_decision_settles_nothing(warehouse, client_of, body):
    before = states(warehouse)
    headers = {**OWN, "Content-Type": "application/json"}
    assert client_of(user="ada").post("data/settle?name=ledger", content=body, headers=headers).status_code == 422
    assert states(warehouse) == before


def test_the_second_of_two_learns_that_the_row_is_settled(warehouse, client_of):
    client = client_of(user="ada")
    found = {row["key"]: row for row in client.get("data/ledger?name=ledger").json()["open"]["value"]["rows"]}
    assert settle(client, ROWS[1], found=found).json()["settled"] == 1
    again = settle(client_of(user="eve"), ROWS[1], word="send", found=found).json()
    assert (again["settled"], again["contradicted"]) == (0, 1)
    assert "settled by ada" in " ".join(again["lines"])
    assert settle(client, ROWS[1], found=found).json()["already"] == 1


def test_what_was_settled_is_seen_at_once(warehouse, client_of):
    client = client_of(user="ada")
    settle(client, ROWS[1])
    keys = {row["key"] for row in client.get("data/ledger?name=ledger").json()["open"]["value"]["rows"]}
    assert ROWS[1].key not in keys


@pytest.mark.parametrize(
    ("conn", "message"),
    [
        (None, "there is no connection 'broken'"),
        (
            {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "login": "ada", "password": "hush-hush"},
            "connection 'broken'",
        ),
        ({"conn_type": "http", "host": "h", "password": "hush-hush"}, "broken"),
        ({"conn_type": "snowflake", "host": "h", "password": "hush-hush"}, "broken"),
        ({"conn_type": "duckdb", "host": "/nowhere/warehouse.duckdb"}, "does not exist"),
        ("postgres://ada:hush-hush@[nowhere", "broken"),
    ],
)
def test_a_connection_that_does_not_work_is_a_message(warehouse, client_of, monkeypatch, caplog, conn, message):
    if conn is not None:
        monkeypatch.setenv("AIRFLOW_CONN_BROKEN", conn if isinstance(conn, str) else json.dumps(conn))
    ledgers = [{"conn_id": "broken", "dag_id": "usage", "name": "broken"}, {"conn_id": "warehouse", "dag_id": "usage"}]
    client = client_of(ledgers, user="ada")
    answer = client.get("data/ledger?name=broken")
    assert answer.status_code == 502
    assert message in answer.json()["detail"]
    assert "hush" not in answer.text + caplog.text
    # The other one has no table of this name; it, too, is a message.
    other = client.get("data/ledger?name=limitrail_usage_ledger")
    assert "there is no table limitrail_usage_ledger" in other.json()["detail"]
    assert warehouse.query("SELECT name FROM sqlite_master WHERE name LIKE 'limitrail%'") == []


@pytest.mark.parametrize(
    ("ledgers", "problem"),
    [
        ("{", "[limio_limitrail] ledgers is not a JSON list of objects"),
        ('{"conn_id": "warehouse"}', "is not a JSON list"),
        ([{"conn_id": "warehouse"}], "entry 1: Object missing required field `dag_id`"),
        ([{"conn_id": "warehouse", "dag_id": "usage", "table": "ledger"}], "entry 1: Object contains unknown field `table`"),
        (
            [{"conn_id": "w", "dag_id": "usage"}, {"conn_id": "v", "dag_id": "usage"}],
            "entry 2: there is another one with the name",
        ),
        (["warehouse"], "entry 1: Expected `object`"),
    ],
)
def test_a_wrong_configuration_is_said_on_the_page(client_of, ledgers, problem):
    client = client_of(ledgers, '[{"dag_id": "usage", "task_id": "t", "fresh_within": "soon"}]', user="ada")
    first, last = (found := client.get("data/overview").json()["problems"])[0], found[-1]
    assert problem in first
    assert "[limio_limitrail] pulls, entry 1: fresh_within must be a span of time" in last


def test_a_database_that_does_not_answer_takes_nothing_from_others(warehouse, client_of, monkeypatch):
    is_over, reads = threading.Event(), []

    def hang(ledger):
        reads.append(ledger.title)
        is_over.wait(60)
        return {"read": len(reads)}

    monkeypatch.setattr(app_module, "READ_WAIT", 0.2)
    monkeypatch.setattr(app_module, "read_ledger", lambda ledger: hang(ledger) if ledger.title == "slow" else {})
    entry = {"conn_id": "warehouse", "dag_id": "usage"}
    client = client_of([{**entry, "name": "slow"}, {**entry, "name": "quick"}], user="ada")
    # More than a server has threads.
    for _ in range(3):
        assert client.get("data/ledger?name=slow").status_code == 504
    assert reads == ["slow"]
    assert client.get("data/ledger?name=quick").status_code == 200
    is_over.set()
    monkeypatch.setattr(app_module, "READ_WAIT", 60)
    assert client.get("data/ledger?name=slow").json() == {"read": 1}


def test_a_connection_that_hangs_for_ever_is_opened_anew(warehouse, client_of, monkeypatch):
    """No driver ends a wait for a network that is silent; when it is back, the page must be, too."""
    is_over, reads = threading.Event(), []

    def hang(ledger):
        reads.append(ledger.title)
        if len(reads) < 3:
            is_over.wait(60)
        return {"read": len(reads)}

    monkeypatch.setattr(app_module, "READ_WAIT", 0.1)
    monkeypatch.setattr(databases_module, "GIVE_UP", 0.0)
    monkeypatch.setattr(databases_module, "MAX_LOST", 2)
    monkeypatch.setattr(app_module, "read_ledger", hang)
    client = client_of(user="ada")
    statuses = [client.get("data/ledger?name=ledger").status_code for _ in range(2)]
    assert statuses == [504, 504]
    monkeypatch.setattr(app_module, "READ_WAIT", 60)
    assert client.get("data/ledger?name=ledger").json() == {"read": 3}
    is_over.set()


def test_threads_that_hang_do_not_pile_up(warehouse, client_of, monkeypatch):
    is_over, reads = threading.Event(), []

    def hang(ledger):
        reads.append(ledger.title)
        is_over.wait(60)

    monkeypatch.setattr(app_module, "READ_WAIT", 0.05)
    monkeypatch.setattr(databases_module, "GIVE_UP", 0.0)
    monkeypatch.setattr(databases_module, "MAX_LOST", 2)
    monkeypatch.setattr(app_module, "read_ledger", hang)
    client = client_of(user="ada")
    for _ in range(6):
        assert client.get("data/ledger?name=ledger").status_code == 504
    assert len(reads) == 3
    is_over.set()


def test_a_settlement_that_hangs_keeps_nobody_from_theirs_for_ever(warehouse, client_of, monkeypatch):
    is_over = threading.Event()
    found = {row["key"]: row for row in client_of(user="ada").get("data/ledger?name=ledger").json()["open"]["value"]["rows"]}
    settle_rows = app_module._settle
    monkeypatch.setattr(app_module, "SETTLE_WAIT", 0.1)
    monkeypatch.setattr(app_module, "_settle", lambda *_args, **_more: is_over.wait(60))
    client = client_of(user="ada")
    assert settle(client, ROWS[1], found=found).status_code == 504
    assert settle(client, ROWS[1], found=found).status_code == 409
    monkeypatch.setattr(databases_module, "GIVE_UP", 0.0)
    assert settle(client, ROWS[1], found=found).status_code == 409, "the first one has a time of its own"
    monkeypatch.setattr(databases_module.time, "monotonic", lambda real=time.monotonic: real() + 3600)
    monkeypatch.setattr(app_module, "SETTLE_WAIT", 60)
    monkeypatch.setattr(app_module, "_settle", settle_rows)
    assert settle(client, ROWS[1], found=found).json()["settled"] == 1
    is_over.set()


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD"])
def test_only_a_post_settles(warehouse, client_of, method):
    before = states(warehouse)
    client = client_of(user="ada")
    for path in ("data/settle?name=ledger", "data/overview", "data/ledger?name=ledger", ""):
        answer = client.request(method, path, headers=OWN)
        assert answer.status_code == (200 if method == "GET" and "settle" not in path else 405), path
    assert states(warehouse) == before


EVIL = [
    "<script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "</td></table><iframe src=javascript:alert(1)>",
    "{{ constructor.constructor('alert(1)')() }}",
    "a\u202egnp.exe\u2066\u2028\x07",
]


@pytest.mark.parametrize("words", EVIL)
def test_what_others_wrote_is_data(warehouse, client_of, words):
    """It is JSON, which no browser takes for a page; the page makes text of it (tests/ui)."""
    with warehouse.session() as connection:
        changed = ("detail", "row_key", "run_id", "task_id", "operation")
        settings = ", ".join(f"{name} = ?" for name in changed)
        connection.execute(f"UPDATE ledger SET {settings} WHERE idempotency_key = ?", [*[words] * len(changed), ROWS[1].key])
    answer = client_of(user="vera").get("data/ledger?name=ledger")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    [row] = [row for row in answer.json()["open"]["value"]["rows"] if row["key"] == ROWS[1].key]
    assert (row["row_key"], row["run_id"], row["operation"]) == (words, words, words)


BROKEN = {
    "another table": ["DROP TABLE ledger", "CREATE TABLE ledger (id TEXT PRIMARY KEY, hidden TEXT)"],
    "a view": ["ALTER TABLE ledger RENAME TO kept", "CREATE VIEW ledger AS SELECT * FROM kept"],
    "an earlier version": ["ALTER TABLE ledger DROP COLUMN settled_by"],
    "nothing": ["DROP TABLE ledger"],
    "a column of another name": ["ALTER TABLE ledger RENAME COLUMN state TO status"],
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_table_that_is_no_ledger_is_a_message(warehouse, client_of, what):
    warehouse.execute(*BROKEN[what])
    before = warehouse.query("SELECT sql FROM sqlite_master ORDER BY name")
    client = client_of(user="ada")
    answer = client.get("data/ledger?name=ledger")
    assert answer.status_code == 502
    assert "ledger" in answer.json()["detail"]
    body = {"decisions": [{"key": ROWS[1].key, "version": "v", "decision": "committed"}]}
    assert client.post("data/settle?name=ledger", json=body, headers=OWN).status_code == 502
    # Neither made nor mended by somebody who looks.
    assert warehouse.query("SELECT sql FROM sqlite_master ORDER BY name") == before


def test_rows_of_an_older_format_are_counted_and_not_settled(warehouse, client_of):
    warehouse.execute("UPDATE ledger SET ledger_format = 1")
    before = states(warehouse)
    client = client_of(user="ada")
    found = client.get("data/ledger?name=ledger").json()
    assert sum(one["rows"] for one in found["days"]["value"]) == len(ROWS)
    assert len(found["open"]["value"]["rows"]) == 3
    answer = settle(client, ROWS[1])
    assert answer.status_code == 502
    assert "format" in answer.json()["detail"]
    assert states(warehouse) == before


@pytest.mark.parametrize("table", ["a.b.c.d", "ledger; DROP TABLE ledger", '"', "", "main.nothing"])
def test_a_name_that_is_none_is_a_message(warehouse, client_of, table):
    before = states(warehouse)
    client = client_of([{"conn_id": "warehouse", "dag_id": "usage", "ledger_table": table, "name": "x"}], user="ada")
    assert client.get("data/ledger?name=x").status_code == 502
    assert states(warehouse) == before


@pytest.mark.parametrize(
    "ledgers",
    [
        "[" * 100_000,
        "[1e999]",
        "\ufeff[]",
        '[{"conn_id": 5, "dag_id": null}]',
        '[{"conn_id": "w", "dag_id": "usage"},]',
        "{{ var.value.ledgers }}",
    ],
)
def test_no_configuration_breaks_the_page(client_of, ledgers, monkeypatch):
    monkeypatch.setattr(app_module, "_runs", lambda **_more: [])
    client = client_of(ledgers, [{"dag_id": "usage", "task_id": "t", "fresh_within": "P1D"}], user="vera")
    found = client.get("data/overview").json()
    assert len(found["problems"]) == 1
    assert found["problems"][0].startswith("[limio_limitrail] ledgers")
    assert [pull["name"] for pull in found["pulls"]] == ["usage.t"]


def test_a_locked_ledger_is_a_message(warehouse, client_of, monkeypatch):
    found = {row["key"]: row for row in client_of(user="ada").get("data/ledger?name=ledger").json()["open"]["value"]["rows"]}
    monkeypatch.setattr(app_module, "SETTLE_WAIT", 0.5)
    client = client_of(user="ada")
    other = sqlite3.connect(warehouse.connection["host"], isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    answer = settle(client, ROWS[1], found=found)
    assert answer.status_code == 504
    assert "look again" in answer.json()["detail"]
    other.execute("COMMIT")
    other.close()
    # It goes on when the lock is gone.
    end = time.monotonic() + 60
    while states(warehouse)[ROWS[1].key] != "committed" and time.monotonic() < end:
        time.sleep(0.1)
    assert states(warehouse)[ROWS[1].key] == "committed"


def test_an_unexpected_error_shows_nothing_of_its_text(warehouse, client_of, monkeypatch, caplog):
    def fail(*_args, **_more):
        raise RuntimeError("postgres://ada:hush-hush@db")

    monkeypatch.setattr(databases_module, "_find", fail)
    answer = client_of(user="ada").get("data/ledger?name=ledger")
    assert answer.status_code == 502
    assert "RuntimeError" in answer.text
    assert "hush" not in answer.text + caplog.text


def test_the_page_runs_nothing_but_its_own_script(warehouse, client_of):
    page = client_of(user="vera").get("")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2
    assert "frame-ancestors 'self'" in policy
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "http://",
        "https://",
        " style=",
        "onclick",
    ):
        assert way not in page.text.replace("http://www.w3.org/2000/svg", ""), way


def test_an_option_that_airflow_cannot_read_is_a_message(client_of, monkeypatch, tmp_path):
    client = client_of(user="ada")
    monkeypatch.delenv("AIRFLOW__LIMIO_LIMITRAIL__LEDGERS")
    monkeypatch.setattr(conf, "get", lambda *_args, **_more: (_ for _ in ()).throw(ValueError("hush-hush")))
    assert read_settings().problems == [
        "[limio_limitrail] ledgers cannot be read (ValueError)",
        "[limio_limitrail] pulls cannot be read (ValueError)",
    ]
    assert client.get("data/overview").status_code == 200


@pytest.mark.exhaustive
def test_two_settlements_do_not_pile_up(warehouse, client_of, monkeypatch):
    is_over = threading.Event()
    found = {row["key"]: row for row in client_of(user="ada").get("data/ledger?name=ledger").json()["open"]["value"]["rows"]}
    monkeypatch.setattr(app_module, "SETTLE_WAIT", 0.2)
    monkeypatch.setattr(app_module, "_settle", lambda *_args, **_more: is_over.wait(60))
    client = client_of(user="ada")
    assert settle(client, ROWS[1], found=found).status_code == 504
    assert settle(client, ROWS[1], found=found).status_code == 409
    is_over.set()
    monkeypatch.setattr(app_module, "SETTLE_WAIT", 60)
    monkeypatch.setattr(app_module, "_settle", lambda *_args, **_more: {"settled": 1})
    end = time.monotonic() + 60
    while (status := settle(client, ROWS[1], found=found).status_code) == 409 and time.monotonic() < end:
        time.sleep(0.05)
    assert status == 200
