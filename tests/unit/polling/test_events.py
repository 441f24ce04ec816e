# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a Dag run that a watch has started is to do: every event is given to one run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset
from hypothesis import given

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.polling.changes import RecordFingerprint
from limio_limitrail.polling.events import MAX_CLAIMS, ChangeEvent, new_events
from tests.support.stored import bad_values

BASKETS, OFFERS = Asset("limio/baskets"), Asset("limio/offers")
START = datetime(2026, 10, 1, 12, tzinfo=UTC)


@dataclass
class Event:
    extra: dict[str, Any] | None
    timestamp: datetime = START


@dataclass
class Store:
    """An asset's state store; what is put into it goes through JSON."""

    values: dict[str, str] = field(default_factory=dict)
    writes: int = 0

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any) -> None:
        self.writes += 1
        self.values[key] = json.dumps(value)
        assert json.loads(self.values[key]) == value, "Airflow takes JSON, and no tuples"


@dataclass
class Run:
    run_id: str
    dag_id: str = "follow_up"


def news(number: int) -> ChangeEvent:
    seen = RecordFingerprint(identity=f"basket-{number}", digest=number, when=START)
    return ChangeEvent.of([seen], resource="abandoned_baskets", watch="one", number=number)


def event(number: int, *, minutes: int = 0) -> Event:
    return Event({"from_trigger": True, "payload": news(number).to_json()}, START + timedelta(minutes=minutes))


class Came:
    """What came for an asset, as Airflow tells an inlet."""

    def __init__(self, events: Iterable[Event], *, error: Exception | None = None) -> None:
        self.events, self.error = events, error

    def after(self, when: datetime) -> list[Event]:
        if self.error is not None:
            raise self.error
        return [event for event in self.events if event.timestamp >= when]


def context(
    run_id: str,
    *events: Event,
    store: Store | None,
    dag_id: str = "follow_up",
    asset: Asset = BASKETS,
    came: Iterable[Event] = (),
    error: Exception | None = None,
) -> Any:
    """Make the context of a task in a run that events have started.

    :param came: all that came, where it is more than those.
    """
    made: dict[str, Any] = {"triggering_asset_events": {asset: list(events)}, "dag_run": Run(run_id, dag_id)}
    inlets = {BASKETS: Came([*events, *came], error=error)}
    return made if store is None else {**made, "asset_state_store": {BASKETS: store}, "inlet_events": inlets}


def ids(found: list[ChangeEvent]) -> list[str]:
    return [one.event_id for one in found]


def expected(*numbers: int) -> list[str]:
    return [news(number).event_id for number in numbers]


def test_a_second_emission_gives_a_later_run_nothing():
    store = Store()
    assert new_events(context("one", event(1), store=store), BASKETS) == [news(1)]
    assert new_events(context("two", event(1), store=store), BASKETS) == []
    assert ids(new_events(context("three", event(1), event(2), store=store), BASKETS)) == expected(2)


def test_the_same_run_is_given_the_same_again():
    store = Store()
    first = context("one", event(1), event(2), store=store)
    for _ in range(3):
        assert ids(new_events(first, BASKETS)) == expected(1, 2)
    assert store.writes == 1
    new_events(context("two", event(2), event(3), store=store), BASKETS)
    assert ids(new_events(first, BASKETS)) == expected(1, 2)
    assert ids(new_events(context("two", event(2), event(3), store=store), BASKETS)) == expected(3)


def test_each_dag_is_given_it():
    store = Store()
    for dag_id in ("follow_up", "report"):
        assert ids(new_events(context("one", event(1), store=store, dag_id=dag_id), BASKETS)) == expected(1)
        assert new_events(context("two", event(1), store=store, dag_id=dag_id), BASKETS) == []


def test_events_that_airflow_has_put_into_one_run():
    """Each once, the oldest first."""
    events = [event(3, minutes=3), event(1, minutes=1), event(2, minutes=2), event(1, minutes=4)]
    for store in (Store(), None):
        assert ids(new_events(context("one", *events, store=store), BASKETS)) == expected(1, 2, 3)


