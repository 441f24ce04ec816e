# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail over HTTP control, on the command line, in the fixtures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import requests

import limio_limitrail.emulator as package
from limio_limitrail.emulator import LimitRailClient

ROOT = Path(package.__file__).parents[2]


@pytest.fixture
def control(limitrail_emulator):
    def call(method, path, **more):
        return requests.request(method, f"{limitrail_emulator.url}/_emulator/{path}", timeout=300, **more)

    return call


def test_journal(rail, connect_rail, control):
    sent = rail.commit(key="k").request.body
    connect_rail(rail.server, 1).commit()
    first, second = control("GET", "journal").json()["journal"]
    entry = rail.server.limitrail.journal[0]
    assert first == {
        "number": 1,
        "tenant": "demo",
        "operation": "commit",
        "key": "k",
        "body": sent.decode(),
        "decision": "ALLOWED",
        "usage_id": entry.usage_id,
        "reservation_id": None,
        "at": entry.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    assert second["tenant"] == "other"
    assert [one["number"] for one in control("GET", "journal?tenant=other").json()["journal"]] == [2]
    assert control("DELETE", "journal").json() == {"journal": []}
    assert rail.server.limitrail.journal == []


def test_accounts_and_usage(rail, connect_rail, control):
    assert control("POST", "limitrail", json={"accounts": ["mine"]}).json()["tenant"] == "demo"
    assert rail.commit(externalAccount="mine").status_code == 200
    control("POST", "limitrail", json={"accounts": ["theirs"], "tenant": "other"})
    assert rail.commit(externalAccount="theirs").status_code == 404
    assert connect_rail(rail.server, 1).commit(externalAccount="theirs").status_code == 200
    body = b'{"usage":[{"id":"u","committedAt":"2026-01-01T00:00:00Z","amount":1.50}]}'
    assert control("POST", "limitrail", data=body).json()["usage"] == ["u"]
    text = rail.get("v1/usage", **{"from": "2026-01-01", "to": "2026-01-02"}).text
    assert '"id":"u"' in text
    assert '"amount":1.50,' in text
    rail.post("v1/usage/preview", rail.usage())
    state = control("GET", "limitrail").json()
    assert state["previews"] == 1
    assert state["accounts"] == len(rail.server.limitrail.accounts)


def test_options(rail, control):
    changes = {"deny_above": "5.5", "warn_above": 2.5, "operations": ["X"], "fee_operations": ["X"], "max_window_seconds": 60,
               "idempotency": "off", "page_size": 3, "token_seconds": 100.5}  # fmt: skip
    shown = control("POST", "limitrail", json={"options": changes}).json()["options"]
    options = rail.server.limitrail.options
    assert (options.deny_above, options.warn_above) == (Decimal("5.5"), Decimal("2.5"))
    assert (options.operations, options.fee_operations) == (("X",), frozenset({"X"}))
    assert (options.idempotency, options.page_size, options.token_seconds) == ("off", 3, 100.5)
    assert {name: shown[name] for name in changes} == {**changes, "warn_above": "2.5"}
    assert rail.commit(operation="X", amount=6).json()["decision"] == "DENIED_BY_POLICY"
    assert "lr-demo-secret" not in str(shown)
    assert shown["clients"][0]["client_id"] == "lr_demo"
    client = {"client_id": "n", "client_secret": "m", "tenant": "t"}
    control("POST", "limitrail", json={"options": {"clients": [client], "operations": None}})
    assert rail.server.limitrail.options.clients == (LimitRailClient("n", "m", "t"),)
    assert rail.server.limitrail.accounts == []


@pytest.mark.parametrize(
    "body",
    [{"account": []}, {"options": {"nothing": 1}}, {"options": {"idempotency": "x"}}, {"options": {"separate_oauth": True}},
     {"usage": [{"id": "u"}]}, {"options": {"deny_above": "much"}}, {"options": {"clients": [{"id": 1}]}}],
)  # fmt: skip
def test_what_is_asked_wrongly(control, body):
    answer = control("POST", "limitrail", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_tokens_and_expire(rail, control):
    assert control("GET", "tokens").json() == {"tokens": [], "limitrail": rail.server.limitrail.tokens}
    assert len(rail.server.limitrail.tokens) == 1
    control("POST", "expire/cursors")
    assert rail.get("v1/accounts").status_code == 200
    control("POST", "expire/tokens")
    assert rail.get("v1/accounts").status_code == 401


def test_faults_over_http(rail, control):
    fault = {"kind": "status", "match": "/v1/", "share": 1.0, "seed": 3}
    assert control("POST", "faults", json=fault).status_code == 201
    assert rail.commit().status_code == 503
    assert control("POST", "faults", json={**fault, "share": 2}).status_code == 400


def test_hooks_see_it(rail):
    seen = []
    rail.server.on_request(lambda call: seen.append(call.path))
    rail.commit()
    assert seen == ["/v1/usage/commit"]


def test_command():
    command = [sys.executable, "-m", "limio_limitrail.emulator", "--port", "0", "--subscriptions", "20",
               "--limitrail-client-id", "me", "--limitrail-client-secret", "mine", "--limitrail-deny-above", "9.5"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        match = re.fullmatch(r"Limio emulator listening on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline())
        url = match[1]
        form = {"grant_type": "client_credentials", "client_id": "me", "client_secret": "mine"}
        scope = "limitrail.usage.write limitrail.accounts.read"
        token = requests.post(f"{url}/connect/token", data={**form, "scope": scope}, timeout=120).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        account = requests.get(f"{url}/v1/accounts", headers=headers, timeout=120).json()["items"][0]["externalAccount"]
        decisions = []
        for amount in ("9.5", "9.51"):
            body = {"externalAccount": account, "operation": "TRANSFER", "amount": amount}
            answer = requests.post(f"{url}/v1/usage/commit", json=body, headers=headers, timeout=120)
            decisions.append(answer.json()["decision"])
        assert decisions == ["ALLOWED", "DENIED_BY_POLICY"]
    finally:
        process.terminate()
        process.communicate(timeout=120)


@pytest.mark.exhaustive
def test_fixtures_as_a_plugin(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["limio_limitrail.emulator.pytest_plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        "import requests\n"
        "from limio_limitrail.emulator import LimitRailOptions\n"
        "def test_one(limitrail_emulator, limio_emulator):\n"
        "    assert limitrail_emulator is limio_emulator\n"
        "    assert requests.get(limitrail_emulator.url + '/v1/accounts', timeout=120).status_code == 401\n"
        "def test_two(limitrail_emulator_factory):\n"
        "    server = limitrail_emulator_factory(limitrail=LimitRailOptions(page_size=2), seed=3)\n"
        "    assert server.limitrail.options.page_size == 2 and server.options.seed == 3\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert "2 passed" in done.stdout, done.stdout
