# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A list that ends, in an answer which reports more, is an error; whatever merely sounds like more is none."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import pytest

from limio_limitrail.api.continuation import ListEnd, find_continuation
from limio_limitrail.api.errors import ParameterError, ProtocolError
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.resource import Resource

WHOLE = Resource(name="usage", path="/v1/usage", paging=SinglePage())
PAGED = Resource(name="usage", path="/v1/usage", paging=CursorString())
PAIRED = Resource(name="usage", path="/v1/usage", paging=CursorPair())
RECORDS = [{"id": 1, "next": "/n", "total": 9, "hasMore": True}, {"id": 2, "links": {"next": "/n"}}]

MORE = [
    ({"next": "abc"}, "next"),
    ({"next": 2}, "next"),
    ({"next": "/v1/usage?page=2"}, "next"),
    ({"next": {"href": "/v1/usage?page=2"}}, "next"),
    ({"next": {"after": "x", "link": None}}, "next"),
    ({"nextCursor": "x"}, "nextCursor"),
    ({"next_cursor": 5}, "next_cursor"),
    ({"NextToken": "x"}, "NextToken"),
    ({"nextPageToken": "x"}, "nextPageToken"),
    ({"nextPageUrl": "https://other/x"}, "nextPageUrl"),
    ({"nextRecordsUrl": "/x"}, "nextRecordsUrl"),
    ({"@odata.nextLink": "/x"}, "@odata.nextLink"),
    ({"odata.nextLink": "/x"}, "odata.nextLink"),
    ({"LastEvaluatedKey": {"id": {"S": "x"}}}, "LastEvaluatedKey"),
    ({"queryMore": "x"}, "queryMore"),
    ({"continuationToken": "x"}, "continuationToken"),
    ({"_scroll_id": "x"}, "_scroll_id"),
    ({"metadata": {"continue": "x"}}, "metadata.continue"),
    ({"metadata": {"remainingItemCount": 3}}, "metadata.remainingItemCount"),
    ({"links": {"next": "/x"}}, "links.next"),
    ({"_links": {"self": {"href": "/a"}, "next": {"href": "/b"}}}, "_links.next"),
    ({"links": [{"rel": "self", "href": "/a"}, {"rel": "next", "href": "/b"}]}, "links"),
    ({"link": [{"relation": "next", "url": "/b"}]}, "link"),
    ({"meta": {"page": {"next": 2, "current": 1}}}, "meta.page.next"),
    ({"meta": {"has_more": True}}, "meta.has_more"),
    ({"page": {"hasNext": True}}, "page.hasNext"),
    ({"pageInfo": {"hasNextPage": True, "endCursor": "x"}}, "pageInfo.hasNextPage"),
    ({"pagination": {"next_url": "/x"}}, "pagination.next_url"),
    ({"paging": {"next": {"after": "2"}}}, "paging.next"),
    ({"paging": {"cursors": {"before": "a", "after": "b"}, "next": "https://x/y?after=b"}}, "paging.next"),
    ({"cursor": {"next": "x"}}, "cursor.next"),
    ({"cursors": {"next": "x"}}, "cursors.next"),
    ({"response_metadata": {"next_cursor": "x"}}, "response_metadata.next_cursor"),
    ({"anything": {"nested": {"hasMore": True}}}, "anything.nested.hasMore"),
    ({"anything": {"nextPageToken": "x"}}, "anything.nextPageToken"),
    ({"hasMore": True}, "hasMore"),
    ({"has_more": "true"}, "has_more"),
    ({"hasMore": 1}, "hasMore"),
    ({"more": True}, "more"),
    ({"moreResultsAvailable": True}, "moreResultsAvailable"),
    ({"IsTruncated": True}, "IsTruncated"),
    ({"truncated": True}, "truncated"),
    ({"last": False, "number": 0}, "last"),
    ({"isLastPage": False, "nextPageStart": 25}, "isLastPage"),
    ({"done": False}, "done"),
    ({"complete": False}, "complete"),
    ({"total": 3}, "total"),
    ({"total": "300"}, "total"),
    ({"totalCount": 3}, "totalCount"),
    ({"total_count": 3}, "total_count"),
    ({"count": 3}, "count"),
    ({"@odata.count": 3}, "@odata.count"),
    ({"totalElements": 3}, "totalElements"),
    ({"totalSize": 3}, "totalSize"),
    ({"numFound": 3}, "numFound"),
    ({"hits": {"total": {"value": 3, "relation": "eq"}}}, "hits"),
    ({"meta": {"total": 3}}, "meta.total"),
    ({"meta": {"pagination": {"total": {"count": 3}}}}, "meta.pagination.total"),
    ({"page": {"size": 2, "totalElements": 3, "totalPages": 2, "number": 0}}, "page.totalElements"),
    ({"page": 1, "totalPages": 2}, "totalPages"),
    ({"pages": 2}, "pages"),
    ({"current_page": 1, "last_page": 2}, "last_page"),
    ({"info": {"count": 2, "pages": 3}}, "info.pages"),
    ({"result_info": {"page": 1, "total_pages": 3}}, "result_info.total_pages"),
    ({"meta": {"totalResources": 9}}, "meta.totalResources"),
    ({"matches": 9}, "matches"),
    ({"fullCount": 9}, "fullCount"),
    ({"maxPage": 3}, "maxPage"),
    ({"total": 9, "currency": "EUR"}, "total"),
    ({"header": {"total": 9}}, "header.total"),
    ({"nextSkip": 2}, "nextSkip"),
    ({"nextStartKey": {"id": 1}}, "nextStartKey"),
    ({"more": "Y"}, "more"),
    ({"eof": False}, "eof"),
    ({"more_items_in_collection": True}, "more_items_in_collection"),
    ({"resultLimitExceeded": True}, "resultLimitExceeded"),
    ({"maxResultsReached": "yes"}, "maxResultsReached"),
    ({"link": '</b>; rel="next"'}, "link"),
    ({"headers": {"Link": '</b>; rel="next"'}}, "headers.Link"),
]

