# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a trigger is made of, as JSON. An earlier version wrote the files in ``stored_waits``: each later one reads them."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.resource import AuthMode, Resource, TimeFilter, resource_from_json, resource_to_json
from limio_limitrail.limio.resources import RESOURCES as LIMIO
from limio_limitrail.limitrail.resources import RESOURCES as LIMITRAIL
from limio_limitrail.polling.conditions import Missing, ObjectCondition, RecordsCondition, condition_from_json, condition_to_json
from limio_limitrail.triggers.base import KWARGS_FORMAT
from limio_limitrail.triggers.limio import LimioWaitTrigger
from limio_limitrail.triggers.limitrail import LimitRailWaitTrigger
from tests.support.stored import bad_values

WIRE = Path(__file__).parent / "stored_waits"
OWN = Resource(
    name="things",
    path="/{kind}/things",
    paging=CursorString(page_size_param="size", cursor_param="after", cursor_member="next"),
    records="rows",
    primary_key=("kind", "number"),
    time_column="at",
    time_filter=TimeFilter(since="after", field="at", until="before"),
    timestamps=("at",),
    columns={"at": "data.at"},
    params={"all": "true"},
    path_defaults={"kind": "small"},
    total="hits",
    detail_path="/things/{id}",
    credentials=frozenset({AuthMode.OAUTH, AuthMode.API_KEY}),
    scope="things.read",
    assumed=("everything",),
    max_page_size=7,
    ignored_members=("sum",),
)
WAITS: dict[str, tuple[Any, str | None]] = {
    "object_there": (ObjectCondition(path_type="orders", object_id="order-1"), None),
    "object_status": (
        ObjectCondition(
            path_type="process",
            object_id="process_1",
            target_statuses=("processed",),
            failed_statuses=("failed", "cancelled"),
            missing=Missing.FAIL,
            service="salesforce",
        ),
        None,
    ),
    "baskets": (
        RecordsCondition(
            resource=LIMIO["abandoned_baskets"],
            since=datetime(2026, 10, 1, tzinfo=UTC),
            min_records=3,
            page_size=50,
        ),
        None,
    ),
    "catalog_item": (RecordsCondition(resource=LIMIO["published_catalog.offers2"], query_params={"path": "/offers2/one"}), None),
    "usage": (
        RecordsCondition(
            resource=LIMITRAIL["usage"],
            since=datetime(2026, 10, 1, tzinfo=UTC),
            until=datetime(2026, 10, 2, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2))),
        ),
        "operator.truth",
    ),
    "own_resource": (RecordsCondition(resource=OWN, path_params={"kind": "large"}), None),
}
OFTEN = {"poke_interval": 60.0, "deadline": 1_800_000_000.25, "max_transient_failures": 10}
TRIGGERS: dict[str, Any] = {
    "trigger_limio": LimioWaitTrigger(
        limio_conn_id="limio_default", condition=condition_to_json(WAITS["object_status"][0]), failures=1, not_before=1.5, **OFTEN
    ),
    "trigger_limitrail": LimitRailWaitTrigger(
        limitrail_conn_id="limitrail_default",
        scope=["limitrail.usage.read"],
        condition=condition_to_json(WAITS["usage"][0], predicate="operator.truth"),
        **OFTEN,
    ),
}


def read(name: str) -> Any:
    return json.loads((WIRE / f"{name}.json").read_text())


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", WAITS)
def test_waits_stay_readable(name):
    wait, predicate = WAITS[name]
    if predicate:
        from limio_limitrail.polling.conditions import find_predicate

        wait = replace(wait, predicate=find_predicate(predicate))
    assert condition_to_json(wait, predicate=predicate) == read(name)
    assert condition_from_json(read(name)) == wait


