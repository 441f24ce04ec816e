# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What an event trigger is made of, as Airflow keeps it. The files in ``wire`` are what an earlier version wrote."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.models.trigger import Trigger
from airflow.sdk.serde import deserialize, serialize
from airflow.triggers.base import BaseEventTrigger

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.pagination import CursorString, SinglePage
from limio_limitrail.api.resource import AuthMode, Resource, TimeFilter
from limio_limitrail.triggers.base import KWARGS_FORMAT
from limio_limitrail.triggers.events import ResourceEventTrigger, WatchParameterError
from limio_limitrail.triggers.limio import LimioResourceEventTrigger
from limio_limitrail.triggers.limitrail import LimitRailResourceEventTrigger
from limio_limitrail.triggers.watch import Watcher

WIRE = Path(__file__).parent / "wire"
OWN = Resource(
    name="things",
    path="/{kind}/things",
    paging=CursorString(page_size_param="size", cursor_param="after", cursor_member="next"),
    records="rows",
    primary_key=("kind", "number"),
    time_column="at",
    time_filter=TimeFilter(since="after", field="at", until="before"),
    columns={"at": "data.at"},
    path_defaults={"kind": "small"},
    credentials=frozenset({AuthMode.OAUTH, AuthMode.API_KEY}),
    max_page_size=7,
)
KEPT: dict[str, ResourceEventTrigger] = {
    "event_limio": LimioResourceEventTrigger(resource="abandoned_baskets"),
    "event_limio_full": LimioResourceEventTrigger(
        limio_conn_id="limio_other",
        resource="related",
        path_params={"id": "one", "path_type": "orders"},
        query_params={"all": True, "most": 7, "none": None},
        predicate="my_package.my_module.is_large",
        since=datetime(2026, 10, 1, 14, 30, 15, 250_000, tzinfo=timezone(timedelta(hours=2))),
        poke_interval=timedelta(minutes=5),
        overlap=90,
        page_size=50,
    ),
    "event_limitrail": LimitRailResourceEventTrigger(resource="usage", scope="limitrail.usage.read other", since="2026-10-01"),
    "event_own_resource": LimioResourceEventTrigger(resource=OWN, path_params={"kind": "large"}),
}