@pytest.mark.parametrize(
    "extra",
    [
        None,
        {},
        {"payload": None},
        {"payload": "done"},
        {"payload": ["x"]},
        {"payload": {}},
        {"payload": {"key": "s3://bucket/file", "event_id": "x"}},
        {"payload": {**news(2).to_json(), "count": "many"}},
        {"payload": {**news(2).to_json(), "ids": None}},
        {"from_rest_api": True},
    ],
)
def test_events_of_others(extra):
    store = Store()
    assert ids(new_events(context("one", Event(extra), event(1), Event(extra), store=store), BASKETS)) == expected(1)
    assert new_events(context("two", Event(extra), store=store), BASKETS) == []
    assert new_events(context("three", Event(extra), store=None), BASKETS) == []


def test_a_run_that_something_else_has_started():
    for events in ({}, {BASKETS: []}, {OFFERS: [event(1)]}):
        store = Store()
        made: Mapping[str, Any] = {
            "triggering_asset_events": events,
            "dag_run": Run("manual"),
            "asset_state_store": {BASKETS: store},
        }
        assert new_events(made, BASKETS) == []  # type: ignore[arg-type]
        assert store.writes == 0


def test_events_that_airflow_has_given_to_no_run_yet():
    """They belong to the first run that asks, and not to the one that they start later."""
    store, everything = Store(), [event(number, minutes=number) for number in range(5)]
    assert ids(new_events(context("one", everything[1], store=store, came=everything[:4]), BASKETS)) == expected(1, 2, 3)
    assert new_events(context("two", everything[2], store=store, came=everything[:4]), BASKETS) == []
    assert ids(new_events(context("three", everything[3], store=store, came=everything), BASKETS)) == expected(4)
    assert ids(new_events(context("one", everything[1], store=store, came=everything), BASKETS)) == expected(1, 2, 3)
    # What came before a run was started is for others.
    assert ids(new_events(context("zero", everything[0], store=store, came=everything), BASKETS)) == expected(0)


def test_airflow_does_not_say_what_came(caplog):
    store, error = Store(), ValueError("run_after is missing")
    assert ids(new_events(context("one", event(1), store=store, came=[event(2)], error=error), BASKETS)) == expected(1)
    assert "ValueError: run_after is missing" in caplog.text
    assert ids(new_events(context("two", event(2), store=store), BASKETS)) == expected(2)


def test_a_run_is_not_given_less_than_before():
    store, error = Store(), ValueError("run_after is missing")
    assert ids(new_events(context("one", event(1), store=store, came=[event(2)]), BASKETS)) == expected(1, 2)
    with pytest.raises(ValueError, match="run_after is missing"):
        new_events(context("one", event(1), store=store, came=[event(2)], error=error), BASKETS)
    assert ids(new_events(context("one", event(1), store=store, came=[event(2)]), BASKETS)) == expected(1, 2)
    # What started the run is known without asking.
    assert ids(new_events(context("two", event(3), store=store), BASKETS)) == expected(3)
    assert ids(new_events(context("two", event(3), store=store, error=error), BASKETS)) == expected(3)


def test_without_a_store_all_are_given():
    """As on Airflow 3.2."""
    for run_id in ("one", "two"):
        assert ids(new_events(context(run_id, event(1), event(2), store=None), BASKETS)) == expected(1, 2)


def test_an_asset_that_is_no_inlet():
    with pytest.raises(KeyError):
        new_events(context("one", event(1), store=Store(), asset=OFFERS), OFFERS)


def test_claims_are_bounded():
    store = Store()
    for number in range(0, 3 * MAX_CLAIMS, 50):
        new_events(context(f"run-{number}", *(event(one) for one in range(number, number + 50)), store=store), BASKETS)
    [(key, value)] = store.values.items()
    assert "follow_up" in key
    assert len(json.loads(value)["claims"]) == MAX_CLAIMS + 50, "the last run's own, and as many of others"
    assert len(value) < 64 * 1024
    # The last ones are known.
    assert (
        new_events(context("later", *(event(one) for one in range(2 * MAX_CLAIMS, 3 * MAX_CLAIMS)), store=store), BASKETS) == []
    )