@pytest.mark.parametrize("name", TRIGGERS)
@pytest.mark.parametrize("number", range(1, KWARGS_FORMAT + 1))
def test_triggers_stay_readable(name, number):
    made = TRIGGERS[name]
    classpath, kwargs = made.serialize()
    kept = read(f"{name}_{number}")
    assert kept["kwargs"].get("format_version", 1) == number
    assert ({"classpath": classpath, "kwargs": kwargs} == kept) == (number == KWARGS_FORMAT)
    assert type(made)(**kept["kwargs"]).serialize() == (classpath, kwargs)


def test_no_file_is_left_over():
    triggers = {f"{name}_{number}" for name in TRIGGERS for number in range(1, KWARGS_FORMAT + 1)}
    assert {path.stem for path in WIRE.glob("*")} == {*WAITS, *triggers}


@pytest.mark.parametrize("made", TRIGGERS.values(), ids=TRIGGERS)
@pytest.mark.parametrize("number", [KWARGS_FORMAT + 1, 0, -1, "2", None, True, [], {}])
def test_a_trigger_of_a_newer_version_says_so(made, number):
    """Whatever it is made of, and without a look at the API."""
    kept = {"format_version": number, "condition": {"kind": "comet"}, "tail": [1]}
    one = type(made)(**kept)
    assert one.serialize() == (made.serialize()[0], kept)

    async def events() -> list[Any]:
        return [event.payload async for event in one.run()]

    [event] = asyncio.run(events())
    assert (event["kind"], event["format"]) == ("no_answer", 1)
    assert "The trigger of the wait" in event["message"]
    assert "A retry of the task starts a new wait" in event["message"]
    if number == KWARGS_FORMAT + 1:
        assert "has format 2, and this version reads format 1" in event["message"]
    else:
        assert "carries no format" in event["message"]


@given(bad_values(*(read(name) for name in WAITS)))
def test_no_wait_raises_anything_else(value):
    with suppress(ParameterError):
        condition_from_json(value)


# -- resources -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", [*LIMIO.values(), *LIMITRAIL.values(), OWN], ids=lambda one: one.name)
def test_resources_of_the_tables(resource):
    plain = resource_to_json(resource)
    assert through_json(plain) == plain
    assert resource_from_json(through_json(plain)) == resource


NAMES = st.text("abcdefgh._-\u00e9\U0001f600", min_size=1, max_size=8)
PAIRS = st.dictionaries(NAMES, NAMES, max_size=3)
SEVERAL = st.lists(NAMES, max_size=3).map(tuple)
PAGINGS = st.one_of(
    st.builds(CursorPair, page_size_param=st.none() | NAMES, cursor_repeats=st.booleans(), resumable=st.booleans()),
    st.builds(CursorString, page_size_param=st.none() | NAMES, cursor_param=NAMES, cursor_member=NAMES),
    st.builds(SinglePage, page_size_param=st.none() | NAMES),
)
RESOURCES = st.builds(
    Resource,
    name=NAMES,
    path=NAMES.map(lambda name: f"/{name}/{{id}}"),
    paging=PAGINGS,
    records=NAMES,
    primary_key=SEVERAL,
    time_column=st.none() | NAMES,
    time_filter=st.none() | st.builds(TimeFilter, since=NAMES, field=NAMES, required=st.booleans(), until=st.none() | NAMES),
    timestamps=SEVERAL,
    columns=PAIRS,
    params=PAIRS,
    path_defaults=PAIRS,
    total=st.none() | NAMES,
    detail_path=st.none() | NAMES,
    credentials=st.frozensets(st.sampled_from(AuthMode)),
    scope=st.none() | NAMES,
    assumed=SEVERAL,
    max_page_size=st.none() | st.integers(1, 10**6),
    ignored_members=SEVERAL,
)
TIMES = st.none() | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7, minutes=-30))]))


@given(RESOURCES)
def test_any_resource(resource):
    assert resource_from_json(through_json(resource_to_json(resource))) == resource


@given(st.builds(RecordsCondition, resource=RESOURCES, path_params=PAIRS, query_params=PAIRS, since=TIMES, until=TIMES,
                 min_records=st.integers(1, 10**9), page_size=st.integers(1, 10**6)))  # fmt: skip