PLACES = {
    "event_limio": "limio_limitrail.watch.ba07272c5a371041b0be2d03",
    "event_limio_full": "limio_limitrail.watch.2bca6ff700cbbeab5740c54e",
    "event_limitrail": "limio_limitrail.watch.e31f8ba76475c3e27ebc2596",
    "event_own_resource": "limio_limitrail.watch.f8b7fa707544a4143a61bfe0",
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("number", range(1, KWARGS_FORMAT + 1))
def test_triggers_stay_readable(name, number):
    one = KEPT[name]
    classpath, kwargs = one.serialize()
    kept = json.loads((WIRE / f"{name}_{number}.json").read_text())
    assert kept["kwargs"].get("format_version", 1) == number
    assert ({"classpath": classpath, "kwargs": kwargs} == kept) == (number == KWARGS_FORMAT)
    again = type(one)(**kept["kwargs"])
    assert again.serialize() == (classpath, kwargs)
    assert again.shared_stream_key() == one.shared_stream_key()
    assert again.resource == one.resource
    # Under it, the asset's state store keeps where the watch stands.
    assert Watcher(again.spec(), stores=()).key == Watcher(one.spec(), stores=()).key == PLACES[name]
    # What its first version had to be given is all that is needed.
    needed = {name: kept["kwargs"][name] for name in ("resource", "path_params", "query_params")}
    assert type(one)(**needed).resource == one.resource
    assert "secret" not in repr(again)


@pytest.mark.parametrize("number", [KWARGS_FORMAT + 1, 0, "2", None, {}])
@pytest.mark.parametrize("made", KEPT.values(), ids=KEPT)
def test_a_trigger_of_a_newer_version(made, number):
    """It is not made, and Airflow's triggerer logs why. It survives a ``TypeError`` alone."""
    with pytest.raises(WatchParameterError, match="then the watch continues where it stopped") as caught:
        type(made)(format_version=number, resource=made.resource.name, list={"of": "comets"})
    assert isinstance(caught.value, TypeError)
    if number == KWARGS_FORMAT + 1:
        assert "has format 2, and this version reads format 1" in str(caught.value)


@pytest.mark.parametrize("name", KEPT)
def test_airflow_keeps_them(name):
    """It tells triggers apart by what they are made of: that is the same before and after."""
    classpath, kwargs = KEPT[name].serialize()
    assert classpath.rpartition(".")[2] == type(KEPT[name]).__name__
    assert deserialize(json.loads(json.dumps(serialize(kwargs)))) == kwargs
    row = Trigger(classpath=classpath, kwargs=kwargs)
    assert row.kwargs == kwargs
    again = type(KEPT[name])(**row.kwargs)
    assert BaseEventTrigger.hash(classpath, row.kwargs) == BaseEventTrigger.hash(*again.serialize())


def test_no_file_is_left_over():
    assert {path.stem for path in WIRE.glob("*")} == {
        f"{name}_{number}" for name in KEPT for number in range(1, KWARGS_FORMAT + 1)
    }


def test_every_parameter_is_kept():
    for one in (LimioResourceEventTrigger, LimitRailResourceEventTrigger):
        named = {*inspect.signature(one).parameters} - {"unknown"}
        assert named == {*one(resource=OWN).serialize()[1]}


@dataclass(frozen=True, kw_only=True)
class Bookmarks(CursorString):
    pass


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"resource": "abandoned_basket"}, "Did you mean 'abandoned_baskets'"),
    ({"resource": ""}, "resource must be the name of a resource, or a Resource"),
    ({"resource": None}, "resource must be the name of a resource, or a Resource"),
    ({"resource": 7}, "resource must be the name of a resource, or a Resource"),
    ({"resource": {}}, "resource must be the name of a resource, or a Resource"),
    ({"resource": {"name": "things", "path": "/things"}}, "the name of a resource, or a Resource, got a dict"),
    ({"resource": Resource(name="things", path="/", paging=Bookmarks())}, "a Resource with one of the provider's own pagings"),
    ({"query_params": {"id": ["x"]}}, "query_params['id'] must be a text, a number, a boolean or a time"),
    ({"query_params": ["id"]}, "query_params must be a mapping of names to values"),
    ({"query_params": "id=1"}, "query_params must be a mapping of names to values"),
    ({"path_params": {"id": ["x"]}}, "path_params['id'] must be a text, a number, a boolean or a time"),
    ({"path_params": ["id"]}, "path_params must be a mapping of names to values"),
    ({"resource": "identity_subscriptions"}, "give path_params={'id': ...}"),
    ({"resource": "related", "path_params": {"id": ".."}}, "needs a value for"),
    ({"resource": "related", "path_params": {"ids": "1"}}, "has no placeholder 'ids': it has service, path_type, id."),
    ({"resource": "orders", "query_params": {"service": "zuora"}}, "query parameter 'service' is a placeholder in the path"),
    ({"query_params": {"queryMore": "x"}}, "query parameter 'queryMore' is the paging cursor of 'abandoned_baskets'"),
    ({"query_params": {"createdAfter": "2026-01-01T00:00:00Z"}}, "leave 'createdAfter' out of query_params"),
    ({"predicate": bool}, "must be an import path, such as my_package.my_module.my_function"),
    ({"since": "yesterday"}, "such as 2026-01-01T00:00:00Z"),
    ({"since": 1_790_000_000}, "a number of seconds or milliseconds since 1970 is not read"),
    ({"since": "0001-01-01T00:00:00+10:00"}, "a time between the years"),
    ({"resource": "catalog", "since": "2026-10-01"}, "known are"),
    ({"resource": Resource(name="things", path="/things"), "since": "2026-10-01"}, "have no time: leave since out"),
    ({"poke_interval": 0}, "of at least 0:00:00.010000"),
    ({"poke_interval": -1}, "of at least 0:00:00.010000"),
    ({"poke_interval": timedelta(days=4000)}, "at most 3650 days"),
    ({"poke_interval": float("nan")}, "a timedelta, seconds, or an ISO 8601 duration"),
    ({"poke_interval": "often"}, "a timedelta, seconds, or an ISO 8601 duration"),
    ({"poke_interval": None}, "a timedelta, seconds, or an ISO 8601 duration"),
    ({"poke_interval": 10**400}, "a span of time below"),
    ({"overlap": -0.1}, "of at least 0:00:00"),
    ({"overlap": float("inf")}, "at most 3650 days"),
    ({"overlap": [1]}, "a timedelta, seconds, or an ISO 8601 duration"),
    ({"page_size": 0}, "page_size must be a whole number of at least 1"),
    ({"page_size": 1.5}, "page_size must be a whole number of at least 1"),
    ({"page_size": None}, "page_size must be a whole number of at least 1"),
    ({"since": "{{ ds }}"}, "since is not a template"),
    ({"intervall": 60}, "has no parameter 'intervall': correct it"),
    ({"limitrail_conn": "x"}, "has no parameter 'limitrail_conn'"),
]


@pytest.mark.parametrize(("given", "says"), WRONG, ids=lambda value: None if isinstance(value, str) else str(value)[:60])
def test_parameters_that_are_wrong(given, says):
    """Airflow's triggerer survives a ``TypeError`` alone, and people read the sentence."""
    with pytest.raises(WatchParameterError) as caught:
        LimioResourceEventTrigger(**{"resource": "abandoned_baskets", **given})
    assert says in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ParameterError)


def test_parameters_that_are_right():
    one = LimioResourceEventTrigger(resource="abandoned_baskets", since="", poke_interval="30", overlap=0, path_params=None)  # type: ignore[arg-type]
    assert (one.since, one.poke_interval, one.overlap, one.path_params) == (None, 30.0, 0.0, {})
    assert LimioResourceEventTrigger(resource="orders", since="2026-10-01").since == datetime(2026, 10, 1, tzinfo=UTC)
    assert LimioResourceEventTrigger(resource="orders", since=date(2026, 10, 1)).since == datetime(2026, 10, 1, tzinfo=UTC)  # type: ignore[arg-type]
    assert LimioResourceEventTrigger(resource="orders", page_size="100").page_size == 100  # type: ignore[arg-type]
    assert LimioResourceEventTrigger(resource=Resource(name="things", path="/", paging=SinglePage())).named is None
    assert LimitRailResourceEventTrigger(resource="usage", scope=["a", "b"]).scope == ("a", "b")
