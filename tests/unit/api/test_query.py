# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""No value can leave its place in a path or a query."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.query import as_text, build_query, time_text
from limio_limitrail.api.resource import Resource, TimeFilter
from limio_limitrail.urls import unfit_part
from tests.support.strategies import examples

THING = Resource(name="things", path="/things/{kind}/x-{id}/list", path_defaults={"kind": "k"})
FILTERED = Resource(name="f", path="/f", time_filter=TimeFilter(since="after", field="t", required=True))
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@settings(max_examples=examples(60))
@given(value=TEXT, name=TEXT, other=TEXT)
@example(value="../../admin", name="a&b=c", other="1&x=2#y")
@example(value="%2e%2e", name="a", other="%26b%3D1")
@example(value="a/b?c#d;e", name="ü=", other="+ %")
@example(value="\r\nHost: evil", name="\x00", other="\r\n")
def test_what_a_person_gives_arrives_as_it_is_in_its_own_place(site, make_client, value, name, other):
    if unfit_part(value) is not None:
        with pytest.raises(ParameterError, match="'id'"):
            build_query(THING, path_params={"id": value})
        return
    client = make_client(site)
    client.auth.credential = lambda: None
    client.auth.header = lambda _: "x"
    path, query = build_query(THING, path_params={"id": value}, query_params={} if name in {"id", "kind"} else {name: other})
    client.send(path=path, params=query)
    path, _, raw = site.seen[-1]["target"].partition("?")
    segments = path.split("/")
    assert segments[:3] == ["", "api", "things"]
    assert len(segments) == 6
    assert unquote(segments[4]) == f"x-{value}"
    assert parse_qsl(raw, keep_blank_values=True) == ([] if name in {"id", "kind"} else [(name, other)])


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_value_that_would_change_the_path_is_refused(value):
    with pytest.raises(ParameterError, match="'id'"):
        build_query(THING, path_params={"id": value})


def test_a_placeholder_without_a_value_is_named():
    with pytest.raises(ParameterError, match="needs a value for 'id'"):
        build_query(THING)
    assert build_query(THING, path_params={"id": 5, "kind": None})[0] == "/things/k/x-5/list"


def test_a_missing_placeholder_is_told_with_those_of_the_path():
    with pytest.raises(ParameterError, match=r"give path_params=\{'id': \.\.\.\}; the path's placeholders are kind, id"):
        build_query(THING, path_params={"kind": "k"})


@pytest.mark.parametrize(
    ("resource", "has"),
    [(THING, "it has kind, id"), (Resource(name="things", path="/things"), "it has none")],
    ids=["some", "none"],
)
def test_a_misspelt_placeholder_does_not_become_a_query_parameter(resource, has):
    with pytest.raises(ParameterError, match=f"has no placeholder 'knd': {has}"):
        build_query(resource, path_params={"knd": "k"})


def test_a_placeholder_is_named_by_a_text():
    with pytest.raises(ParameterError, match="has no placeholder '1': it has kind, id"):
        build_query(THING, path_params={1: "k"})


def test_a_query_parameter_named_like_a_placeholder_is_refused():
    with pytest.raises(ParameterError, match=r"query parameter 'kind' is a placeholder .* path_params, which takes kind, id"):
        build_query(THING, path_params={"id": "1"}, query_params={"kind": "k"})
    assert build_query(THING, path_params={"id": "1"}, query_params={"kind": None, "q": "x"})[1] == {"q": "x"}


@pytest.mark.parametrize(
    ("paging", "name"),
    [
        (CursorString(), "queryMore"),
        (CursorString(cursor_param="after"), "after"),
        (CursorPair(), "opt.queryMoreFrom"),
        (CursorPair(), "opt.queryMoreAlias"),
    ],
)
def test_a_place_in_the_list_cannot_be_given(paging, name):
    """The records before it would be missing, and the table would be green."""
    with pytest.raises(ParameterError, match=rf"'{name}' is the paging cursor of 'things'"):
        build_query(Resource(name="things", path="/things", paging=paging), query_params={name: "x"})


@pytest.mark.parametrize("name", ["limit", "queryMore", "after"])
def test_what_is_no_place_in_this_list_can_be_given(name):
    for resource in (
        Resource(name="things", path="/things", paging=SinglePage()),
        Resource(name="things", path="/things", paging=CursorString(cursor_param="more")),
    ):
        assert build_query(resource, query_params={name: "x", "other": None}) is not None
    in_path = Resource(name="things", path="/{" + name + "}", paging=CursorString(cursor_param=name))
    assert build_query(in_path, path_params={name: "x"}) is not None


