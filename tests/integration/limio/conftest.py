# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A hook whose connection leads to the emulator, and that does not really wait."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from limio_limitrail.api.auth import mint
from limio_limitrail.api.client import ApiClient
from limio_limitrail.emulator import EmulatorServer
from limio_limitrail.hooks import clients
from limio_limitrail.hooks.limio import LimioHook


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long the hook would have waited, one entry a wait."""
    waited: list[float] = []
    monkeypatch.setattr(clients, "ApiClient", partial(ApiClient, sleep=waited.append))
    monkeypatch.setattr(clients, "mint", partial(mint, sleep=waited.append))
    return waited


@pytest.fixture
def hook_of(monkeypatch, waits) -> Callable[..., LimioHook]:
    """Make hooks, each with a connection of its own to a server."""

    def make(server: EmulatorServer, **extra: object) -> LimioHook:
        monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", server.airflow_connection_json(**extra))
        hook = LimioHook()
        assert hook.settings
        return hook

    return make


@pytest.fixture
def hook(hook_of, limio_emulator) -> LimioHook:
    return hook_of(limio_emulator)


@pytest.fixture
def key_hook(monkeypatch, waits, limio_emulator) -> LimioHook:
    """A hook with the legacy key."""
    import json

    connection = {
        "conn_type": "limio",
        "host": limio_emulator.url,
        "password": limio_emulator.api_key,
        "extra": {"auth_mode": "api_key"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", json.dumps(connection))
    return LimioHook()