def test_a_run_that_is_cleared_long_after_is_given_what_started_it():
    """Of what came since it is not known any more which runs had it."""
    store, everything = Store(), [event(number, minutes=number) for number in range(2 * MAX_CLAIMS)]
    for number, one in enumerate(everything):
        found = new_events(context(f"run-{number}", one, store=store, came=everything[: number + 1]), BASKETS)
        assert ids(found) == expected(number)
    for number in (0, 7, MAX_CLAIMS // 2):
        found = new_events(context(f"run-{number}", everything[number], store=store, came=everything), BASKETS)
        assert ids(found) == expected(number)
    last = 2 * MAX_CLAIMS - 1
    assert ids(new_events(context(f"run-{last}", everything[last], store=store, came=everything), BASKETS)) == expected(last)


def test_more_events_in_one_run_than_claims():
    store = Store()
    numbers = range(2 * MAX_CLAIMS)
    for _ in range(2):
        found = new_events(context("one", *(event(one, minutes=one) for one in numbers), store=store), BASKETS)
        assert ids(found) == expected(*numbers)


def test_airflows_own_events():
    """What Airflow hands to a task is what the stand-ins above look like."""
    from airflow.sdk.api.datamodels._generated import AssetEventDagRunReference, AssetReferenceAssetEventDagRun
    from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
    from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

    def real(one: Event) -> Any:
        asset = AssetReferenceAssetEventDagRun(name=BASKETS.name, uri=BASKETS.uri, extra={})
        given = AssetEventDagRunReference.model_construct(
            asset=asset, extra=one.extra, timestamp=one.timestamp, source_aliases=[], source_task_id=None, source_dag_id=None,
            source_run_id=None, source_map_index=None, partition_key=None,
        )  # fmt: skip
        return AssetEventDagRunReferenceResult.from_asset_event_dag_run_reference(given)

    accessor = TriggeringAssetEventsAccessor.build(
        [real(event(2, minutes=2)), real(event(1, minutes=1)), real(Event({"payload": "x"}))]
    )
    made: Any = {**context("one", store=Store()), "triggering_asset_events": accessor}
    assert ids(new_events(made, BASKETS)) == expected(1, 2)
    assert new_events({**made, "asset_state_store": {OFFERS: Store()}}, OFFERS) == []  # type: ignore[typeddict-item]


# -- as other versions have stored it ------------------------------------------------------------------------------

KEY = "limio_limitrail.emitted.follow_up"
CLAIMS = json.loads((Path(__file__).parent / "stored_watches" / "emitted.json").read_text())


def stored(value: Any) -> Store:
    return Store({KEY: json.dumps(value)})


def test_what_is_stored_stays_readable():
    """Event 0 is another run's, and event 1 this one's."""
    store = stored(CLAIMS)
    assert ids(new_events(context("two", event(0), event(1), event(2), store=store), BASKETS)) == [news(1).event_id]
    assert ids(new_events(context("three", event(0), event(1), event(2), store=store), BASKETS)) == [news(2).event_id]
    assert json.loads(store.values[KEY]) == {
        **CLAIMS,
        "claims": [*CLAIMS["claims"], [news(2).event_id, "three", START.isoformat()]],
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "has format 2, and this version reads format 1"),
        ({"format": None}, "carries no format"),
        ({"claims": None}, "is damaged"),
        ({"claims": [["x", "one"]]}, "is damaged"),
        ({"claims": [["x", "one", "2026-10-01T12:00:00"]]}, "is damaged"),
        ({"forgotten": 7}, "is damaged"),
    ],
)
def test_what_cannot_be_read_is_not_guessed_at(change, says):
    store = stored({**CLAIMS, **change})
    with pytest.raises(ParameterError, match=says) as caught:
        new_events(context("two", event(0), event(3), store=store), BASKETS)
    assert KEY in str(caught.value)
    assert store.writes == 0


@given(bad_values(CLAIMS))
def test_nothing_that_is_stored_raises_anything_else(value):
    with suppress(ParameterError):
        new_events(context("two", event(0), event(3), store=stored(value)), BASKETS)


@pytest.mark.parametrize("has_store", [True, False])
def test_an_event_of_a_newer_version_is_not_left_out(has_store):
    """A run that was not given it would never be."""
    newer = Event({"payload": {**news(1).to_json(), "format": 2, "ids": {"first": "a"}}})
    store = Store() if has_store else None
    with pytest.raises(ParameterError, match="has format 2, and this version reads format 1"):
        new_events(context("one", event(0), newer, store=store), BASKETS)
    assert store is None or store.writes == 0
