# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The LimitRail hook over a real socket: scopes, tokens, hosts, paths."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from airflow.sdk.execution_time.context import set_current_context

from limio_limitrail.api.errors import (
    ConnectionFieldError,
    CredentialsError,
    InvalidRequestError,
    NotFoundError,
    ParameterError,
    ProtocolError,
    ScopeError,
)
from limio_limitrail.api.resource import Resource
from limio_limitrail.emulator import Fault, LimitRailClient, LimitRailOptions
from limio_limitrail.hooks import clients as task_run
from limio_limitrail.hooks.limitrail import LimitRailHook

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = {"since": START, "until": START + timedelta(days=1)}
WRITE, READ, ACCOUNTS = "limitrail.usage.write", "limitrail.usage.read", "limitrail.accounts.read"


def api_requests(server):
    return [entry for entry in server.counters.log if entry["path"].startswith("/v1/")]


@pytest.fixture
def in_task():
    """Code that runs as one try of one task."""
    with set_current_context({"ti": SimpleNamespace(id=uuid4(), try_number=1)}):  # type: ignore[typeddict-item]
        yield
    task_run._current = (None, {}, {})


def test_records_frames_and_counts(hook, usage, limitrail_emulator):
    assert [row["id"] for row in hook.iter_records("usage", **DAY)] == [row["id"] for row in usage[:24]]
    assert hook.count("usage", **DAY) == 24
    assert len(hook.get_df("usage", slice_size=timedelta(hours=5), **DAY)) == 24
    assert len(api_requests(limitrail_emulator)) == 1 + 1 + 5
    assert limitrail_emulator.counters.tokens_minted == 1
    assert list(hook.iter_records("reservations", **DAY)) == []
    assert len(list(hook.iter_records("accounts"))) == len(limitrail_emulator.limitrail.accounts)


def test_pages_that_nobody_documented_are_an_error_and_no_short_list(hook, usage, limitrail_emulator):
    limitrail_emulator.configure_limitrail(page_size=24)
    assert hook.count("usage", **DAY) == 24
    limitrail_emulator.configure_limitrail(page_size=23)
    with pytest.raises(ProtocolError, match=r"'nextCursor' reports more than the 23 records.*paging=CursorString"):
        hook.count("usage", **DAY)


@pytest.mark.parametrize("bounds", [{}, {"since": START}, {"until": START}])
def test_a_missing_end_is_said_before_anything_is_sent(hook, limitrail_emulator, bounds):
    with pytest.raises(ParameterError, match=r"from and to: give since=\.\.\. and until="):
        list(hook.iter_records("usage", **bounds))
    assert limitrail_emulator.counters.requests == 0


def test_scopes_of_connection_and_hook_go_out_in_one_request(hook_of, usage, limitrail_emulator, in_task):
    bodies = []
    limitrail_emulator.on_request(lambda call: bodies.append(call.body) if call.path == "/connect/token" else None)
    hook = hook_of(limitrail_emulator, scope=f"{READ} {ACCOUNTS}", hook_scope=f"{WRITE} {READ}")
    assert hook.count("usage", **DAY) == 24
    assert hook.count("accounts") > 0
    assert bodies[0].endswith(f"scope={ACCOUNTS}+{READ}+{WRITE}".encode())
    assert len(bodies) == 1
    # The same set in another order, from other places: the same token and the same connection.
    same = LimitRailHook(scope=[WRITE])
    assert same.client is hook.client
    assert same.count("usage", **DAY) == 24
    assert len(bodies) == 1
    assert limitrail_emulator.counters.connections == 1
    # Fewer scopes: a token of their own.
    assert LimitRailHook().count("usage", **DAY) == 24
    assert len(bodies) == 2


def test_connections_that_differ_in_timeouts_share_a_token(hook_of, limitrail_emulator, in_task):
    for timeout in (5, 6):
        hook_of(limitrail_emulator, timeout=timeout).count("accounts")
    assert limitrail_emulator.counters.tokens_minted == 1


@pytest.fixture
def readers(limitrail_emulator_factory):
    """A server whose client may only read."""

    def make(**options):
        clients = (LimitRailClient("lr_reader", "reader-secret", "demo", (READ, ACCOUNTS)),)
        return limitrail_emulator_factory(limitrail=LimitRailOptions(clients=clients, **options))

    return make


def test_a_scope_that_is_not_granted_is_named_before_the_api_is_asked(readers, hook_of):
    server = readers()
    hook = hook_of(server, hook_scope=f"{WRITE} other.scope")
    with pytest.raises(ScopeError) as caught:
        hook.count("accounts")
    failure = caught.value.context
    assert failure.required_scope == f"{WRITE} other.scope"
    assert failure.granted_scopes == (ACCOUNTS, READ)
    assert WRITE in str(caught.value)
    assert caught.value.permanent
    assert api_requests(server) == []
    assert server.counters.requests == 1


def test_the_token_endpoint_may_refuse_scopes(readers, hook_of):
    server = readers(refuse_unknown_scopes=True)
    with pytest.raises(ScopeError, match=r"refuses the requested scopes.*limitrail\.usage\.write"):
        hook_of(server, hook_scope=WRITE).count("accounts")
    assert api_requests(server) == []
    assert server.counters.requests == 1


def test_a_token_answer_without_scopes_is_taken(readers, hook_of):
    server = readers(omit_scope=True)
    hook = hook_of(server, hook_scope=WRITE)
    assert hook.count("accounts") > 0
    with pytest.raises(ScopeError, match="did not say which scopes"):
        hook.request(path="/v1/usage/commit", method="POST", json={})
    assert hook.test_connection()[0] is True


