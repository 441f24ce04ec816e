# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Commits, previews and reservations, and what is remembered of them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from limio_limitrail.emulator import LimitRailOptions


def test_a_commit(rail):
    before = datetime.now(UTC)
    answer = rail.commit(key="k-1", currency="EUR", metadata={"run": "r"})
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == {"decision", "usageId", "fees", "impactedLimits", "traceId"}
    assert (body["decision"], body["fees"], body["impactedLimits"]) == ("ALLOWED", [], [])
    (entry,) = rail.server.limitrail.journal
    assert (entry.number, entry.tenant, entry.operation, entry.key) == (1, "demo", "commit", "k-1")
    assert entry.body == answer.request.body
    assert (entry.decision, entry.usage_id, entry.reservation_id) == ("ALLOWED", body["usageId"], None)
    assert before <= entry.at <= datetime.now(UTC)
    (item,) = rail.window()
    assert item == {
        "id": body["usageId"],
        "externalAccount": rail.account,
        "operation": "TRANSFER",
        "amount": "12.50",
        "currency": "EUR",
        "metadata": {"run": "r"},
        "decision": "ALLOWED",
        "idempotencyKey": "k-1",
        "reservationId": None,
        "committedAt": entry.at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({"amount": "1000"}, "WARNING"),
        ({"amount": "1000.000000000000000000000000000001"}, "DENIED_BY_POLICY"),
        ({"amount": "1e30", "operation": "EXPORT"}, "DENIED_BY_POLICY"),
        ({"amount": 800}, "ALLOWED"),
        ({"amount": "800.01", "operation": "EXPORT"}, "WARNING"),
        ({"amount": 0}, "ALLOWED"),
        ({"operation": "EXPORT"}, "FEE_CALCULATED"),
    ],
)
def test_decisions(rail, changes, decision):
    body = rail.commit(**changes).json()
    assert body["decision"] == decision
    denied = decision == "DENIED_BY_POLICY"
    assert (body["usageId"] is None) == denied
    assert bool(body["impactedLimits"]) == (decision in ("DENIED_BY_POLICY", "WARNING"))
    assert [item["decision"] for item in rail.window()] == ([] if denied else [decision])
    assert [entry.decision for entry in rail.server.limitrail.journal] == [decision]
    fees = [{"code": "EXPORT_FEE", "amount": "0.50", "currency": "EUR"}] if decision == "FEE_CALCULATED" else []
    assert body["fees"] == fees


def test_a_policy_of_ones_own(limitrail_emulator_factory, connect_rail):
    options = LimitRailOptions(
        deny_above=Decimal(5), warn_above=Decimal(3), fee_operations=frozenset({"X"}), operations=("X",), fee_amount=Decimal(2)
    )
    rail = connect_rail(limitrail_emulator_factory(limitrail=options))
    decisions = [rail.commit(operation="X", amount=amount).json()["decision"] for amount in (3, 4, 6)]
    assert decisions == ["FEE_CALCULATED", "WARNING", "DENIED_BY_POLICY"]
    fee = rail.commit(operation="X", amount=1, currency="USD").json()["fees"]
    assert fee == [{"code": "X_FEE", "amount": "2", "currency": "USD"}]
    assert rail.commit(operation="Y").status_code == 422
    rail.server.configure_limitrail(operations=None)
    assert rail.commit(operation="Y").status_code == 200


@pytest.mark.parametrize("amount", [b"12.50", b"1E2", b"0.1000000000000000055511151231257827", b'"0012.500"', b"-0"])
def test_an_amount_stays_as_it_was_sent(rail, amount):
    body = b'{"externalAccount":"%s","operation":"TRANSFER","amount":%s,"metadata":{"a":[1.10,{"b":2e1}]}}'
    assert rail.post("v1/usage/commit", body % (rail.account.encode(), amount)).status_code == 200
    text = rail.get("v1/usage", **{"from": "2020-01-01", "to": "2999-01-01"}).content
    assert b'"amount":' + amount + b"," in text
    assert b'"metadata":{"a":[1.10,{"b":2e1}]}' in text


def test_members_that_are_not_known_are_taken(rail):
    assert rail.commit(more={"a": 1}, metadata=None).status_code == 200
    assert b'"more": {"a": 1}' in rail.server.limitrail.journal[0].body


