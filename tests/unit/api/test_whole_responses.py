# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A success is the whole list: whatever else comes with a 2xx is named for what it is."""

from __future__ import annotations

import json

import pytest

from limio_limitrail.api.details import with_details
from limio_limitrail.api.errors import ProtocolError
from limio_limitrail.api.list_reader import ListReader
from limio_limitrail.api.pagination import CursorPair, CursorString, SinglePage
from limio_limitrail.api.resource import Resource
from limio_limitrail.polling.changes import WatchedList, WatchFilter
from limio_limitrail.polling.conditions import ObjectCondition, RecordsCondition
from limio_limitrail.polling.poll import PollStatus

TOKEN = b'{"access_token": "token-of-the-site-123456", "expires_in": 3600}'
STYLES = [SinglePage(), CursorString(), CursorPair()]
LIST = Resource(name="things", path="/things", detail_path="/things/{id}")


def answering(site, *answers):
    """Give these answers to the requests for lists, one after another, the last one again and again."""
    left = list(answers)

    def respond(request):
        if "oauth" in request["target"]:
            return 200, {}, TOKEN
        status, body = left.pop(0) if len(left) > 1 else left[0]
        return status, {}, body if isinstance(body, bytes) else json.dumps(body).encode()

    site.respond = respond


def walk_of(site, make_client, resource=LIST, **more):
    return ListReader(client=make_client(site), resource=resource, path=resource.path, params={}, page_size=10, **more)


def read(site, make_client, resource=LIST):
    return [len(page.raw_records) for page in walk_of(site, make_client, resource).pages()]


@pytest.mark.parametrize("status", [201, 202, 203, 205, 206, 207, 208, 226, 299])
@pytest.mark.parametrize("body", [{"items": []}, {"items": [{"id": 1}]}, b""], ids=["none", "one", "empty"])
def test_another_success_is_no_list(site, make_client, status, body):
    answering(site, (status, b"" if status == 205 else body))
    with pytest.raises(ProtocolError, match=f"answered {status}: this status is no list: only 200 and 204 are whole") as caught:
        read(site, make_client)
    assert caught.value.status == status


@pytest.mark.parametrize("paging", STYLES)
def test_204_is_an_empty_list(site, make_client, paging):
    answering(site, (204, b""))
    assert read(site, make_client, Resource(name="things", path="/things", paging=paging)) == [0]
    answering(site, (200, {"items": [{"id": 1}], "queryMore": "x"}), (204, b""))
    assert read(site, make_client) == [1, 0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "an empty body"),
        (b"  \n", "a body of white space"),
        (b"null", "found null"),
        (b"<!DOCTYPE html><p>canary", "HTML or XML"),
        (b'\xef\xbb\xbf{"items":[]}', "a byte order mark of UTF-8"),
        (b"\xff\xfe{\x00}\x00", "a byte order mark of UTF-16"),
        (b"\xfe\xff\x00{\x00}", "a byte order mark of UTF-16"),
        (b'{"items": null}', "expected a list in 'items', found null"),
        (b'{"items": {"0": "canary"}}', "expected a list in 'items', found an object"),
        (b"[]", "expected a JSON object, found a list"),
        (b'{"items": [' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"]}", "nested deeper in it than can be read"),
        (b'{"items": [], "meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper in it than can be read"),
        (b"[" * 100_000, "expected a JSON object, found a list"),
    ],
)
@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
def test_what_came_is_named(site, make_client, body, said, later):
    answering(site, *([(200, {"items": [{"id": 1}], "queryMore": "x", "meta": 1})] if later else []), (200, body))
    with pytest.raises(ProtocolError) as caught:
        read(site, make_client)
    assert said in str(caught.value)
    assert "Limio: things (GET /things) answered 200: " in str(caught.value)
    assert "canary" not in str(caught.value)


