# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Sensors on lists, of Limio's and of LimitRail's."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, TaskDeferred

from limio_limitrail.api.resource import Resource
from limio_limitrail.emulator import Fault, Reply
from limio_limitrail.emulator.options import USAGE_WRITE
from limio_limitrail.polling.poll import NoAnswerError
from limio_limitrail.sensors.limio import LimioObjectSensor, LimioResourceSensor
from limio_limitrail.sensors.limitrail import LimitRailResourceSensor

pytestmark = pytest.mark.usefixtures("connected")

CONTEXT: Any = {
    "data_interval_start": datetime(2026, 10, 1, tzinfo=UTC),
    "data_interval_end": datetime(2026, 10, 2, tzinfo=UTC),
    "ti": SimpleNamespace(try_number=1),
}


def is_large(record: Any) -> bool:
    return bool(record["id"].endswith("7"))


def limio(**more: Any) -> LimioResourceSensor:
    return LimioResourceSensor(**{"task_id": "wait", "poke_interval": 0.05, "timeout": 1, **more})


def limitrail(**more: Any) -> LimitRailResourceSensor:
    return LimitRailResourceSensor(**{"task_id": "wait", "resource": "usage", "poke_interval": 0.05, "timeout": 1, **more})


def baskets(count: int, *, hour: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"basket-{number}", "created": f"2026-10-01T{hour:02}:{number // 60:02}:{number % 60:02}Z"}
        for number in range(count)
    ]


def deferred(sensor: Any, context: Any = CONTEXT) -> dict[str, Any]:
    """Begin with a look on the worker, and give what the trigger tells."""
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(context)

    async def run() -> list[Any]:
        made = caught.value.trigger
        again = type(made)(**made.serialize()[1])
        return [event.payload async for event in again.run()]

    [event] = asyncio.run(run())
    return event


def queries(entries: list[dict[str, Any]]) -> list[str]:
    return [entry["query"] for entry in entries]


# -- Limio ---------------------------------------------------------------------------------------------------------


def test_baskets_since(connected, api_requests):
    connected.put_records("checkout/abandoned", baskets(5, hour=3) + baskets(5, hour=9))
    found = limio(resource="abandoned_baskets", since="2026-10-01T06:00:00Z").execute(CONTEXT)
    assert found == {
        "resource": "abandoned_baskets",
        "count": 5,
        "ids": [f"basket-{number}" for number in range(5)],
        "watermark": "2026-10-01T09:00:04Z",
    }
    [query] = queries(api_requests())
    assert "createdAfter=2026-10-01T06%3A00%3A00Z" in query


def test_baskets_since_the_start_of_the_interval(connected, api_requests):
    connected.put_records("checkout/abandoned", baskets(2))
    assert limio(resource="abandoned_baskets").execute(CONTEXT)["count"] == 2
    assert "createdAfter=2026-10-01T00%3A00%3A00Z" in queries(api_requests())[0]


def test_baskets_that_come_later(connected):
    connected.put_records("checkout/abandoned", [])
    looks = []

    def come(call: Any) -> None:
        if call.path == "/api/checkout/abandoned":
            looks.append(call)
            if len(looks) == 3:
                connected.put_records("checkout/abandoned", baskets(1))

    connected.on_request(come)
    assert limio(resource="abandoned_baskets", timeout=600).execute(CONTEXT)["ids"] == ["basket-0"]
    assert len(looks) == 3
    connected.put_records("checkout/abandoned", [])
    looks.clear()
    event = deferred(limio(resource="abandoned_baskets", timeout=600, deferrable=True))
    assert (event["kind"], event["result"]["ids"]) == ("found", ["basket-0"])
    assert len(looks) == 3


def test_a_catalog_item_that_is_published(connected):
    item = {"id": "one", "path": "/offers2/one", "data": {"modified": "2026-10-01T00:00:00.000Z"}}
    connected.put_records("published_catalog_items?record_type=offers2", [{**item, "path": "/offers2/other"}])
    sensor = limio(resource="published_catalog.offers2", query_params={"path": "/offers2/one"})
    with pytest.raises(AirflowSensorTimeout):
        sensor.execute(CONTEXT)
    connected.put_records("published_catalog_items?record_type=offers2", [item])
    assert sensor.execute(CONTEXT) == {
        "resource": "published_catalog.offers2",
        "count": 1,
        "ids": ["/offers2/one"],
        "watermark": "2026-10-01T00:00:00.000Z",
    }


