# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A task run has one client and one token a connection; another run, process or set of credentials has its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from uuid import uuid4

import pytest
from airflow.sdk.execution_time.context import set_current_context

from limio_limitrail.hooks import clients as task_run
from limio_limitrail.hooks.limio import LimioHook


@contextmanager
def running(identity: object = None, *, try_number: int = 1) -> Iterator[None]:
    instance = SimpleNamespace(id=identity or uuid4(), try_number=try_number)
    with set_current_context({"ti": instance}):  # type: ignore[typeddict-item]
        yield


@pytest.fixture(autouse=True)
def connect(monkeypatch, limio_emulator):
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", limio_emulator.airflow_connection_json(timeout=5))
    yield
    task_run._current = (None, {}, {})


def read(conn_id: str = "limio_default") -> LimioHook:
    hook = LimioHook(conn_id)
    hook.request(path="/objects/limio/orders", query_params={"limit": 1})
    return hook


def test_hooks_of_a_task_run_share_client_token_and_connection(limio_emulator):
    with running():
        first, second = read(), read()
        assert first.client is second.client
        assert first.get_conn() is second.get_conn()
        assert limio_emulator.counters.tokens_minted == 1
        assert limio_emulator.counters.connections == 1


def test_connections_with_the_same_credentials_share_a_token_and_no_timeouts(limio_emulator):
    with running():
        assert read().client is not read("other").client
        assert limio_emulator.counters.tokens_minted == 1


def test_two_tasks_of_one_process_share_nothing(limio_emulator):
    with running():
        first = read().client
    with running():
        second = read().client
    assert first is not second
    assert limio_emulator.counters.tokens_minted == 2


def test_two_tries_of_a_task_share_nothing(limio_emulator):
    identity = uuid4()
    for number in (1, 2):
        with running(identity, try_number=number):
            read()
    assert limio_emulator.counters.tokens_minted == 2


def test_a_task_within_a_task_does_not_get_its_token(limio_emulator):
    with running():
        read()
        with running():
            read()
        assert limio_emulator.counters.tokens_minted == 2


def test_outside_of_a_task_nothing_is_shared(limio_emulator):
    assert read().client is not read().client
    assert limio_emulator.counters.tokens_minted == 2
    assert task_run._current == (None, {}, {})


def test_a_context_without_a_task_counts_as_none(limio_emulator):
    with set_current_context({"dag": None}):  # type: ignore[typeddict-item]
        read()
        read()
    assert limio_emulator.counters.tokens_minted == 2


def test_changed_credentials_get_a_token_of_their_own(monkeypatch, limio_emulator):
    with running():
        read()
        limio_emulator.configure(client_secret="another-secret")
        limio_emulator.expire_tokens()
        monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
        read()
    assert limio_emulator.counters.by_status[401] == 0
    assert limio_emulator.counters.tokens_minted == 2


def test_a_forked_child_shares_nothing(limio_emulator):
    with running():
        hook = read()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs fails instead of making the parent hang
            try:
                empty = task_run._current == (None, {}, {})
                fresh = read().client is not hook.client
                hook.request(path="/objects/limio/orders", query_params={"limit": 1})
                os.write(writer, f"{empty} {fresh}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert pipe.read() == b"True True"
        os.waitpid(child, 0)
        read()
    # The parent's, the child's new hook's, and the one of the hook that the child inherited.
    assert limio_emulator.counters.tokens_minted == 3
    assert limio_emulator.counters.connections == 3


def test_secret_and_token_are_masked_before_they_are_used(monkeypatch, limio_emulator):
    masked: list[str] = []
    unmasked: list[str] = []
    monkeypatch.setattr("limio_limitrail.hooks.clients.mask_secret", masked.append)
    monkeypatch.setattr("airflow.sdk.log.mask_secret", masked.append)

    def look(call):
        if call.path == "/oauth2/token" and limio_emulator.client_secret not in masked:
            unmasked.append("secret")
        token = call.headers.get("authorization", "").partition(" ")[2]
        if token and token not in masked:
            unmasked.append("token")

    limio_emulator.on_request(look)
    read()
    limio_emulator.expire_tokens()
    read().get_conn().get(f"{limio_emulator.url}/api/offers")
    assert unmasked == []
    assert set(limio_emulator.minted_tokens) <= set(masked)


def test_airflow_hides_what_was_masked(monkeypatch, limio_emulator):
    from airflow.sdk._shared.secrets_masker import redact

    limio_emulator.configure(client_secret="a-secret-long-enough")
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
    read()
    (token,) = limio_emulator.minted_tokens
    assert redact(f"a-secret-long-enough and {token}") == "*** and ***"