FAILED = [
    ({"errors": [{"message": "canary"}]}, "errors"),
    ({"errors": ["canary"]}, "errors"),
    ({"errors": "canary"}, "errors"),
    ({"errors": True}, "errors"),
    ({"errors": 2}, "errors"),
    ({"errors": {"items": ["canary"]}}, "errors"),
    ({"error": {"code": "canary"}}, "error"),
    ({"error": "canary"}, "error"),
    ({"error": True}, "error"),
    ({"Error": "canary"}, "Error"),
    ({"odata.error": {"code": "canary"}}, "odata.error"),
    ({"fault": {"faultstring": "canary"}}, "fault"),
    ({"errorMessage": "canary", "errorType": "canary"}, "errorMessage"),
    ({"error_message": "canary"}, "error_message"),
    ({"errorCode": "canary"}, "errorCode"),
    ({"exception": "canary"}, "exception"),
    ({"failures": [{"canary": 1}]}, "failures"),
    ({"partialFailureError": {"code": 3}}, "partialFailureError"),
    ({"unreachable": ["canary"]}, "unreachable"),
    ({"UnprocessedKeys": {"canary": {"Keys": [1]}}}, "UnprocessedKeys"),
    ({"incomplete_results": True}, "incomplete_results"),
    ({"partial": True}, "partial"),
    ({"is_partial": True}, "is_partial"),
    ({"hasErrors": True}, "hasErrors"),
    ({"timed_out": True}, "timed_out"),
    ({"_shards": {"total": 3, "successful": 2, "failed": 1}}, "_shards.failed"),
    ({"_clusters": {"total": 2, "successful": 1, "skipped": 1}}, "_clusters.skipped"),
    ({"success": False}, "success"),
    ({"ok": False}, "ok"),
    ({"status": "error"}, "status"),
    ({"status": 500}, "status"),
    ({"statusCode": 502}, "statusCode"),
    ({"statusCode": "429"}, "statusCode"),
    ({"code": 500, "message": "canary"}, "code"),
    ({"responseStatus": "ERROR"}, "responseStatus"),
    ({"result": "error"}, "result"),
    ({"status": {"code": 500, "message": "canary"}}, "status.code"),
    ({"meta": {"error": "canary"}}, "meta.error"),
    ({"meta": {"errors": [{"message": "canary"}]}}, "meta.errors"),
    ({"meta": {"error": {"code": "canary"}}}, "meta.error"),
    ({"metadata": {"partial": True}}, "metadata.partial"),
    ({"response": {"success": False}}, "response.success"),
    ({"failed": True}, "failed"),
    ({"degraded": True}, "degraded"),
    ({"success": 0}, "success"),
    ({"ok": 0}, "ok"),
    ({"isOk": False}, "isOk"),
    ({"err": "canary"}, "err"),
    ({"errmsg": "canary"}, "errmsg"),
    ({"errorList": ["canary"]}, "errorList"),
    ({"error_description": "canary"}, "error_description"),
    ({"upstreamErrors": ["canary"]}, "upstreamErrors"),
    ({"criticalPluginErrors": [{"canary": 1}]}, "criticalPluginErrors"),
    ({"shardFailures": {"canary": 1}}, "shardFailures"),
    ({"failedShards": 2}, "failedShards"),
]
FINE = [
    {"errors": []},
    {"errors": None},
    {"errors": ""},
    {"errors": {}},
    {"errors": False},
    {"errors": 0},
    {"errors": {"items": [], "count": 0}},
    {"error": None},
    {"error": ""},
    {"error": False},
    {"error": {}},
    {"error": {"code": 0, "message": ""}},
    {"fault": None, "errorMessage": None, "errorCode": 0, "exception": ""},
    {"errorCode": "OK"},
    {"errorCode": "NO_ERROR"},
    {"incomplete_results": False, "partial": False, "timed_out": False, "hasErrors": "false"},
    {"_shards": {"total": 3, "successful": 3, "failed": 0, "skipped": 1}},
    {"success": True, "ok": True, "status": "ok", "statusCode": 200, "code": 0},
    {"status": 200},
    {"status": "active"},
    {"status": "failed"},
    {"errorRate": 0.5, "errorsUrl": "/errors", "message": "fine", "partialAmount": 3, "failover": True},
    {"meta": {"errors": [], "error": None, "code": 200, "request": {"errors": ["of another request"]}}},
    {"data": {"errors": ["of another request"]}},
    {"error": "none", "errorMessage": "OK", "fault": "null", "exception": "false", "errmsg": "No errors", "failures": "0"},
    {"errors": [None], "failures": [{}, []], "exceptions": [{"message": ""}]},
    {"criticalPluginErrors": [], "maxErrors": 10, "ignoreErrors": True, "upstreamErrors": 0, "validationErrors": {}},
    {"failed": 0, "result": "success", "response": {"code": 200, "message": "fine"}, "status": {"code": 200}},
    {"code": "GB", "result": 450, "responseStatus": "OK", "degraded": False},
]


