# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Runtime lists: windows of time, order and pages."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from limio_limitrail.emulator import Fault, LimitRailOptions

pytestmark = pytest.mark.exhaustive

TIMES = ["2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000001Z", "2026-01-03T01:00:00+01:00"]


@pytest.fixture
def filled(rail):
    rail.server.limitrail.add_usage([{"id": f"u{number}", "committedAt": text} for number, text in enumerate(TIMES)])
    return rail


def ids(rail, start, stop, **params):
    return [item["id"] for item in rail.window(**{"from": start, "to": stop, **params})]


def test_windows(filled):
    assert ids(filled, "2000-01-01", "2099-01-01") == ["u1", "u2", "u0", "u3"]
    assert ids(filled, "2026-01-01", "2026-01-02") == ["u1", "u2"]
    assert ids(filled, "2026-01-01T00:00:00.000001Z", "2026-01-02T00:00:00.000001Z") == ["u2", "u0"]
    assert ids(filled, "2026-01-01T00:00:00", "2026-01-01T00:00:00.000001") == ["u1"]
    assert ids(filled, "2026-01-03T01:00:00+01:00", "2026-01-03T01:00:01+01:00") == ["u3"]
    assert ids(filled, "2026-01-01", "2026-01-01") == []
    assert ids(filled, "2030-01-01", "2031-01-01") == []


@pytest.mark.parametrize("path", ["v1/usage", "v1/usage/reservations"])
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "From"),
        ({"to": "2026-01-01"}, "From"),
        ({"from": "2026-01-01"}, "To"),
        ({"from": "", "to": "2026-01-01"}, "From"),
        ({"from": "yesterday", "to": "2026-01-01"}, "From"),
        ({"from": "2026-01-01", "to": "2026-13-01"}, "To"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "To"),
    ],
)
def test_windows_that_are_none(rail, is_problem, path, params, field):
    is_problem(rail.get(path, **params), 400, field=field)


def test_the_longest_window(limitrail_emulator_factory, connect_rail, is_problem):
    rail = connect_rail(limitrail_emulator_factory(limitrail=LimitRailOptions(max_window_seconds=3600)))
    assert ids(rail, "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z") == []
    long = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T01:00:00.000001Z"}
    for path in ("v1/usage", "v1/usage/reservations"):
        is_problem(rail.get(path, **long), 400, "WINDOW_TOO_LONG", "To")


def test_usage_of_a_tests_own(rail):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    given = rail.server.limitrail.add_usage(
        [
            {"committedAt": at, "amount": Decimal("1.50"), "externalAccount": "a", "operation": "O", "currency": "USD",
             "metadata": {"m": 1}, "decision": "WARNING", "idempotencyKey": "k", "reservationId": "r"},
            {"committedAt": at.replace(tzinfo=None), "amount": "2.0"},
            {"committedAt": at},
        ]
    )  # fmt: skip
    text = rail.get("v1/usage", **{"from": "2026-01-01", "to": "2026-01-02"}).text
    assert '"amount":1.50,' in text
    first, second, third = rail.window()
    assert [first["id"], second["id"], third["id"]] == given
    assert (first["externalAccount"], first["operation"], first["currency"]) == ("a", "O", "USD")
    assert (first["metadata"], first["decision"]) == ({"m": 1}, "WARNING")
    assert (first["idempotencyKey"], first["reservationId"]) == ("k", "r")
    assert first["committedAt"] == "2026-01-01T00:00:00.000000Z"
    assert (second["amount"], third["amount"], third["externalAccount"]) == ("2.0", 1, rail.account)
    assert rail.server.limitrail.journal == []
    for wrong in ({"committedAt": at, "ammount": 1}, {"amount": 1}, {"committedAt": "soon"}, {"id": given[0], "committedAt": at}):
        with pytest.raises(ValueError, match=r"ammount|committedAt|soon|already"):
            rail.server.limitrail.add_usage([wrong])
    rail.server.limitrail.add_usage([{"committedAt": at, "id": "theirs"}], tenant="other")
    assert len(rail.window()) == 3


def test_commits_are_in_order_of_time(rail):
    made = [rail.commit().json()["usageId"] for _ in range(20)]
    items = rail.window()
    assert [item["id"] for item in items] == made
    times = [item["committedAt"] for item in items]
    assert times == sorted(times)
    assert ids(rail, times[5], times[10]) == made[times.index(times[5]) : times.index(times[10])]


def test_no_pages(filled):
    body = filled.get("v1/usage", **{"from": "2000-01-01", "to": "2099-01-01", "limit": "1"}).json()
    assert list(body) == ["items"]
    assert len(body["items"]) == 4


@pytest.mark.parametrize(("limit", "pages"), [(None, [3, 1]), (1, [1, 1, 1, 1]), (2, [2, 2]), (100, [3, 1])])
def test_pages(filled, limit, pages):
    filled.server.configure_limitrail(page_size=3)
    params = {"from": "2000-01-01", "to": "2099-01-01"} | ({} if limit is None else {"limit": limit})
    seen, sizes = [], []
    while True:
        body = filled.get("v1/usage", **params).json()
        seen += [item["id"] for item in body["items"]]
        sizes.append(len(body["items"]))
        if "nextCursor" not in body:
            break
        params["cursor"] = body["nextCursor"]
    assert seen == ["u1", "u2", "u0", "u3"]
    assert sizes == pages


def test_accounts_have_pages_too(limitrail_emulator_factory, connect_rail):
    rail = connect_rail(limitrail_emulator_factory(limitrail=LimitRailOptions(page_size=100)))
    first = rail.get("v1/accounts").json()
    second = rail.get("v1/accounts", cursor=first["nextCursor"]).json()
    names = [item["externalAccount"] for item in first["items"] + second["items"]]
    assert names == rail.server.limitrail.accounts
    assert len(first["items"]) == 100
    assert "nextCursor" not in second


def test_cursors_and_limits_that_are_wrong(filled, connect_rail, is_problem):
    filled.server.configure_limitrail(page_size=1)
    window = {"from": "2000-01-01", "to": "2099-01-01"}
    cursor = filled.get("v1/usage", **window).json()["nextCursor"]
    is_problem(filled.get("v1/usage", **window, cursor="x"), 400, field="Cursor")
    is_problem(filled.get("v1/usage", **window, cursor=cursor[:-4]), 400, field="Cursor")
    is_problem(filled.get("v1/usage", **{**window, "to": "2098-01-01"}, cursor=cursor), 400, field="Cursor")
    is_problem(filled.get("v1/usage/reservations", **window, cursor=cursor), 400, field="Cursor")
    is_problem(connect_rail(filled.server, 1).get("v1/usage", **window, cursor=cursor), 400, field="Cursor")
    for limit in ("0", "-1", "x", ""):
        is_problem(filled.get("v1/usage", **window, limit=limit), 400, field="Limit")
    assert filled.get("v1/usage", **window, cursor=cursor).status_code == 200


def test_faults_of_lists(filled):
    filled.server.configure_limitrail(page_size=3)
    window = {"from": "2000-01-01", "to": "2099-01-01"}
    for kind in ("drop_cursor", "empty_page", "items_missing", "items_not_list"):
        filled.server.faults.add(Fault(kind, match="/v1/usage"))
    bodies = [filled.get("v1/usage", **window).json() for _ in range(5)]
    assert "nextCursor" not in bodies[0]
    assert len(bodies[0]["items"]) == 3
    assert bodies[1]["items"] == []
    assert "nextCursor" in bodies[1]
    assert "items" not in bodies[2]
    assert bodies[3]["items"] == {"count": 1}
    assert len(bodies[4]["items"]) == 3