NO_MORE = [
    {},
    {"next": None, "nextCursor": "", "hasMore": False, "nextPage": 0, "next_cursor_str": "0", "nextLink": {}, "nextToken": []},
    {"next": {"href": None}, "links": {"next": None, "prev": "/x", "first": "/x", "last": "/x"}},
    {"next": {"rel": "next", "href": ""}, "links": [{"rel": "next", "href": None}, {"rel": "prev", "href": "/x"}]},
    {"links": [{"rel": "self", "href": "/next"}, "next", None]},
    {"has_more": "false", "more": "more about this: https://x", "hasNext": 0, "last": True, "done": True},
    {"last": {"href": "/x?page=1"}, "first": "/x"},
    {"total": 2, "count": 2, "totalPages": 1, "pages": 1, "page": 1},
    {"total": 0, "totalPages": 0},
    {"total": 1},
    {"count": "2", "hits": {"total": {"value": 2, "relation": "eq"}}},
    {"total": 250.5, "count": None, "totalCount": "many", "totalResults": True},
    {"total": "250.00"},
    {"total": {"amount": 250, "currency": "EUR"}},
    {"summary": {"total": 250, "count": 7, "next": "2026-05-01"}},
    {"limit": 100, "pageSize": 100, "per_page": 50, "offset": 0, "size": 100, "to": 100},
    {"nextBillingDate": "2026-05-01", "nextRun": "2026-05-01T00:00:00Z", "nextInvoiceNumber": 7, "nextId": 8},
    {"pageInfo": {"hasNextPage": False, "endCursor": "x", "startCursor": "a"}},
    {"cursor": "x", "after": "x", "cursors": {"after": "x", "before": "y"}},
    {"self": "/v1/usage?page=1", "next": "/v1/usage?page=1"},
    {"_links": {"self": {"href": "/a"}, "next": {"href": "/a"}}},
    {"page": 1, "nextPage": 1},
    {"page": 1, "next": "/v1/usage?page=1&size=100"},
    {"cursor": "x", "nextCursor": "x"},
    {"next": "https://api.example/v1/usage?from=a&to=b"},
    {"links": {"next": "/v1/usage?to=b&from=a"}},
    {"next": "?from=a&to=b"},
    {"pages": [{"next": "/x"}], "data": [{"hasMore": True, "total": 9}], "included": [{"next": "x"}]},
    {"rateLimit": {"remaining": 99, "limit": 100, "total": 100}, "remaining": 99},
    {"header": {"commitId": "f" * 40}, "unpackedItems": [1, 2, 3, 4]},
    {"moreInfo": "https://x", "complete": True, "size": 9, "length": 9},
    {"facets": {"status": {"active": 70, "hasMore": True, "nextPageToken": "x"}}, "aggregations": {"by": {"hasMore": True}}},
    {"included": {"offers": {"nextPageToken": "x"}}, "related": {"hasMore": True}},
    {"schema": {"nextCursor": {"type": "string"}}, "rateLimit": {"nextPage": 3}},
    {"header": {"total": 250, "currency": "EUR"}, "link": "https://next", "more": "n"},
    {"rateLimitExceeded": True, "limitReached": True, "maxPageSize": 500, "maxResults": 500},
    {"nextSyncToken": "x", "@odata.deltaLink": "/x", "deltaLink": "/x"},
]


