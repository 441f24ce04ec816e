# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""LimitRail hooks that do not really wait, usage to read, and Dags with data intervals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from limio_limitrail.api.auth import mint
from limio_limitrail.api.client import ApiClient
from limio_limitrail.emulator import EmulatorServer
from limio_limitrail.hooks import clients
from limio_limitrail.hooks.limitrail import LimitRailHook

START = datetime(2026, 3, 1, tzinfo=UTC)
INTERVALS = "CronDataIntervalTimetable('0 0 * * *', timezone='UTC')"


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long the hook would have waited, one entry a wait."""
    waited: list[float] = []
    monkeypatch.setattr(clients, "ApiClient", partial(ApiClient, sleep=waited.append))
    monkeypatch.setattr(clients, "mint", partial(mint, sleep=waited.append))
    return waited


@pytest.fixture
def hook_of(monkeypatch, waits) -> Callable[..., LimitRailHook]:
    """Make hooks, each with a connection of its own to a server."""

    def make(server: EmulatorServer, *, hook_scope: Any = None, client: int = 0, **extra: object) -> LimitRailHook:
        monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", server.limitrail_connection_json(client, **extra))
        hook = LimitRailHook(scope=hook_scope)
        assert hook.settings
        return hook

    return make


@pytest.fixture
def hook(hook_of, limitrail_emulator) -> LimitRailHook:
    return hook_of(limitrail_emulator)


@pytest.fixture
def usage(limitrail_emulator) -> list[dict[str, Any]]:
    """Usage of two days, one row an hour at a quarter past, from `START` on."""
    rows = [
        {"id": f"use-{number:02}", "committedAt": (START + timedelta(hours=number, minutes=15)).isoformat(), "amount": number}
        for number in range(48)
    ]
    limitrail_emulator.limitrail.add_usage(rows)
    return rows


@pytest.fixture
def write_dag(home) -> Callable[..., None]:
    """Write a Dag ``pull`` with a schedule of its own."""

    def write(text, *, schedule=INTERVALS, into=home):
        into.write_dag(text)
        path = into.path / "dags" / "dag_file.py"
        head = (
            "from airflow.sdk import CronDataIntervalTimetable, CronTriggerTimetable\n"
            "from limio_limitrail.api.pagination import CursorString\n"
            "from limio_limitrail.api.resource import TimeFilter\n"
        )
        path.write_text(head + path.read_text().replace("schedule=None", f"schedule={schedule}, catchup=False"))

    return write