@pytest.mark.parametrize(("value", "query_params"), [("\ud800", {}), ("x", {"q": "a\udfff"})])
def test_half_a_surrogate_pair_is_refused(value, query_params):
    with pytest.raises(ParameterError, match="surrogate"):
        build_query(THING, path_params={"id": value}, query_params=query_params)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (1.5, "1.5"),
        ("x", "x"),
        (datetime(2026, 1, 1, 2, 30, 5, 999999, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T00:30:05Z"),
    ],
)
def test_values_become_text(value, text):
    assert as_text("p", value) == text


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"x", object()])
def test_what_has_no_text_form_is_refused(value):
    with pytest.raises(ParameterError, match="'p'"):
        as_text("p", value)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ParameterError, match="no zone"):
        build_query(FILTERED, since=datetime(2026, 1, 1))


def test_a_start_in_time_goes_into_the_filter():
    assert build_query(FILTERED, since=datetime(2026, 1, 1, tzinfo=UTC))[1] == {"after": "2026-01-01T00:00:00Z"}
    with pytest.raises(ParameterError, match="needs a start in time"):
        build_query(FILTERED)
    with pytest.raises(ParameterError, match="cannot be filtered by time"):
        build_query(THING, path_params={"id": "1"}, since=datetime(2026, 1, 1, tzinfo=UTC))


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.timezones()))
def test_a_lower_bound_is_never_later_than_asked(when):
    text = as_text("since", when)
    back = datetime.fromisoformat(text)
    assert timedelta(0) <= when - back < timedelta(seconds=1)


BOTH_ENDS = Resource(name="w", path="/w", time_filter=TimeFilter(since="from", until="to", field="t", required=True))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_bounds_go_out_in_whole_seconds_that_lose_nothing():
    _, query = build_query(BOTH_ENDS, since=NOON + timedelta(microseconds=1), until=NOON + timedelta(seconds=1, microseconds=1))
    assert query == {"from": "2026-01-01T12:00:00Z", "to": "2026-01-01T12:00:02Z"}
    _, query = build_query(BOTH_ENDS, since=NOON, until=NOON.astimezone(timezone(timedelta(hours=5))) + timedelta(seconds=1))
    assert query == {"from": "2026-01-01T12:00:00Z", "to": "2026-01-01T12:00:01Z"}


@pytest.mark.parametrize(
    "bounds", [{}, {"since": NOON}, {"until": NOON}, {"query_params": {"from": "2026"}}, {"query_params": {"to": "2026"}}]
)
def test_a_window_that_lacks_an_end_is_refused(bounds):
    with pytest.raises(ParameterError, match=r"without from and to: give since=\.\.\. and until=\.\.\."):
        build_query(BOTH_ENDS, **bounds)


def test_bounds_may_come_as_parameters():
    given = {"from": "2026-01-01", "to": "2026-01-02"}
    assert build_query(BOTH_ENDS, query_params=given)[1] == given


@pytest.mark.parametrize("given", [{"query_params": {"from": "2026-06-01", "to": ""}}, {"query_params": {"to": 5, "from": 5}}])
@pytest.mark.parametrize("bound", ["since", "until"])
def test_a_bound_that_is_given_twice_is_refused(given, bound):
    """One of them would win, and the log and the watermark would be about the other."""
    parameter = {"since": "from", "until": "to"}[bound]
    with pytest.raises(ParameterError, match=f"query parameter '{parameter}' of 'w' is how the range of time says {bound}="):
        build_query(BOTH_ENDS, **given, **{bound: NOON})
    of_its_own = replace(BOTH_ENDS, params={parameter: "2026"})
    with pytest.raises(ParameterError, match=r"leave '.*' out of query_params and of the Resource's params"):
        build_query(of_its_own, **{bound: NOON})


def test_the_other_bound_may_come_as_a_parameter():
    given = {"to": "2026-06-01", "from": None}
    assert build_query(BOTH_ENDS, since=NOON, query_params=given)[1] == {"from": "2026-01-01T12:00:00Z", "to": "2026-06-01"}


@pytest.mark.parametrize("since", [NOON, NOON + timedelta(seconds=1)])
def test_a_window_without_anything_in_it_is_refused(since):
    with pytest.raises(ParameterError, match=r"since=2026-01-01T12:00:0.* is not before until=2026-01-01T12:00:00"):
        build_query(BOTH_ENDS, since=since, until=NOON)


@pytest.mark.parametrize("resource", [THING, FILTERED])
def test_an_upper_bound_that_nothing_takes_is_refused(resource):
    with pytest.raises(ParameterError, match="no upper bound in time: leave until out"):
        build_query(resource, path_params=dict.fromkeys(resource.placeholders(), "x"), until=NOON)


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), "0001-01-01T00:00:00Z"),
        (datetime(999, 12, 31, 23, 59, 59, tzinfo=UTC), "0999-12-31T23:59:59Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59Z"),
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))), "9999-12-31T23:59:59Z"),
    ],
)
def test_the_ends_of_time_can_be_asked_for(bound, text):
    assert time_text(bound) == time_text(bound, up=True) == text