@pytest.mark.sampled(12)
@pytest.mark.parametrize("with_items", [True, False], ids=["beside", "instead"])
@pytest.mark.parametrize(("more", "member"), FAILED, ids=lambda value: json.dumps(value)[:40])
def test_an_answer_that_says_that_it_failed_is_an_error(site, make_client, more, member, with_items):
    for items in ({"items": [{"id": 1}]}, {"items": []}) if with_items else ({}, {"items": None}, {"data": 1}):
        answering(site, (200, {**items, **more}))
        with pytest.raises(ProtocolError) as caught:
            read(site, make_client)
        assert f"answered 200: its member {member!r} says that it failed, or is not whole" in str(caught.value)
        assert "canary" not in str(caught.value)
    # The answers before have taught the reader which members to expect.
    answering(site, (200, {"items": [{"id": 0}], "queryMore": "x", **dict.fromkeys(more)}), (200, {"items": [], **more}))
    with pytest.raises(ProtocolError, match="says that it failed"):
        read(site, make_client)


@pytest.mark.parametrize("more", FINE, ids=lambda value: json.dumps(value)[:40])
def test_what_only_sounds_like_a_failure_is_none(site, make_client, more):
    answering(site, (200, {"items": [{"id": 1, "error": "own", "errors": ["own"]}], **more}))
    assert read(site, make_client) == [1]


def test_a_member_that_means_something_else_can_be_named(site, make_client):
    answering(site, (200, {"items": [{"id": 1}], "errors": 3}))
    assert read(site, make_client, Resource(name="things", path="/things", ignored_members=("errors",))) == [1]


def test_a_warning_is_said_once_and_not_repeated(site, make_client, caplog):
    page = {"items": [{"id": 1}], "warnings": ["canary"]}
    answering(site, (200, {**page, "queryMore": "x"}), (200, {**page, "items": [{"id": 2}]}))
    assert read(site, make_client) == [1, 1]
    assert caplog.text.count("has a warning, in its member 'warnings'") == 1
    assert "canary" not in caplog.text


def test_a_total_that_cannot_be_read_is_said_once(site, make_client, caplog):
    counted = Resource(name="things", path="/things", total="hits")
    answering(site, (200, {"items": [{"id": 1}], "hits": "canary", "queryMore": "x"}), (200, {"items": [{"id": 2}], "hits": -1}))
    assert read(site, make_client, counted) == [1, 1]
    assert caplog.text.count("the number in 'hits' cannot be read, so that nothing watches over how many records come") == 1
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "hits",
    [300, "300", 300.0, {"value": 300, "relation": "eq"}, {"value": 300, "relation": "gte"}, {"total": 300}, {"count": "300"}],
)
def test_a_total_guards_the_list_in_every_form(site, make_client, hits):
    answering(site, (200, {"items": [{"id": 1}, {"id": 2}], "hits": hits}))
    with pytest.raises(ProtocolError, match="reported 300 records and 2 came: 298 are missing"):
        read(site, make_client, Resource(name="things", path="/things", total="hits"))


# -- others that read lists ------------------------------------------------------------------------------------------

