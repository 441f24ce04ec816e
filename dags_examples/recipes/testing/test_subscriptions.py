# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A test of a Dag of one's own. Copy it to ``tests/test_subscriptions.py``."""

# [START test]
import json

import duckdb
import pytest

from limio_limitrail.emulator import Fault


@pytest.fixture
def warehouse(limio_emulator, monkeypatch, tmp_path):
    path = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", limio_emulator.airflow_connection_json())
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    return path


def ids_in(warehouse):
    with duckdb.connect(str(warehouse), read_only=True) as database:
        return {identity for (identity,) in database.sql("SELECT id FROM subscriptions").fetchall()}


def test_all_subscriptions_arrive(limio_emulator, warehouse):
    from limio_subscriptions_in_ten_lines import dag

    limio_emulator.faults.add(Fault("status", match="/api/objects", status=503, times=2))
    assert dag.test().state == "success"
    assert ids_in(warehouse) == set(limio_emulator.tenant.ids("subscriptions"))

    limio_emulator.advance(86400, added=5)
    assert dag.test().state == "success"
    assert ids_in(warehouse) == set(limio_emulator.tenant.ids("subscriptions"))


# [END test]
