# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whatever LimitRail echoes: no error, log line, XCom or stored state holds a secret or a token."""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, quote_plus

import pytest

from limio_limitrail.emulator import Fault, LimitRailClient, LimitRailOptions, Reply
from tests.support.secrets_left import FORMS, holders

SECRET = "Opaque+Client/Secret=42"
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = {"since": START, "until": START + timedelta(days=1)}


@pytest.fixture
def server(limitrail_emulator_factory):
    return limitrail_emulator_factory(limitrail=LimitRailOptions(clients=(LimitRailClient("lr_demo", SECRET, "demo"),)))


def leaks(server, *texts):
    whole = "\n".join(texts).lower()
    forms = {SECRET, quote(SECRET, safe=""), quote_plus(SECRET), *server.limitrail.tokens}
    return [form for form in forms if form.lower() in whole]


class Watch:
    """Collects what a person or a file could get to see."""

    def __init__(self, caplog) -> None:
        self._caplog = caplog
        self.texts: list[str] = []
        self.errors = 0

    def catch(self, run) -> None:
        try:
            self.texts.append(repr(run()))
        except Exception as error:  # noqa: BLE001 - every error is looked at
            self.errors += 1
            self.texts += [str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))]
            self.texts.append(repr(pickle.dumps(error)))

    def leaks(self, server) -> list[str]:
        return leaks(server, *self.texts, self._caplog.text, *(repr(vars(record)) for record in self._caplog.records))


@pytest.fixture
def watch(caplog):
    caplog.set_level(logging.DEBUG)
    return Watch(caplog)


def everything(hook, watch) -> None:
    watch.catch(lambda: list(hook.iter_records("usage", **DAY)))
    watch.catch(lambda: list(hook.iter_records("usage", slice_size=timedelta(hours=6), **DAY)))
    watch.catch(lambda: hook.request(path="/v1/usage/commit", method="POST", json={"a": 1}).status)
    watch.catch(hook.test_connection)
    watch.texts += [repr(hook), repr(hook.settings), repr(hook.client), repr(vars(hook.client)), repr(vars(hook.client.auth))]
    watch.texts += [hook.tenant, repr(hook.scopes)]


def echoes(server):
    """Answers that give back what they were sent, in every place that a client reads."""

    def sent(call) -> str:
        return call.headers.get("authorization", "").removeprefix("Bearer ") or SECRET

    def body(call, status: int) -> Reply:
        said = f"you sent {sent(call)} and {call.body.decode()}"
        names = ("title", "detail", "errorCode", "resourceKey", "field", "traceId", "error", "error_description", sent(call))
        return Reply(status, json.dumps(dict.fromkeys(names, said)).encode())

    def token(**more):
        return lambda call: Reply(200, json.dumps({"access_token": "opaque-token-x", "token_type": "Bearer", **more}).encode())

    return {
        **{f"body {status}": (lambda call, status=status: body(call, status)) for status in (200, 400, 401, 403, 404, 429, 500)},
        "headers": lambda call: Reply(500, b"", {"x-request-id": sent(call), "retry-after": sent(call)}),
        "redirect": lambda call: Reply(302, b"", {"location": f"{server.url}/v1/echo?t={sent(call)}"}),
        "record": lambda call: Reply(200, json.dumps({"items": [sent(call)]}).encode()),
        "scope": token(scope=f"{SECRET} limitrail.usage.write opaque-token-x"),
        "invalid scope": lambda call: Reply(
            400, json.dumps({"error": "invalid_scope", "error_description": sent(call)}).encode()
        ),
    }


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", list(echoes(None)))
@pytest.mark.parametrize("where", ["/connect/token", "/v1/"])
def test_a_server_that_echoes_credentials(hook_of, server, watch, where, name):
    answer = echoes(server)[name]
    server.on_request(lambda call: answer(call) if call.path.startswith(where) else None)
    everything(hook_of(server), watch)
    assert watch.errors
    assert watch.leaks(server) == []
    assert "opaque-token-x" not in "".join(watch.texts)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("form", FORMS)
def test_scopes_that_repeat_a_credential(hook_of, server, watch, form):
    """A token response's scopes are shown in errors and by the Test button."""
    token = "opaque.Token-42/x"
    for said in (FORMS[form](SECRET), FORMS[form](token)):
        for scope in (f"limitrail.usage.write {said}", f"{said} else"):
            answer = json.dumps({"access_token": token, "scope": scope}).encode()
            remove = server.on_request(
                lambda call, answer=answer: Reply(200, answer) if call.path == "/connect/token" else Reply(403, b"{}")
            )
            everything(hook_of(server), watch)
            remove()
    assert watch.errors
    left = {str(number): text.encode() for number, text in enumerate(watch.texts)}
    assert holders(left, [SECRET, token]) == set()
    assert watch.leaks(server) == []


@pytest.mark.parametrize("kind", ["reset", "truncated", "bad_json", "html"])
@pytest.mark.parametrize("where", ["/connect/token", "/v1/"])
def test_faults_of_the_wire(hook_of, server, watch, where, kind):
    server.faults.add(Fault(kind, where, times=None))
    everything(hook_of(server), watch)
    assert watch.errors
    assert watch.leaks(server) == []


@pytest.mark.exhaustive
@pytest.mark.needs_state_store
def test_a_whole_dag_leaves_no_credential_behind(make_home, server, tmp_path):
    server.limitrail.add_usage([{"id": str(hour), "committedAt": START + timedelta(hours=hour)} for hour in range(24)])
    server.faults.add(Fault("status", "/v1/usage", status=401, times=1, after=2))
    home = make_home(server, name="watched")
    home.write_dag(
        f"""
        window = dict(since="2026-03-01", until="2026-03-02", slice_size=timedelta(hours=4))
        LimitRailToObjectStorageOperator(task_id="land", resource="usage", destination="file://{tmp_path}/out", **window)
        LimitRailToSqlOperator(
            task_id="load", resource="usage", sql_conn_id="duck", table="usage", incremental=True, outlets=[Asset("usage")],
            **window,
        )
        LimitRailToSqlOperator(task_id="lacks", resource="usage", sql_conn_id="duck", table="x", scope="no.such", **window)
        """
    )
    assert home.attempt("land", run_id="one", kill=["after state", 3]).code == -9
    stored = json.dumps(home.do("state_of", "pull", run_id="one").result)
    assert "slice.from" in stored
    assert home.attempt("land", run_id="one").task("land")["state"] == "success"
    done = home.run()
    assert [done.task(name)["state"] for name in ("land", "load", "lacks")] == ["success", "success", "failed"]
    assert len(server.limitrail.tokens) >= 4
    files = [path for path in (*home.path.rglob("*"), *(tmp_path / "out").rglob("*")) if path.is_file()]
    contents = [path.read_bytes().decode("latin-1") for path in files]
    assert leaks(server, stored, json.dumps(done.result), *contents) == []