def test_any_wait_for_records(wait):
    assert condition_from_json(through_json(condition_to_json(wait))) == wait


@given(
    st.builds(
        ObjectCondition,
        path_type=NAMES,
        object_id=st.text(),
        target_statuses=st.lists(NAMES.map("good {}".format), min_size=1).map(tuple),
        failed_statuses=st.lists(NAMES.map("bad {}".format)).map(tuple),
        missing=st.sampled_from(Missing),
        service=NAMES,
    )
)
def test_any_wait_for_an_object(wait):
    assert condition_from_json(through_json(condition_to_json(wait))) == wait


def test_every_field_is_generated():
    """A field that Resource gets one day is to be in the tests above, too."""
    assert {one.name for one in fields(Resource)} == set(resource_to_json(OWN))
    assert all(getattr(OWN, one.name) != one.default for one in fields(Resource))


def test_a_later_version():
    plain = resource_to_json(OWN)
    assert resource_from_json({**plain, "colour": "green", "sizes": [1, 2], "shape": {"of": "things"}}) == OWN
    assert condition_from_json({**read("object_there"), "colour": "green"}) == WAITS["object_there"][0]
    assert condition_from_json({**read("baskets"), "colour": "green"}) == WAITS["baskets"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"paging": {"style": "Bookmarks"}},
        {"paging": {"style": "CursorString", "colour": "green"}},
        {"paging": None},
        {"time_filter": {"since": "from"}},
        {"credentials": ["password"]},
        {"credentials": None},
    ],
)
def test_what_a_later_version_means_otherwise(change):
    """How pages follow each other and who may ask is nothing to guess."""
    wait = read("baskets")
    wait["resource"] |= change
    with pytest.raises(ParameterError, match="cannot be read"):
        condition_from_json(wait)


@pytest.mark.parametrize(
    "wait",
    [
        {},
        {"kind": "records"},
        {"kind": "object", "path_type": "orders"},
        {**WAITS["object_there"][0].__dict__, "kind": "object", "missing": "perhaps"},
        None,
        [],
        "object",
    ],
)
def test_what_is_no_wait(wait):
    with pytest.raises(ParameterError, match="cannot be read"):
        condition_from_json(wait)


def test_a_wait_of_a_kind_that_is_not_known():
    with pytest.raises(ParameterError, match="does not know: 'comet'"):
        condition_from_json({"kind": "comet"})


@pytest.mark.parametrize("name", ["since", "until"])
def test_a_time_that_is_none(name):
    with pytest.raises(ParameterError, match="cannot be read"):
        condition_from_json({**read("usage"), name: "yesterday"})


def test_paging_of_ones_own():
    @dataclass(frozen=True, kw_only=True)
    class Bookmarks(CursorString):
        pass

    @dataclass(frozen=True, kw_only=True)
    class SinglePage(CursorString):
        """Its name is one that is known."""

    for paging in (Bookmarks(), SinglePage()):
        with pytest.raises(ParameterError, match="which a triggerer cannot make"):
            condition_to_json(RecordsCondition(resource=replace(OWN, paging=paging)))


@pytest.mark.parametrize("params", ["path_params", "query_params"])
def test_params_become_text(params):
    moment = datetime(2026, 10, 1, tzinfo=UTC)
    wait = RecordsCondition(resource=OWN, **{params: {"a": True, "b": 7, "c": moment, "d": None, "e": "x"}})  # type: ignore[arg-type]
    assert condition_to_json(wait)[params] == {"a": "true", "b": "7", "c": "2026-10-01T00:00:00Z", "e": "x"}
    with pytest.raises(ParameterError, match="parameter 'a'"):
        condition_to_json(replace(wait, **{params: {"a": ["x"]}}))  # type: ignore[arg-type]


def test_nothing_else_can_be_written():
    with pytest.raises(ParameterError, match="a str cannot be handed to a triggerer"):
        condition_to_json("orders")  # type: ignore[arg-type]