@pytest.mark.sampled(10)
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"externalAccount": None}, "ExternalAccount"),
        ({"externalAccount": 5}, "ExternalAccount"),
        ({"externalAccount": ""}, "ExternalAccount"),
        ({"operation": None}, "Operation"),
        ({"operation": ["TRANSFER"]}, "Operation"),
        ({"amount": None}, "Amount"),
        ({"amount": -0.01}, "Amount"),
        ({"amount": "-1"}, "Amount"),
        ({"amount": True}, "Amount"),
        ({"amount": float("nan")}, "Amount"),
        ({"amount": float("inf")}, "Amount"),
        ({"amount": "Infinity"}, "Amount"),
        ({"amount": "1_000"}, "Amount"),
        ({"amount": " 1"}, "Amount"),
        ({"amount": "one"}, "Amount"),
        ({"amount": {"value": 1}}, "Amount"),
        ({"currency": 978}, "Currency"),
        ({"metadata": "text"}, "Metadata"),
    ],
)
@pytest.mark.parametrize("path", ["commit", "preview", "reserve"])
def test_what_is_missing_or_ill_typed(rail, is_problem, path, changes, field):
    is_problem(rail.post(f"v1/usage/{path}", rail.usage(**changes)), 400, field=field)
    assert rail.server.limitrail.journal == []
    assert rail.window() == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object(rail, is_problem, body):
    is_problem(rail.post("v1/usage/commit", body), 400, "BODY_INVALID")


def test_accounts_of_another_tenant_do_not_exist(rail, connect_rail, is_problem):
    other = connect_rail(rail.server, 1)
    for wrong in ("nobody", other.account):
        is_problem(rail.commit(externalAccount=wrong), 404, "ACCOUNT_NOT_FOUND")
    is_problem(other.commit(externalAccount=rail.account), 404, "ACCOUNT_NOT_FOUND")
    is_problem(rail.commit(operation="NOTHING"), 422, "OPERATION_UNKNOWN", "Operation")
    assert other.commit().status_code == 200
    assert rail.window() == []
    assert [entry.tenant for entry in rail.server.limitrail.journal] == ["other"]


def test_accounts_are_limios_customers(rail, connect_rail):
    server, limitrail = rail.server, rail.server.limitrail
    assert limitrail.accounts == server.tenant.ids("customers")
    added = server.advance(60, added=5).added["customers"]
    assert rail.commit(externalAccount=added[-1]).status_code == 200
    limitrail.add_accounts(["mine", "mine", rail.account])
    assert limitrail.accounts == [*server.tenant.ids("customers"), "mine"]
    assert rail.commit(externalAccount="mine").status_code == 200
    listed = rail.get("v1/accounts").json()["items"]
    assert [item["externalAccount"] for item in listed] == limitrail.accounts
    assert set(listed[0]) == {"id", "externalAccount", "createdAt"}
    assert len({item["id"] for item in listed}) == len(listed)
    created = {item["externalAccount"]: item["createdAt"] for item in listed}
    assert created[rail.account] == server.tenant.record("customers", rail.account)["created"]
    other = connect_rail(server, 1)
    names = [item["externalAccount"] for item in other.get("v1/accounts").json()["items"]]
    assert names == [f"other-{number}" for number in range(1, 6)]
    limitrail.add_accounts(["mine"], tenant="other")
    assert other.commit(externalAccount="mine").status_code == 200


def test_a_preview_leaves_nothing(rail):
    for changes, decision in (
        ({}, "ALLOWED"),
        ({"amount": 1001}, "DENIED_BY_POLICY"),
        ({"operation": "EXPORT"}, "FEE_CALCULATED"),
    ):
        body = rail.post("v1/usage/preview", rail.usage(**changes), key="k").json()
        assert (body["decision"], body["usageId"]) == (decision, None)
    assert rail.server.limitrail.previews == 3
    assert rail.server.limitrail.journal == []
    assert rail.window() == []