@pytest.mark.parametrize("predicate", [is_large, "operator.truth"], ids=["function", "path"])
def test_a_predicate(connected, predicate):
    connected.put_records("checkout/abandoned", baskets(20))
    found = limio(resource="abandoned_baskets", predicate=predicate).execute(CONTEXT)
    assert found["count"] == (2 if predicate is is_large else 20)
    assert "basket-7" in found["ids"]


def test_a_predicate_in_a_triggerer(connected, api_requests, clock):
    connected.put_records("checkout/abandoned", baskets(3))
    # The deadline passes during the third look, which takes no longer than an answer may.
    connected.on_request(lambda call: clock.advance(200) if len(api_requests()) >= 3 else None)
    event = deferred(limio(resource="abandoned_baskets", predicate="operator.not_", deferrable=True, timeout=600))
    assert event["kind"] == "timeout"
    # Whether the last look's response still counts depends on how many pieces it comes in.
    assert re.search(r"0 of 3 records match|was not complete within", event["message"])
    assert len(api_requests()) >= 3
    connected.counters.reset()
    with pytest.raises(AirflowFailException, match="predicate= is a function, which cannot be handed to a triggerer"):
        limio(resource="abandoned_baskets", predicate=lambda record: False, deferrable=True).execute(CONTEXT)


@pytest.mark.parametrize("path", ["no_such_module.nothing", "operator.nothing", "operator", "os.sep"])
def test_a_predicate_that_is_none(connected, api_requests, path):
    sensor = limio(resource="abandoned_baskets", predicate=path)
    with pytest.raises(AirflowFailException, match=r"cannot be imported here|must be a function, or its import path"):
        sensor.execute(CONTEXT)
    assert connected.counters.requests == 0


def test_records_over_pages(connected, api_requests):
    connected.put_records("checkout/abandoned", baskets(250))
    found = limio(resource="abandoned_baskets", min_records=201, page_size=50).execute(CONTEXT)
    assert found["count"] == 250
    assert found["ids"] == [f"basket-{number}" for number in range(100)]
    assert len(api_requests()) == 5
    connected.counters.reset()
    found = limio(resource="abandoned_baskets", min_records=51, page_size=50).execute(CONTEXT)
    assert (found["count"], len(api_requests())) == (100, 2)
    connected.counters.reset()
    with pytest.raises(AirflowSensorTimeout):
        limio(resource="abandoned_baskets", min_records=251, page_size=125, timeout=0).execute(CONTEXT)
    assert len(api_requests()) == 2


TIMES = {
    "an offset": (["2026-10-01T10:30:00Z", "2026-10-01T12:00:00+02:00"], 0),
    "a fraction": (["2026-10-01T10:00:00.5Z", "2026-10-01T10:00:00Z"], 0),
    "small letters": (["2026-10-01T09:00:00Z", "2026-10-01t10:00:00z"], 1),
    "no zone": (["2026-10-01T10:00:00", "2026-10-01T11:00:00+02:00"], 0),
    "what is no time": (["2026-10-01T10:00:00Z", "pending", "", None, "9999"], 0),
}


@pytest.mark.parametrize("times", TIMES)
def test_the_newest_time(connected, times):
    """Whoever continues from it must not skip a record, so that it is no text among texts."""
    written, newest = TIMES[times]
    records = [{"id": str(number), "created": when} for number, when in enumerate(written)]
    for ordered in (records, records[::-1]):
        connected.put_records("custom/things", ordered)
        mine = Resource(name="things", path="/custom/things", primary_key=("id",), time_column="created")
        assert limio(resource=mine).execute(CONTEXT)["watermark"] == written[newest]


