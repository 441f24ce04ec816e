# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Objects that answer by a script, and connections of this process."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer
from limio_limitrail.emulator.core.http_messages import Call, Reply, message_reply
from tests.support.clock import PATIENCE, Clock, QuickAsyncio

PLACE = "/api/objects/limio/orders/"


def order(id_: str, status: str = "active") -> Reply:
    return Reply(200, json.dumps({"id": id_, "status": status, "data": {"email": "user@example.com"}}).encode())


class Script:
    """Orders that answer request after request as they are told; the last answer stays."""

    def __init__(self, server: EmulatorServer) -> None:
        self.server = server
        self.answers: dict[str, list[Any]] = {}
        self.asked: Counter[str] = Counter()
        self.tokens: defaultdict[str, set[str]] = defaultdict(set)
        server.on_request(self._answer)

    def _answer(self, call: Call) -> Reply | None:
        id_ = call.path.removeprefix(PLACE)
        if not call.path.startswith(PLACE) or id_ not in self.answers:
            return None
        self.asked[id_] += 1
        self.tokens[id_].add(call.headers["authorization"])
        script = self.answers[id_]
        told = script[min(self.asked[id_], len(script)) - 1]
        if isinstance(told, Reply):
            return told
        if isinstance(told, str):
            return order(id_, told)
        return message_reply(told, f"Emulated {told}")


@pytest.fixture
def script(limio_emulator: EmulatorServer) -> Script:
    return Script(limio_emulator)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clocks of this process, to put forward."""
    return Clock(monkeypatch)


@pytest.fixture
def quick(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have waits sleep for no real time, and have time for a look at the deadline."""
    monkeypatch.setattr("limio_limitrail.triggers.poll_loops.asyncio", QuickAsyncio(clock))
    monkeypatch.setattr("limio_limitrail.triggers.threads.LAST_POLL", PATIENCE)
    return clock


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch, limio_emulator: EmulatorServer) -> EmulatorServer:
    """The emulator, to which the connections of this very process lead."""
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
    monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", limio_emulator.limitrail_connection_json())
    return limio_emulator


@pytest.fixture
def api_requests(limio_emulator: EmulatorServer) -> Callable[[], list[dict[str, Any]]]:
    """Give the requests that were no requests for tokens."""
    return lambda: [entry for entry in limio_emulator.counters.log if "token" not in entry["path"]]
