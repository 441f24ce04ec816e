# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The same request twice."""

from __future__ import annotations

import pytest

from limio_limitrail.emulator import LimitRailOptions


def test_the_same_answer_again(rail):
    first, again = rail.commit(key="k"), rail.commit(key="k")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(rail.server.limitrail.journal) == 1
    assert len(rail.window()) == 1
    assert rail.commit(key="other").json()["usageId"] != first.json()["usageId"]
    assert len(rail.server.limitrail.journal) == 2


def test_a_denial_is_remembered_too(rail):
    first, again = rail.commit(key="k", amount=1001), rail.commit(key="k", amount=1001)
    assert first.content == again.content
    assert len(rail.server.limitrail.journal) == 1


def test_without_a_key_everything_counts(rail):
    assert rail.commit().json()["usageId"] != rail.commit(key="").json()["usageId"]
    assert [entry.key for entry in rail.server.limitrail.journal] == [None, None]


def test_a_key_with_another_body(rail, is_problem):
    rail.commit(key="k")
    is_problem(rail.commit(key="k", amount="12.51"), 409, "IDEMPOTENCY_KEY_REUSED")
    assert rail.commit(key="k").status_code == 200
    assert len(rail.server.limitrail.journal) == 1


def test_only_what_said_yes_is_remembered(rail):
    assert rail.commit(key="k", externalAccount="late").status_code == 404
    rail.server.limitrail.add_accounts(["late"])
    assert rail.commit(key="k", externalAccount="late").status_code == 200
    assert rail.commit(key="bad", amount="x").status_code == 400
    assert rail.commit(key="bad", amount="1").status_code == 200


def test_a_key_is_of_one_tenant_and_one_path(rail, connect_rail):
    rail.server.limitrail.add_accounts(["both"])
    rail.server.limitrail.add_accounts(["both"], tenant="other")
    other = connect_rail(rail.server, 1)
    ids = [client.commit(key="k", externalAccount="both", amount=amount).json()["usageId"]
           for client, amount in ((rail, 1), (other, 2))]  # fmt: skip
    assert len(set(ids)) == 2
    body = rail.usage(externalAccount="both", amount=3)
    reserved = [rail.post("v1/usage/reserve", body, key="k").json()["reservationId"] for _ in range(2)]
    assert reserved[0] == reserved[1]
    path = f"v1/usage/reservations/{reserved[0]}/commit"
    committed = [rail.post(path, key="k") for _ in range(2)]
    assert [answer.status_code for answer in committed] == [200, 200]
    assert committed[1].headers["Idempotency-Replayed"] == "true"
    assert rail.post(path, key="k2").status_code == 409
    assert len(rail.server.limitrail.journal) == 4
    assert len(rail.window()) == 2


def test_a_key_in_the_body(limitrail_emulator_factory, connect_rail, is_problem):
    rail = connect_rail(limitrail_emulator_factory(limitrail=LimitRailOptions(idempotency="field")))
    first, again = (rail.commit(idempotencyKey="k") for _ in range(2))
    assert first.content == again.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert rail.commit(key="header").json() != rail.commit(key="header").json(), "the header is not looked at"
    is_problem(rail.commit(idempotencyKey="k", amount=1), 409, "IDEMPOTENCY_KEY_REUSED")
    is_problem(rail.commit(idempotencyKey=5), 400, field="IdempotencyKey")
    assert [entry.key for entry in rail.server.limitrail.journal] == ["k", None, None]
    assert rail.window()[0]["idempotencyKey"] == "k"
    assert first.request.body == rail.server.limitrail.journal[0].body


def test_names_of_ones_own(limitrail_emulator_factory, connect_rail):
    options = LimitRailOptions(idempotency_header="X-Once", idempotency_field="once")
    rail = connect_rail(limitrail_emulator_factory(limitrail=options))
    rail.commit(key="k")
    rail.session.headers["X-Once"] = "k2"
    assert rail.commit().content == rail.commit().content
    del rail.session.headers["X-Once"]
    rail.server.configure_limitrail(idempotency="field")
    assert rail.commit(once="k3").content == rail.commit(once="k3").content
    assert [entry.key for entry in rail.server.limitrail.journal] == [None, "k2", "k3"]


@pytest.mark.parametrize("how", [{"key": "k"}, {"idempotencyKey": "k"}])
def test_off(limitrail_emulator_factory, connect_rail, how):
    rail = connect_rail(limitrail_emulator_factory(limitrail=LimitRailOptions(idempotency="off")))
    answers = [rail.commit(**how, amount=amount) for amount in (1, 1, 2)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert not any("Idempotency-Replayed" in answer.headers for answer in answers)
    assert [entry.key for entry in rail.server.limitrail.journal] == ["k", "k", "k"]
    assert len(rail.window()) == 3