BAD = [(202, {"items": []}), (206, {"items": [{"id": "a"}]}), (200, {"items": [], "errors": ["x"]}), (200, b""), (200, b"null")]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_sensors_and_watches_do_not_take_it_for_a_list(site, make_client, bad):
    answering(site, bad)
    client = make_client(site)
    with pytest.raises(ProtocolError):
        RecordsCondition(resource=LIST).poll(client)
    with pytest.raises(ProtocolError):
        WatchedList(resource=LIST).poll(client, filters={"me": WatchFilter(changed_after=None)}, now=None)


def test_sensors_and_watches_tell_records_that_are_too_deep(site, make_client):
    """Deep enough to pass as one of many, and not to be taken apart."""
    answering(site, (200, b'{"items": [{"id": "a", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}]}"))
    with pytest.raises(ProtocolError, match=r"things .*nested deeper"):
        RecordsCondition(resource=LIST).poll(make_client(site))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (204, b"", "this status is no record"),
        (202, {"id": "a"}, "this status is no record"),
        (206, {"id": "a"}, "this status is no record"),
        (200, b"", "an empty body"),
        (200, b"null", "found null"),
        (200, b"<html>", "HTML or XML"),
        (200, {"errors": [{"message": "canary"}]}, "its member 'errors' says that it failed"),
        (200, {"errorMessage": "canary", "errorType": "x"}, "its member 'errorMessage' says that it failed"),
        (200, b'{"id": "a", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested deeper"),
        (200, {"item": {"id": "a"}}, "it has no 'id'"),
        (200, {"message": "canary"}, "it has no 'id'"),
        (200, {}, "it has no 'id'"),
    ],
)
def test_what_is_fetched_by_id_is_a_record_or_an_error(site, make_client, status, body, said):
    answering(site, (200, {"items": [{"id": "a"}]}), (status, body))
    walk = walk_of(site, make_client)
    pages = with_details(walk.pages(), client=walk.client, resource=LIST, list_path="/things", concurrency=2)
    with pytest.raises(ProtocolError) as caught:
        list(pages)
    assert said in str(caught.value)
    assert caught.value.status == status
    assert "canary" not in str(caught.value)
    answering(site, (status, body))
    with pytest.raises(ProtocolError, match=said):
        ObjectCondition(path_type="orders", object_id="a").poll(make_client(site))


@pytest.mark.parametrize("other", ["b", "A", "a ", None, 1, ["a"]])
def test_another_record_than_the_one_that_was_asked_for(site, make_client, other):
    """As a cache that mixes up its keys gives it: the list's own record would be missing, and the other come twice."""
    answering(site, (200, {"items": [{"id": "a"}]}), (200, {"id": other, "v": "canary"}))
    walk = walk_of(site, make_client)
    pages = with_details(walk.pages(), client=walk.client, resource=LIST, list_path="/things", concurrency=2)
    with pytest.raises(ProtocolError, match=r"GET /things/a.*another record than the one requested") as caught:
        list(pages)
    assert "canary" not in str(caught.value)


def test_an_id_may_be_a_number(site, make_client):
    answering(site, (200, {"items": [{"id": 7}]}), (200, {"id": 7, "whole": True}))
    walk = walk_of(site, make_client)
    [page] = with_details(walk.pages(), client=walk.client, resource=LIST, list_path="/things", concurrency=2)
    assert json.loads(page.records) == [{"id": 7, "whole": True}]
    assert site.seen[-1]["target"].endswith("/things/7")


def test_a_record_may_have_an_error_of_its_own(site, make_client):
    body = {"id": "a", "error": {"code": 5}, "errors": ["x"], "status": "failed"}
    answering(site, (200, {"items": [{"id": "a"}]}), (200, body))
    walk = walk_of(site, make_client)
    [page] = with_details(walk.pages(), client=walk.client, resource=LIST, list_path="/things", concurrency=2)
    assert json.loads(page.records) == [body]
    answering(site, (200, body))
    assert ObjectCondition(path_type="orders", object_id="a").poll(make_client(site)).status is PollStatus.FOUND
