# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The pages that a connection names."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import Connection
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.api.errors import ConnectionFieldError
from limio_limitrail.hooks.api_connections import read_limio_connection, read_limitrail_connection
from limio_limitrail.hooks.connection import page_url
from limio_limitrail.urls import unfit_part


def connection(pages: object) -> Connection:
    extra = json.dumps({"pages": pages, "scope": "limitrail.usage.read"})
    return Connection(conn_id="c", conn_type="limio", host="acme.prod.limio.com", login="id", password="secret", extra=extra)


@pytest.mark.parametrize("read", [read_limio_connection, read_limitrail_connection])
@pytest.mark.parametrize("page", ["/", "/orders/{id}", "https://x.example/{a}?b={c}#d", "http://localhost:3000/"])
def test_paths_and_urls_are_pages(read, page):
    assert read(connection({"orders": page})).pages == (("orders", page),)
    assert read(connection(json.dumps({"orders": page}))).pages == (("orders", page),)


@pytest.mark.parametrize("read", [read_limio_connection, read_limitrail_connection])
@pytest.mark.parametrize(
    "page",
    ["", "orders", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "data:text/html,x", "https://", "/a b",
     "https://user:word@x.example/", "http://[", "/a\nb"],
)  # fmt: skip
def test_all_else_is_refused_with_the_fields_name(read, page):
    with pytest.raises(ConnectionFieldError, match="field 'pages': the page of 'orders' must be a path"):
        read(connection({"orders": page}))


def test_none_are_none():
    assert read_limio_connection(connection(None)).pages == ()
    assert read_limio_connection(connection("")).pages == ()


@given(st.dictionaries(st.sampled_from(["id", "query"]), st.text(st.characters(codec="utf-8"), min_size=1), min_size=2))
def test_a_value_stays_in_its_place(values):
    url = page_url("/a/{id}/b?q={query}&c=1", base="https://app.example", values=values)
    if unfit_part(values["id"]) is not None:
        assert url is None
        return
    assert url is not None
    assert url.count("/") == 5
    assert url.count("?") == 1
    assert url.count("&") == 1
    assert "#" not in url


def test_a_page_whose_value_is_not_known_is_none():
    assert page_url("/orders/{id}", base="https://app.example", values={"resource": "orders"}) is None
