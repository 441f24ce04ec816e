# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whole runs against a server that echoes credentials in every form: nothing that stays behind holds one."""

from __future__ import annotations

import itertools
import json

import pytest

from limio_limitrail.emulator import Reply
from tests.support.secrets_left import FORMS, files_below, holders

SECRET = "q8Zt+Lw/92kd=Xx7?m#4vB&u"

TASKS = """
ways = dict(retries=2, retry_delay=timedelta(0))
load = dict(sql_conn_id="duck", **ways)
LimioToSqlOperator(task_id="cursor", resource="subscriptions", table="a", page_size=50, **load)
LimioToSqlOperator(task_id="names", resource="customers", table="b", **load)
LimioToObjectStorageOperator(task_id="details", resource="identities", detail=True, destination=f"file://{HERE}/out", **ways)
LimioToObjectStorageOperator(task_id="lines", resource="schedules", drop_columns=["scheduled"], format="jsonl",
                             destination=f"file://{HERE}/out", **ways)
LimioToSqlOperator(task_id="refused", resource="orders", table="c", **load)
LimioToSqlOperator(task_id="redirected", resource="events", table="d", **load)
LimioObjectSensor(task_id="status", path_type="process", object_id="p-1", **ways)
LimioResourceSensor(task_id="ids", resource="abandoned_baskets", since="2020-01-01", poke_interval=1, timeout=30, **ways)
LimioResourceSensor(task_id="time", resource="address", poke_interval=1, timeout=30, **ways)
"""

FAIL = ("cursor", "names", "details", "refused", "redirected", "ids")
PASS = ("lines", "status", "time")


@pytest.fixture
def echoing(limio_emulator):
    limio_emulator.configure(client_secret=SECRET)
    forms = itertools.cycle(FORMS.values())

    def answer(call):
        if not call.path.startswith("/api/"):
            return None
        said = next(forms)(call.headers["authorization"].removeprefix("Bearer "))
        if call.path.startswith("/api/echo"):
            return Reply(200, b'{"items":[]}')
        records = {
            "customers": [{"id": "c-1", f"key {said}": 1}],
            "identities": [{"id": f"i-{said}"}],
            "schedules": [{"id": "s-1", said: 1}],
            "abandoned": [{"id": said, "created": "2026-11-01T00:00:00Z"}],
            "address": [{"id": "a-1", "modified_at": f"2026{said}", "modified": said, "created_at": said}],
        }
        what = call.path.rpartition("/")[2]
        if what == "subscriptions":
            return Reply(200, json.dumps({"items": [{"id": "x"}], "queryMore": said}).encode())
        if what == "orders":
            return Reply(400, json.dumps(dict.fromkeys(("message", "errorCode", "type", "traceId"), said)).encode())
        if what == "events":
            return Reply(302, b"", {"location": f"{limio_emulator.url}/api/echo?{said.replace(chr(0), '').replace(chr(10), '')}"})
        if what == "p-1":
            return Reply(200, json.dumps({"id": "p-1", "status": said}).encode())
        return Reply(200, json.dumps({"items": records[what]}).encode())

    limio_emulator.on_request(answer)
    return limio_emulator


def test_nothing_that_stays_behind_holds_a_credential(make_home, echoing, tmp_path):
    home = make_home(echoing)
    home.write_dag(TASKS.replace("{HERE}", str(tmp_path)).replace('f"file', '"file'))
    done = home.run()
    assert {name: done.task(name)["state"] for name in FAIL} == dict.fromkeys(FAIL, "failed")
    assert {name: done.task(name)["state"] for name in PASS} == dict.fromkeys(PASS, "success")
    output = home.output()
    for told in ("its cursor repeats a credential", "a key of its records repeats a credential", "the 'id' of a record repeats"):
        assert told in output
    assert "the key of a record repeats a credential" in output
    assert "a redirect that repeats a credential" in output
    # What is pulled is data, and the lines are all that was: an API's records are not rewritten.
    searched = {name: text for name, text in files_below(tmp_path).items() if "/out/" not in name or "manifest" in name}
    assert {"output.log", "airflow.db", "warehouse.duckdb"} <= {path.rpartition("/")[2] for path in searched} | {
        "warehouse.duckdb"
    }
    searched["xcom"] = json.dumps(done.result).encode()
    secrets = {SECRET, *echoing.minted_tokens}
    assert len(secrets) > len(FAIL)
    assert holders(searched, secrets) == set()
