# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The snippet of docs/how-to/emulator.md."""

from __future__ import annotations

import pytest

from limio_limitrail.emulator import EmulatorServer, Fault


# [START fixture]
def test_a_rate_limit_is_waited_for(limio_emulator: EmulatorServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from limio_limitrail.hooks.limio import LimioHook

    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
    limio_emulator.faults.add(Fault("status", match="/api/objects", status=429, headers={"Retry-After": "0"}))

    ids = [record["id"] for record in LimioHook().iter_records("subscriptions")]

    assert sorted(ids) == sorted(limio_emulator.tenant.ids("subscriptions"))


# [END fixture]