def told(more, headers=None, *, records=2, pages=1):
    meta = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in more.items()}
    end = ListEnd(records=records, pages=pages, target="/v1/usage?from=a&to=b")
    return find_continuation(meta, headers or {}, end=end)


@pytest.mark.parametrize(("more", "path"), MORE, ids=lambda value: json.dumps(value)[:50])
def test_what_reports_more_is_named(more, path):
    found = told(more)
    assert found is not None
    assert found.path == path
    assert (
        told(more, records=10**6, pages=10**6) is None
        or not any(word in path.lower() for word in ("total", "count", "pages"))
        or "remaining" in path
    )


@pytest.mark.parametrize("more", NO_MORE, ids=lambda value: json.dumps(value)[:50])
def test_what_only_sounds_like_more_is_none(more):
    assert told(more) is None


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"Link": '</v1/usage?page=2>; rel="next"'}, "Link"),
        ({"link": "<https://x/y?page=2>; rel=next"}, "link"),
        ({"Link": '</a?x=1,2>; rel="prev", </b>; title="a, b"; rel="last next"'}, "Link"),
        ({"Link": "</b>;REL=NEXT"}, "Link"),
        ({"X-Next-Page": "2"}, "X-Next-Page"),
        ({"X-Has-More": "true"}, "X-Has-More"),
        ({"X-Total-Count": "3"}, "X-Total-Count"),
        ({"X-Total-Pages": "2"}, "X-Total-Pages"),
        ({"Pagination-Count": "3"}, "Pagination-Count"),
        ({"Content-Range": "items 0-1/3"}, "Content-Range"),
        ({"Link": '</v1/usage?from=a&to=b>; rel="next"'}, None),
        ({"Link": '</b>; rel="prev", </c>; rel="last"; title="next"'}, None),
        ({"Link": '</next>; rel="self"'}, None),
        ({"Link": "nonsense, <>; rel"}, None),
        ({"X-Next-Page": "", "X-Page": "1", "X-Total": "2", "X-Total-Count": "2", "X-Per-Page": "9"}, None),
        ({"X-RateLimit-Remaining": "9", "X-Rate-Limit-Total": "99", "Content-Length": "99", "Date": "x"}, None),
        ({"Content-Range": "bytes 0-1/*"}, None),
    ],
)
def test_headers(headers, name):
    found = told({}, headers)
    assert (found and found.path) == name
    assert found is None or found.is_header


# -- through a socket ------------------------------------------------------------------------------------------------


def list_of(site, make_client, resource, **more):
    return list(
        ListReader(client=make_client(site), resource=resource, path=resource.path, params={}, page_size=100, **more).pages()
    )


def answers(site, body, headers=None):
    token = b'{"access_token": "token-of-the-site-123456", "expires_in": 3600}'

    def respond(request):
        if "oauth" in request["target"]:
            return 200, {}, token
        return 200, headers or {}, json.dumps(body(request) if callable(body) else body).encode()

    site.respond = respond


@pytest.mark.parametrize("resource", [WHOLE, PAGED, PAIRED], ids=["whole", "cursor", "pair"])
@pytest.mark.parametrize(
    ("more", "headers", "named"),
    [
        ({"hasMore": True}, {}, "its member 'hasMore' reports more than the 2 records"),
        ({"links": {"next": "/secret?email=a@b.example"}}, {}, "its member 'links.next'"),
        ({"total": 300}, {}, "its member 'total'"),
        ({}, {"Link": '</x?page=2>; rel="next"'}, "the header 'Link'"),
    ],
)
def test_a_list_that_ends_in_an_answer_with_more_is_an_error(site, make_client, resource, more, headers, named):
    answers(site, {"items": RECORDS, **more}, headers)
    with pytest.raises(ProtocolError) as caught:
        list_of(site, make_client, resource)
    assert named in str(caught.value)
    assert "paging=CursorString(page_size_param=" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "300" not in str(caught.value)


