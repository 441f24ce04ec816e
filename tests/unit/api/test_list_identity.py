# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whose list a watermark or the position of a watch is about, and what counts as another one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from limio_limitrail.api.pagination import SinglePage
from limio_limitrail.api.query import differences, list_source
from limio_limitrail.api.resource import AuthMode, Resource, TimeFilter

THINGS = Resource(
    name="things",
    path="/{kind}/things",
    path_defaults={"kind": "small"},
    time_column="at",
    columns={"at": "data.at", "size": "data.size"},
    time_filter=TimeFilter(since="after", field="at"),
)
OWNER = {"base URL": "https://one.example", "client": "c1"}
LIST = ("list",)
TIME = ("time filter or time column",)
LISTS = {
    "another path": (replace(THINGS, path="/other/things"), LIST),
    "another default of the path": (replace(THINGS, path_defaults={"kind": "large"}), LIST),
    "another query that always goes along": (replace(THINGS, params={"state": "sold"}), LIST),
    "other records of the answer": (replace(THINGS, records="rows"), LIST),
    "another time filter": (replace(THINGS, time_filter=TimeFilter(since="createdAfter", field="at")), TIME),
    "an upper bound": (replace(THINGS, time_filter=TimeFilter(since="after", until="before", field="at")), TIME),
    "another time column": (replace(THINGS, time_column="size"), TIME),
    "another place of the time column": (replace(THINGS, columns={"at": "data.created", "size": "data.size"}), TIME),
    "another paging": (replace(THINGS, paging=SinglePage(), total="hits", max_page_size=5), ()),
    "words that only explain": (
        replace(THINGS, assumed=("all",), scope="x", time_filter=TimeFilter(since="after", field="created", required=True)),
        (),
    ),
    "other columns": (replace(THINGS, columns={"at": "data.at"}, timestamps=("at",), primary_key=("key",)), ()),
    "other ways to authenticate": (replace(THINGS, credentials=frozenset(AuthMode)), ()),
    "another name": (replace(THINGS, name="renamed"), ()),
}
OWNERS = {
    "another host": ({"base URL": "https://two.example", "client": "c1"}, OWNER, ("base URL",)),
    "another client": ({**OWNER, "client": "c2"}, OWNER, ("client",)),
    "the client of a tenant that was named": ({**OWNER, "client": "c2", "tenant": "t"}, {**OWNER, "tenant": "t"}, ()),
    "another tenant": ({**OWNER, "tenant": "t2"}, {**OWNER, "tenant": "t"}, ("tenant",)),
    "another tenant and client": ({**OWNER, "client": "c2", "tenant": "t2"}, {**OWNER, "tenant": "t"}, ("tenant",)),
    "a tenant that is named now": ({**OWNER, "tenant": "t"}, OWNER, ()),
    "a tenant that is not named any more": (OWNER, {**OWNER, "tenant": "t"}, ()),
    "a tenant that is named now, and another client": ({**OWNER, "client": "c2", "tenant": "t"}, OWNER, ("client",)),
    "a key instead of a client": ({"base URL": OWNER["base URL"]}, OWNER, ()),
    "a host under the name of the tenant": (
        {"base URL": "https://two.example", "client": "c1", "tenant": "t"},
        {**OWNER, "tenant": "t"},
        ("base URL",),
    ),
}


def source(resource=THINGS, owner=OWNER, path_params=None):
    return list_source(resource, path_params=path_params, owner=owner)


@pytest.mark.parametrize("case", LISTS)
def test_lists(case):
    resource, differ = LISTS[case]
    assert differences(source(), source(resource)) == differ


@pytest.mark.parametrize("case", OWNERS)
def test_owners(case):
    now, known, differ = OWNERS[case]
    assert differences(source(owner=known), source(owner=now)) == differ


def test_a_placeholder_that_says_its_default_is_the_same_list():
    assert source(path_params={"kind": "small"}) == source()
    assert differences(source(), source(path_params={"kind": "large"})) == LIST


def test_what_is_stored_names_nobody():
    assert not [value for value in OWNER.values() if value in json.dumps(source())]


@pytest.mark.parametrize("known", [None, {}])
def test_what_nobody_has_noted_is_taken_over(known):
    assert differences(known, source()) == ()
