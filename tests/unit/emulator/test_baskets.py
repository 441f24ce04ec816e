# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Abandoned baskets."""

from __future__ import annotations

import pytest

PATH = "api/checkout/abandoned"


@pytest.mark.parametrize("params", [{}, {"limit": 5}, {"createdAfter": "2026-01-01T00:00:00Z"}])
def test_both_parameters_are_required(client, params):
    answer = client.get(PATH, **params)
    assert answer.status_code == 400
    assert "required" in answer.json()["message"]


@pytest.mark.parametrize("value", ["", "soon", "2026-99-01T00:00:00Z"])
def test_malformed_window(client, value):
    assert client.get(PATH, limit=5, createdAfter=value).status_code == 400


def test_bad_limit(client):
    assert client.get(PATH, limit="many", createdAfter="2026-01-01T00:00:00Z").status_code == 502


def test_all_of_them(client, limio_emulator):
    rows = client.walk(PATH, limit=7, createdAfter="2020-01-01")
    assert rows == list(limio_emulator.tenant.rows_of("baskets"))
    assert {row["completed"] for row in rows} == {True, False}
    assert any("email" not in row["customerDetails"] for row in rows)
    assert all(row["recoveryLink"].startswith("/api/checkout/recover?basket=basket-") for row in rows)


def test_the_window_includes_its_bound(client, limio_emulator):
    everything = list(limio_emulator.tenant.rows_of("baskets"))
    for position in (0, 13, 39):
        bound = everything[position]["created"]
        rows = client.walk(PATH, limit=6, createdAfter=bound)
        assert rows == [row for row in everything if row["created"] >= bound]
        assert rows[0] == everything[position]
    assert client.walk(PATH, limit=6, createdAfter="2030-01-01T00:00:00Z") == []


def test_new_and_completed_ones(client, limio_emulator):
    clock = limio_emulator.tenant.now
    step = limio_emulator.advance(600, baskets_added=5, baskets_completed=6)
    assert [row["id"] for row in client.walk(PATH, limit=2, createdAfter=clock)] == step.added["baskets"]
    rows = {row["id"]: row for row in client.walk(PATH, limit=50, createdAfter="2020-01-01")}
    assert len(step.changed["baskets"]) == 6
    assert all(rows[id_]["completed"] and rows[id_]["status"] == "completed" for id_ in step.changed["baskets"])


def test_records_of_a_tests_own(client, limio_emulator):
    records = [
        {"id": "basket-1", "created": "2026-01-01T00:00:00.000Z"},
        b'{"id":"basket-2","created":"2026-03-01T00:00:00.000Z"}',
        {"id": "basket-3"},
    ]
    for path in ("checkout/abandoned", "custom/baskets"):
        limio_emulator.put_records(path, records, style="baskets")
        rows = client.walk(f"api/{path}", limit=1, createdAfter="2026-02-01")
        assert [row["id"] for row in rows] == ["basket-2", "basket-3"]
        assert client.get(f"api/{path}", limit=1).status_code == 400