def test_a_403_names_what_was_granted_and_is_not_tried_again(readers, hook_of, waits):
    server = readers()
    hook = hook_of(server)
    own = Resource(name="mine", path="/v1/usage/commit", scope=WRITE)
    server.faults.add(Fault("status", "/v1/usage/commit", status=403, times=None))
    with pytest.raises(ScopeError) as caught:
        list(hook.iter_records(own))
    assert caught.value.context.required_scope == WRITE
    assert caught.value.context.granted_scopes == (ACCOUNTS, READ)
    assert len(api_requests(server)) == 1
    assert server.counters.tokens_minted == 1
    assert waits == []


def test_the_token_endpoint_may_be_at_another_host(limitrail_emulator_factory, hook_of):
    server = limitrail_emulator_factory(limitrail=LimitRailOptions(separate_oauth=True))
    hook = hook_of(server)
    assert hook.settings.auth_url == f"{server.oauth_url}/connect/token"
    assert hook.count("accounts") > 0
    assert server.oauth_url != server.url
    without = hook_of(server, auth_url="")
    with pytest.raises(CredentialsError):
        without.count("accounts")


def test_a_refused_token_is_minted_again_once(hook, limitrail_emulator):
    assert hook.count("accounts") > 0
    limitrail_emulator.expire_tokens()
    assert hook.count("accounts") > 0
    assert limitrail_emulator.counters.tokens_minted == 2


def test_another_clients_tenant_sees_nothing_of_it(hook_of, usage, limitrail_emulator):
    assert hook_of(limitrail_emulator, client=1).count("usage", **DAY) == 0


def test_paths_of_the_connection_are_asked(hook_of, limitrail_emulator):
    hook = hook_of(limitrail_emulator, paths={"usage": "/v1/usage/reservations"})
    assert hook.count("usage", **DAY) == 0
    assert api_requests(limitrail_emulator)[-1]["path"] == "/v1/usage/reservations"
    with pytest.raises(NotFoundError):
        hook_of(limitrail_emulator, paths='{"usage": "/v9/usage"}').count("usage", **DAY)


def test_problem_details_are_told(hook, limitrail_emulator):
    with pytest.raises(InvalidRequestError) as caught:
        hook.request(path="/v1/usage", query_params={"to": "2026-03-01"})
    problem = caught.value.context.problem
    assert problem.field == "From"
    assert problem.error_code
    assert caught.value.trace_id
    assert caught.value.context.api == "LimitRail"


def test_the_session_stays_on_the_api(hook, limitrail_emulator, hook_of):
    session = hook.get_conn()
    assert hook.base_url == limitrail_emulator.url
    assert session.get(f"{hook.base_url}/v1/accounts").json()["items"]


def test_the_tenant_is_the_client_on_its_host_unless_it_is_named(hook_of, limitrail_emulator):
    assert hook_of(limitrail_emulator).tenant == f"lr_demo@{limitrail_emulator.url}"
    assert hook_of(limitrail_emulator, tenant="acme").tenant == "acme"


def test_testing_a_connection_mints_a_token_and_asks_nothing_else(hook, hook_of, readers, limitrail_emulator, monkeypatch):
    fine, said = hook.test_connection()
    assert fine
    assert f"granted the scopes {ACCOUNTS} {READ} {WRITE}" in said
    assert "No read endpoint" in said
    assert api_requests(limitrail_emulator) == []
    assert not [token for token in limitrail_emulator.limitrail.tokens if token in said]

    limitrail_emulator.faults.add(Fault("status", "/connect/token", status=400, body={"error": "body-of-the-error"}, times=1))
    fine, said = hook_of(limitrail_emulator).test_connection()
    assert not fine
    assert "No token could be had" in said
    assert "body-of-the-error" not in said
    assert "lr-demo-secret" not in said

    fine, said = hook_of(limitrail_emulator, scope="").test_connection()
    assert (fine, "LimitRail requires a scope" in said) == (False, True)
    fine, said = hook_of(readers(), scope=f"{READ} {WRITE}").test_connection()
    assert (fine, WRITE in said) == (False, True)


def test_without_scopes_nothing_is_sent(hook_of, limitrail_emulator):
    hook = hook_of(limitrail_emulator, scope=" ")
    with pytest.raises(ConnectionFieldError, match="LimitRail requires a scope"):
        hook.count("accounts")
    assert limitrail_emulator.counters.requests == 0


def test_secret_and_token_are_masked_before_they_are_used(hook_of, limitrail_emulator, monkeypatch):
    masked, unmasked = [], []
    monkeypatch.setattr("limio_limitrail.hooks.clients.mask_secret", masked.append)
    monkeypatch.setattr("airflow.sdk.log.mask_secret", masked.append)

    def look(call):
        if call.path == "/connect/token" and "lr-demo-secret" not in masked:
            unmasked.append("secret")
        token = call.headers.get("authorization", "").partition(" ")[2]
        if token and token not in masked:
            unmasked.append("token")

    limitrail_emulator.on_request(look)
    hook = hook_of(limitrail_emulator)
    assert hook.count("accounts") > 0
    limitrail_emulator.expire_tokens()
    assert hook.get_conn().get(f"{hook.base_url}/v1/accounts").status_code == 200
    assert unmasked == []
    assert [token for token in limitrail_emulator.limitrail.tokens if token not in masked] == []
