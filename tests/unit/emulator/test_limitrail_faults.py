# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Faults at LimitRail, and those that came with it."""

from __future__ import annotations

import time

import pytest
import requests

from limio_limitrail.emulator import Fault, LimitRailOptions


@pytest.mark.parametrize("status", [400, 429, 500, 503, 599])
def test_status_faults_have_its_form(rail, is_problem, status):
    rail.server.faults.add(Fault("status", match="/v1/", status=status, headers={"Retry-After": "3"}))
    answer = rail.commit()
    is_problem(answer, status)
    assert answer.headers["Retry-After"] == "3"
    assert rail.server.limitrail.journal == []
    assert rail.commit().status_code == 200
    rail.server.faults.add(Fault("status", match="/connect/", status=status))
    is_problem(rail.token_request(), status)


def test_status_faults_on_the_token_port(limitrail_emulator_factory, connect_rail, is_problem):
    rail = connect_rail(limitrail_emulator_factory(limitrail=LimitRailOptions(separate_oauth=True)))
    rail.server.faults.add(Fault("status", match="/connect/"))
    is_problem(rail.token_request(), 503)
    rail.server.faults.add(Fault("reset", match="/connect/"))
    with pytest.raises(requests.ConnectionError):
        rail.token_request()
    assert rail.token_request().status_code == 200


def test_status_faults_with_a_form_of_their_own(rail):
    rail.server.faults.add(Fault("status", match="/v1/", body={"a": 1}))
    rail.server.faults.add(Fault("status", match="/v1/", body="<p>", headers={"Content-Type": "text/html"}))
    rail.server.faults.add(Fault("status", match="/v1/", headers={"content-type": "text/plain"}))
    one, two, three = rail.commit(), rail.commit(), rail.commit()
    assert (one.json(), one.headers["Content-Type"]) == ({"a": 1}, "application/json")
    assert (two.text, two.headers["Content-Type"]) == ("<p>", "text/html; charset=utf-8")
    assert three.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert three.json()["errorCode"] == "STATUS_503"


def test_limio_keeps_its_form(client, limio_emulator):
    limio_emulator.faults.add(Fault("status", match="/"))
    assert client.get("api/offers").json() == {"message": "Emulated fault 503"}


def test_an_answer_that_is_lost_after_the_commit(rail):
    rail.server.faults.add(Fault("reset_after", match="/v1/usage/commit", method="POST"))
    with pytest.raises(requests.ConnectionError):
        rail.commit(key="k")
    (entry,) = rail.server.limitrail.journal
    again = rail.commit(key="k")
    assert again.json()["usageId"] == entry.usage_id
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(rail.server.limitrail.journal) == 1


def test_a_connection_that_breaks_before_the_commit(rail):
    rail.server.faults.add(Fault("reset", match="/v1/usage/commit"))
    with pytest.raises(requests.ConnectionError):
        rail.commit(key="k")
    assert rail.server.limitrail.journal == []


def test_a_commit_that_is_slow_beyond_the_clients_patience(rail):
    rail.server.faults.add(Fault("latency_after", match="/v1/usage/commit", seconds=120))
    with pytest.raises(requests.ReadTimeout):
        rail.post("v1/usage/commit", rail.usage(), key="k", timeout=0.3)
    end = time.monotonic() + 60
    while not rail.server.limitrail.journal:
        assert time.monotonic() < end
        time.sleep(0.01)
    began = time.monotonic()
    assert rail.commit(key="k").headers["Idempotency-Replayed"] == "true"
    assert time.monotonic() - began < 60
    assert len(rail.server.limitrail.journal) == 1


def test_latency_after_waits_and_then_answers(rail):
    rail.server.faults.add(Fault("latency_after", match="/v1/", seconds=0.3))
    began = time.monotonic()
    assert rail.commit().status_code == 200
    assert time.monotonic() - began >= 0.3
    entry = rail.server.limitrail.journal[0]
    assert time.time() - entry.at.timestamp() >= 0.29, "it was carried out before the wait"


def statuses(rail, count=60):
    return [rail.get("v1/accounts", limit=1).status_code for _ in range(count)]


def test_a_share_is_the_same_every_time(limitrail_emulator_factory, connect_rail):
    options = LimitRailOptions(page_size=1)
    runs = []
    for seed in (1, 1, 2):
        rail = connect_rail(limitrail_emulator_factory(limitrail=options))
        planned = rail.server.faults.add(Fault("status", match="/v1/", times=None, share=0.3, seed=seed))
        runs.append(statuses(rail))
        assert planned.seen == 60
        assert planned.hit == runs[-1].count(503)
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert set(runs[0]) == {200, 503}
    assert 5 <= runs[0].count(503) <= 35


def test_a_share_of_some_and_after_some(rail):
    rail.server.configure_limitrail(page_size=1)
    rail.server.faults.add(Fault("status", match="/v1/", times=4, share=0.5, after=10))
    seen = statuses(rail)
    assert seen[:10] == [200] * 10
    assert seen.count(503) == 4
    assert 200 in seen[10 : len(seen) - seen[::-1].index(503)]


def test_a_share_of_latency_and_another_fault_beside_it(rail):
    rail.server.configure_limitrail(page_size=1)
    rail.server.faults.add(Fault("status", match="/v1/", status=500, times=None, share=0.5))
    rail.server.faults.add(Fault("status", match="/v1/", status=502, times=None))
    assert set(statuses(rail, 20)) == {500, 502}, "what one fault spares, the next may hit"


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="share"):
        Fault("status", share=share)