def test_a_reservation_is_committed(rail, is_problem):
    reserved = rail.post("v1/usage/reserve", rail.usage(amount="7.0", operation="EXPORT"), key="r").json()
    id_ = reserved["reservationId"]
    assert (reserved["decision"], reserved["usageId"]) == ("FEE_CALCULATED", None)
    assert rail.window() == [], "reserved is not used"
    (item,) = rail.window("v1/usage/reservations")
    assert (item["id"], item["state"], item["amount"], item["idempotencyKey"]) == (id_, "OPEN", "7.0", "r")
    done = rail.post(f"v1/usage/reservations/{id_}/commit", key="c")
    assert done.status_code == 200
    assert (done.json()["decision"], done.json()["reservationId"]) == ("ALLOWED", id_)
    (usage,) = rail.window()
    assert (usage["id"], usage["reservationId"], usage["amount"]) == (done.json()["usageId"], id_, "7.0")
    (item,) = rail.window("v1/usage/reservations")
    assert (item["state"], item["usageId"]) == ("COMMITTED", usage["id"])
    assert item["closedAt"] == usage["committedAt"]
    for deed in ("commit", "cancel"):
        is_problem(rail.post(f"v1/usage/reservations/{id_}/{deed}"), 409, "RESERVATION_CLOSED")
    journal = [(one.operation, one.key, one.usage_id, one.reservation_id) for one in rail.server.limitrail.journal]
    assert journal == [("reserve", "r", None, id_), ("commit_reservation", "c", usage["id"], id_)]


def test_a_reservation_is_cancelled(rail, connect_rail, is_problem):
    id_ = rail.post("v1/usage/reserve", rail.usage()).json()["reservationId"]
    other = connect_rail(rail.server, 1)
    is_problem(other.post(f"v1/usage/reservations/{id_}/cancel"), 404, "RESERVATION_NOT_FOUND")
    is_problem(rail.post("v1/usage/reservations/nothing/cancel"), 404, "RESERVATION_NOT_FOUND")
    is_problem(rail.post(f"v1/usage/reservations/{id_}/cancel", b"["), 400, "BODY_INVALID")
    done = rail.post(f"v1/usage/reservations/{id_}/cancel", {"why": "not needed"})
    assert (done.status_code, done.json()["decision"], done.json()["reservationId"]) == (200, "ALLOWED", id_)
    is_problem(rail.post(f"v1/usage/reservations/{id_}/commit"), 409, "RESERVATION_CLOSED")
    assert rail.window() == []
    assert [item["state"] for item in rail.window("v1/usage/reservations")] == ["CANCELLED"]
    assert [entry.operation for entry in rail.server.limitrail.journal] == ["reserve", "cancel_reservation"]
    assert rail.server.limitrail.journal[1].usage_id is None
    paths = rail.server.counters.snapshot()["by_path"]
    assert paths["/v1/usage/reservations/{id}/cancel"] == 4
    assert not [path for path in paths if id_ in path]


def test_a_denied_reservation_is_none(rail):
    body = rail.post("v1/usage/reserve", rail.usage(amount=1001)).json()
    assert (body["decision"], body["reservationId"]) == ("DENIED_BY_POLICY", None)
    assert rail.window("v1/usage/reservations") == []
    assert [entry.decision for entry in rail.server.limitrail.journal] == ["DENIED_BY_POLICY"]


def test_journal_can_be_cleared(rail):
    rail.commit()
    rail.server.limitrail.clear_journal()
    assert rail.server.limitrail.journal == []
    rail.commit()
    assert [entry.number for entry in rail.server.limitrail.journal] == [2]
    assert len(rail.window()) == 2


def test_a_commit_is_cheap(rail):
    from limio_limitrail.emulator import Call
    from limio_limitrail.emulator.limitrail.api import LimitRailApi

    api = LimitRailApi(rail.server.limitrail)
    headers = {"authorization": rail.session.headers["Authorization"]}
    body = b'{"externalAccount":"%s","operation":"TRANSFER","amount":1.5}' % rail.account.encode()
    began = time.process_time()
    for number in range(10_000):
        call = Call("POST", "/v1/usage/commit", "", {**headers, "idempotency-key": str(number)}, body)
        assert api.handle(call).status == 200
    assert time.process_time() - began < 5, "half a millisecond each"
    assert len(rail.server.limitrail.journal) == 10_000