def test_a_record_that_comes_again_on_a_later_page(connected):
    """As in a list that gains a record at its beginning while it is read."""
    connected.put_records("checkout/abandoned", [*baskets(4), *baskets(2)])
    with pytest.raises(AirflowSensorTimeout):
        limio(resource="abandoned_baskets", min_records=5, page_size=3, timeout=0).execute(CONTEXT)
    found = limio(resource="abandoned_baskets", min_records=4, page_size=3).execute(CONTEXT)
    assert (found["count"], found["ids"]) == (4, [f"basket-{number}" for number in range(4)])
    # Without a key nobody knows whether two records are one.
    connected.put_records("checkout/abandoned", [{"created": "2026-10-01T10:00:00Z"}] * 2)
    assert limio(resource="abandoned_baskets", min_records=2).execute(CONTEXT)["count"] == 2


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"resource": "baskets"}, "baskets"),
        ({"resource": "abandoned_baskets", "min_records": 0}, "min_records must be a whole number of at least 1, got 0"),
        ({"resource": "abandoned_baskets", "since": "yesterday"}, "since must be an ISO 8601 time .* got 'yesterday'"),
        ({"resource": "subscriptions", "since": "2026-10-01"}, "cannot be filtered by time"),
        ({"resource": "identity_subscriptions"}, "id"),
    ],
)
def test_wrong_parameters(connected, arguments, says, deferrable):
    with pytest.raises(AirflowFailException, match=says):
        limio(**arguments, deferrable=deferrable, soft_fail=True).execute(CONTEXT)
    assert connected.counters.requests == 0


def test_a_resource_of_ones_own(connected):
    connected.put_records("custom/things", [])
    mine = Resource(name="things", path="/custom/things", primary_key=("kind", "number"), time_column="at")
    sensor = limio(resource=mine, deferrable=True, timeout=600)
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(CONTEXT)
    connected.put_records("custom/things", [{"kind": "a", "number": 5, "at": "2026"}, {"kind": "b"}])
    made = caught.value.trigger

    async def run() -> list[Any]:
        return [event.payload async for event in made.run()]

    [event] = asyncio.run(run())
    assert event["result"] == {"resource": "things", "count": 2, "ids": ["a/5", "b/None"], "watermark": "2026"}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("status", [400, 429, 502, 503])
def test_a_page_in_the_middle_that_does_not_come(connected, status):
    """A cursor that was refused leads to the beginning of the list, which the next look begins with anyway."""
    connected.put_records("checkout/abandoned", baskets(60))
    arguments = {"resource": "abandoned_baskets", "min_records": 60, "page_size": 20, "timeout": 600}
    connected.faults.add(Fault("status", match="/api/checkout", status=status, after=1))
    assert limio(**arguments).execute(CONTEXT)["count"] == 60
    connected.put_records("checkout/abandoned", baskets(59))
    calls = []

    def come(call: Any) -> None:
        if call.path == "/api/checkout/abandoned":
            calls.append(call)
            if len(calls) == 5:
                connected.put_records("checkout/abandoned", baskets(60))

    connected.on_request(come)
    connected.faults.add(Fault("status", match="/api/checkout", status=status, after=4))
    assert deferred(limio(**arguments, deferrable=True))["kind"] == "found"


@pytest.mark.parametrize("deferrable", [False, True])
def test_cursors_that_are_refused_for_good(connected, deferrable):
    connected.put_records("checkout/abandoned", baskets(60))
    connected.faults.add(Fault("status", match="/api/checkout", query="queryMore", status=400, times=None))
    sensor = limio(
        resource="abandoned_baskets",
        min_records=60,
        page_size=20,
        timeout=600,
        max_transient_failures=2,
        deferrable=deferrable,
    )
    if deferrable:
        assert deferred(sensor)["kind"] == "no_answer"
    else:
        with pytest.raises(NoAnswerError, match="3 polls in a row failed"):
            sensor.execute(CONTEXT)


def test_the_api_asks_the_first_look_to_wait(connected, script, api_requests):
    """Also where the next look is made in a triggerer."""
    script.answers["one"] = [Reply(429, b"{}", {"Retry-After": "1"}), "active"]
    sensor = LimioObjectSensor(
        task_id="wait", path_type="orders", object_id="one", poke_interval=0.05, timeout=600, deferrable=True
    )
    assert deferred(sensor)["kind"] == "found"
    first, second = [entry["at"] for entry in api_requests()]
    assert second - first >= 0.99
    script.answers["two"] = [Reply(429, b"{}", {"Retry-After": "100"}), "active"]
    sensor = LimioObjectSensor(
        task_id="wait", path_type="orders", object_id="two", poke_interval=0.05, timeout=90, deferrable=True
    )
    assert deferred(sensor)["kind"] == "timeout"
    assert script.asked["two"] == 1


# -- LimitRail -----------------------------------------------------------------------------------------------------