def test_the_advice_is_text_that_runs(site, make_client):
    """What the message says makes a Resource that reads on."""
    pages = {None: {"items": [{"id": 1}], "meta": {"next": "n"}}, "n": {"items": [{"id": 2}], "meta": {}}}
    answers(site, pages[None])
    with pytest.raises(ProtocolError) as caught:
        list_of(site, make_client, WHOLE)
    advice = str(caught.value)
    code = advice[advice.index("dataclasses.replace(") : advice.index("'meta.next')") + len("'meta.next'))")]
    own = eval(code, {"dataclasses": dataclasses, "resource": WHOLE, "CursorString": CursorString})
    answers(site, lambda request: pages["n" if "cursor=n" in request["target"] else None])
    assert [json.loads(page.records) for page in list_of(site, make_client, own)] == [[{"id": 1}], [{"id": 2}]]


def test_a_member_that_means_something_else_can_be_named(site, make_client):
    answers(site, {"items": RECORDS, "total": 300, "meta": {"next": "May"}, "errors": 3}, {"X-Total": "9"})
    own = Resource(
        name="usage", path="/v1/usage", paging=SinglePage(), ignored_members=("total", "meta.next", "errors", "X-Total")
    )
    assert [len(page.raw_records) for page in list_of(site, make_client, own)] == [2]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("paging", [SinglePage(), CursorString(), CursorPair()])
@pytest.mark.parametrize("end", [{}, {"queryMore": None}, {"queryMore": ""}, {"queryMore": {}}])
def test_a_healthy_end(site, make_client, paging, end):
    for more in NO_MORE:
        answers(site, {"items": RECORDS, **more, **end})
        resource = Resource(name="usage", path="/v1/usage", paging=paging, params={"from": "a", "to": "b"})
        walk = ListReader(client=make_client(site), resource=resource, path="/v1/usage", params=resource.params, page_size=100)
        assert [len(page.raw_records) for page in walk.pages()] == [2], more


@pytest.mark.parametrize("name", ["request", "query", "meta"])
def test_a_cursor_that_the_answer_repeats_leads_nowhere(site, make_client, name):
    def respond(request):
        asked = request["target"].partition("queryMore=")[2].partition("&")[0] or None
        at = int((asked or "c0")[1:])
        more = {"queryMore": f"c{at + 1}"} if at < 2 else {}
        return {"items": [{"id": at}], name: {"limit": 100, "queryMore": asked, "nextCursor": asked}, **more}

    answers(site, respond)
    assert len(list_of(site, make_client, PAGED)) == 3


@pytest.mark.parametrize("ignored", ["total", ["total"], {"total"}, ("x-total", "total")])
def test_names_to_ignore_are_read_like_other_names(site, make_client, ignored):
    answers(site, {"items": RECORDS, "total": 300}, {"X-Total": "9"} if isinstance(ignored, tuple) else {})
    own = Resource(name="usage", path="/v1/usage", paging=SinglePage(), ignored_members=ignored)
    assert own.ignored_members[-1] == "total"
    assert [len(page.raw_records) for page in list_of(site, make_client, own)] == [2]


def test_what_is_no_name_to_ignore_is_refused():
    with pytest.raises(ParameterError, match="ignored_members must be a list of texts"):
        Resource(name="usage", path="/v1/usage", ignored_members=5)


def test_pages_that_came_count(site, make_client):
    def respond(request):
        at = int(request["target"].partition("queryMore=")[2].partition("&")[0] or 0)
        more = {"queryMore": str(at + 1)} if at < 2 else {}
        return {"items": [{"id": at}], "page": at, "totalPages": 3, "total": 3, **more}

    answers(site, respond)
    pages = list_of(site, make_client, PAGED)
    assert len(pages) == 3
    assert len(list_of(site, make_client, PAGED, cursor=pages[1].next_cursor, records_read=2)) == 1