def test_usage_of_a_window(connected, api_requests):
    connected.limitrail.add_usage([{"id": "u1", "committedAt": "2026-09-01T12:00:00Z"}])
    found = limitrail(since="2026-09-01", until="2026-09-02").execute(CONTEXT)
    assert found["count"] == 1
    assert found["watermark"].startswith("2026-09-01T12:00:00")
    assert queries(api_requests()) == ["from=2026-09-01T00%3A00%3A00Z&to=2026-09-02T00%3A00%3A00Z"]


def test_usage_of_the_data_interval(connected, api_requests):
    connected.limitrail.add_usage([{"committedAt": "2026-10-01T12:00:00Z"}, {"committedAt": "2026-10-02T00:00:00Z"}])
    assert limitrail().execute(CONTEXT)["count"] == 1
    assert queries(api_requests()) == ["from=2026-10-01T00%3A00%3A00Z&to=2026-10-02T00%3A00%3A00Z"]


def test_usage_that_comes_later(connected):
    connected.limitrail.add_usage([{"committedAt": "2026-09-01T12:00:00Z"}])
    looks = []

    def come(call: Any) -> None:
        if call.path == "/v1/usage":
            looks.append(call)
            if len(looks) == 3:
                connected.limitrail.add_usage([{"committedAt": "2026-10-01T12:00:00Z"}])

    connected.on_request(come)
    event = deferred(limitrail(deferrable=True, timeout=600))
    assert (event["kind"], event["result"]["count"]) == ("found", 1)
    assert len(looks) == 3
    assert {call.query for call in looks} == {"from=2026-10-01T00%3A00%3A00Z&to=2026-10-02T00%3A00%3A00Z"}
    assert connected.counters.tokens_minted == 2


@pytest.mark.parametrize("deferrable", [False, True])
def test_an_empty_interval(connected, deferrable):
    moment = datetime(2026, 10, 1, tzinfo=UTC)
    empty = {**CONTEXT, "data_interval_start": moment, "data_interval_end": moment}
    with pytest.raises(AirflowFailException, match=r"an empty one, .*Give since= \(and until=\)"):
        limitrail(deferrable=deferrable).execute(empty)
    with pytest.raises(AirflowFailException, match=r"since=2026-10-02.* is not before until=2026-10-01.*the data interval's end"):
        limitrail(deferrable=deferrable, since="2026-10-02").execute(empty)
    assert connected.counters.requests == 0


def test_no_interval(connected):
    with pytest.raises(AirflowFailException, match="needs a time range"):
        limitrail().execute({"ti": CONTEXT["ti"]})
    with pytest.raises(AirflowFailException, match="give until="):
        limitrail(since="2026-09-01").execute({"ti": CONTEXT["ti"]})
    assert connected.counters.requests == 0


@pytest.mark.parametrize("how", [{"mode": "poke"}, {"deferrable": True}])
def test_a_manual_or_an_asset_triggered_run(connected, api_requests, how):
    """As in a pull: the end is the time for which the run was due."""
    connected.limitrail.add_usage([{"committedAt": "2026-10-01T12:00:00Z"}, {"committedAt": "2026-10-03T00:00:00Z"}])
    run = SimpleNamespace(run_after=datetime(2026, 10, 2, 6, tzinfo=UTC), run_type="asset_triggered")
    context = {"ti": CONTEXT["ti"], "dag_run": run, "data_interval_start": None, "data_interval_end": None}
    assert limitrail(since="2026-10-01", **how).execute(context)["count"] == 1
    assert queries(api_requests()) == ["from=2026-10-01T00%3A00%3A00Z&to=2026-10-02T06%3A00%3A00Z"]


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize("deferrable", [False, True])
def test_a_scope_that_is_missing(connected, refuse, deferrable):
    [client, *_] = connected.limitrail.options.clients
    connected.configure_limitrail(clients=(replace(client, scopes=(USAGE_WRITE,)),), refuse_unknown_scopes=refuse)
    with pytest.raises(AirflowFailException, match=r"limitrail\.usage"):
        limitrail(deferrable=deferrable, soft_fail=True).execute(CONTEXT)
    asked = [entry for entry in connected.counters.log if entry["path"].startswith("/v1/")]
    assert asked == []


def test_a_scope_asked_for_besides(connected, api_requests):
    connected.limitrail.add_usage([{"committedAt": "2026-10-01T12:00:00Z"}])
    with pytest.raises(AirflowFailException, match=r"made\.up"):
        limitrail(scope="made.up").execute(CONTEXT)
    assert api_requests() == []
