# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The hook as a Dag author uses it."""

from __future__ import annotations

import pandas as pd
import pytest

from limio_limitrail import __version__
from limio_limitrail.api.errors import (
    ConnectionFieldError,
    CursorRefusedError,
    InvalidRequestError,
    NotFoundError,
    ParameterError,
    ProtocolError,
    ScopeError,
    ServerError,
)
from limio_limitrail.emulator import Fault
from limio_limitrail.hooks.limio import DETAIL_CONCURRENCY, LimioHook


def ids(records):
    return [record["id"] for record in records]


def test_a_pull_costs_one_connection_and_one_token(hook, limio_emulator):
    assert len(list(hook.iter_records("subscriptions", page_size=10))) == 200
    assert limio_emulator.counters.connections == 1
    assert limio_emulator.counters.tokens_minted == 1
    assert limio_emulator.counters.requests == 21


def test_requests_say_who_is_calling(hook, limio_emulator):
    hook.request(path="/offers")
    for entry in limio_emulator.counters.log:
        agent = entry["headers"]["user-agent"]
        assert agent.startswith(f"airflow-provider-limio-limitrail/{__version__} apache-airflow/3.")
        assert "python-requests/2." in agent


def test_unknown_extras_go_nowhere(hook_of, limio_emulator):
    hook = hook_of(limio_emulator, client_secret="canary-value", headers={"x-canary": "canary-value"}, canary="canary-value")
    hook.request(path="/offers")
    hook.get_conn().get(f"{hook.base_url}/offers")
    assert "canary" not in str(limio_emulator.counters.log)


def test_a_session_authorises_requests_to_the_app(hook, limio_emulator):
    session = hook.get_conn()
    assert hook.base_url == f"{limio_emulator.url}/api"
    assert session.get(f"{hook.base_url}/objects/limio/orders", params={"limit": 2}).json()["items"]
    assert session is hook.get_conn()


def test_the_session_renews_a_refused_token_once(hook, limio_emulator):
    session = hook.get_conn()
    assert session.get(f"{hook.base_url}/objects/limio/orders").status_code == 200
    limio_emulator.expire_tokens()
    answer = session.get(f"{hook.base_url}/objects/limio/orders")
    assert answer.status_code == 200
    assert [earlier.status_code for earlier in answer.history] == [401]
    assert len(limio_emulator.minted_tokens) == 2
    limio_emulator.faults.add(Fault("status", "/api/", status=401, times=None))
    before = limio_emulator.counters.requests
    assert session.get(f"{hook.base_url}/objects/limio/orders").status_code == 401
    assert len(limio_emulator.minted_tokens) == 3
    # The request, the token, the request again: and then no more.
    assert limio_emulator.counters.requests - before == 3


def test_a_request_to_any_path(hook, limio_emulator):
    answer = hook.request(path="/objects/limio/orders", query_params={"limit": 2, "queryMore": None})
    assert len(answer.json()["items"]) == 2
    assert limio_emulator.counters.log[-1]["query"] == "limit=2"
    with pytest.raises(NotFoundError):
        hook.request(path="/no/such/thing")
    with pytest.raises(ParameterError):
        hook.request(path="/objects/limio/orders", query_params={"limit": [2]})
    with pytest.raises(InvalidRequestError):
        hook.request(path="//evil/x")


@pytest.mark.parametrize(("given", "extra", "sent"), [(7, {"page_size": 3}, 7), (None, {"page_size": "3"}, 3), (None, {}, 100)])
def test_the_page_size_is_the_callers_else_the_connections_else_the_default(hook_of, limio_emulator, given, extra, sent):
    next(hook_of(limio_emulator, **extra).open_list("orders", page_size=given).pages())
    assert limio_emulator.counters.log[-1]["query"] == f"limit={sent}"


@pytest.mark.parametrize("size", [0, -1])
def test_a_page_holds_at_least_one_record(hook, size):
    with pytest.raises(ParameterError, match="page_size"):
        hook.open_list("orders", page_size=size)


# -- frames ----------------------------------------------------------------------------------------------------------


def test_a_frame_never_holds_a_rounded_number(hook, limio_emulator):
    limio_emulator.put_records(
        "objects/limio/orders",
        [
            (
                b'{"id":"a","big":9007199254740993,"money":1.10,"long":0.1234567890123456789,"huge":1e400,'
                b'"wide":123456789012345678901234567890,"mixed":1,"nested":{"x":{"y":9007199254740993}}}'
            ),
            b'{"id":"b","big":null,"money":null,"long":0.5,"huge":1,"wide":1,"mixed":"one","nested":null}',
            b'{"id":"c"}',
        ],
    )
    frame = hook.get_df("orders")
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["id", "big", "money", "long", "huge", "wide", "mixed", "nested"]
    assert frame["big"].tolist()[0] == 2**53 + 1
    assert frame["big"].isna().tolist() == [False, True, True]
    assert frame["money"].tolist()[0] == 1.1
    assert frame["long"].tolist()[:2] == ["0.1234567890123456789", 0.5]
    assert frame["huge"].tolist()[:2] == ["1e400", 1]
    assert frame["wide"].tolist()[:2] == [123456789012345678901234567890, 1]
    assert frame["mixed"].tolist()[:2] == [1, "one"]
    assert frame["nested"].tolist()[0] == {"x": {"y": 2**53 + 1}}
    flat = hook.get_df("orders", flatten=True, page_size=1)
    assert flat["nested.x.y"].tolist()[0] == 2**53 + 1


def test_an_empty_list_is_an_empty_frame(hook, limio_emulator):
    limio_emulator.put_records("objects/limio/orders", [])
    assert hook.get_df("orders").empty


# -- counting and details --------------------------------------------------------------------------------------------


def test_counting_asks_once_where_the_api_tells(hook, limio_emulator):
    assert hook.count("catalog.offers2") == 30
    assert limio_emulator.counters.requests == 2
    assert hook.count("orders") == 200


def test_details_are_whole_objects_in_order_a_few_at_a_time(hook, limio_emulator):
    tenant = limio_emulator.tenant
    found = list(hook.iter_records("subscriptions", page_size=50, detail=True))
    assert found == [tenant.record("subscriptions", id_) for id_ in tenant.ids("subscriptions")]
    assert found != list(hook.iter_records("subscriptions"))
    assert limio_emulator.counters.most_in_flight <= DETAIL_CONCURRENCY
    assert limio_emulator.counters.connections <= DETAIL_CONCURRENCY
    assert limio_emulator.counters.tokens_minted == 1


def test_an_object_that_is_gone_keeps_its_summary(hook, limio_emulator, caplog):
    tenant = limio_emulator.tenant
    victim = tenant.ids("orders")[5]
    limio_emulator.faults.add(Fault("status", f"/api/objects/limio/orders/{victim}", status=404))
    found = list(hook.iter_records("orders", detail=True))
    assert ids(found) == tenant.ids("orders")
    assert found[5] != tenant.record("orders", victim)
    assert "1 objects were gone" in caplog.text


def test_details_of_a_list_that_has_none_are_refused(hook):
    with pytest.raises(ParameterError, match="no path for a single record"):
        list(hook.iter_pages("catalog.offers", detail=True))


# -- an answer that breaks the contract ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("html", "HTML"),
        ("bad_json", "expected JSON"),
        ("items_missing", "expected a list in 'items', found no such member"),
        ("items_not_list", "expected a list in 'items', found an object"),
        ("wrong_encoding", "content encoding"),
    ],
)
@pytest.mark.parametrize("resource", ["orders", "catalog.offers2"])
def test_a_broken_contract_says_what_was_expected_and_what_came(hook, limio_emulator, waits, resource, kind, said):
    limio_emulator.faults.add(Fault(kind, "/api/", after=1, times=None))
    with pytest.raises(ProtocolError, match=said):
        list(hook.iter_records(resource, page_size=10))
    assert limio_emulator.counters.requests == 3
    assert waits == []


def test_a_total_that_is_not_reached_is_an_error(hook, limio_emulator):
    limio_emulator.faults.add(Fault("hits_too_large", "/api/", hits=3, times=None))
    with pytest.raises(CursorRefusedError, match="33 records and 30 came: 3 are missing"):
        list(hook.iter_records("catalog.offers2", page_size=10))


@pytest.mark.parametrize("kind", ["empty_page", "drop_cursor"])
def test_a_catalog_that_ends_too_soon_is_an_error(hook, limio_emulator, kind):
    limio_emulator.faults.add(Fault(kind, "/api/", after=1))
    with pytest.raises(CursorRefusedError, match="are missing"):
        list(hook.iter_records("catalog.offers2", page_size=10))


def test_a_page_lost_on_the_way_of_a_scroll_is_noticed(hook, limio_emulator):
    """The server has moved on when the connection breaks, so that the next try gets the page after."""
    limio_emulator.faults.add(Fault("reset_after", "/api/", after=1))
    with pytest.raises(CursorRefusedError, match="the page may be gone"):
        list(hook.iter_records("catalog.offers2", page_size=10))


@pytest.mark.parametrize("kind", ["reset", "reset_after", "truncated"])
def test_a_broken_connection_loses_nothing_of_a_list_with_cursors(hook, limio_emulator, kind):
    limio_emulator.faults.add(Fault(kind, "/api/", after=2, times=3))
    assert ids(hook.iter_records("orders", page_size=20)) == limio_emulator.tenant.ids("orders")


@pytest.mark.parametrize("status", [413, 502])
def test_pages_that_are_too_large_are_asked_for_smaller(hook, limio_emulator, status):
    limio_emulator.configure(max_response_bytes=60_000, too_large_status=status, catalog_cursor="repeatable")
    rows = [{"id": f"i{number}", "path": f"/p{number}", "data": {"text": "x" * 500}} for number in range(300)]
    limio_emulator.put_records("catalog_items?record_type=offers2", rows)
    walk = hook.open_list("catalog.offers2", page_size=300)
    assert sum(len(page.raw_records) for page in walk.pages()) == 300
    assert walk.page_size == 75


@pytest.mark.parametrize("status", [400, 404, 410])
@pytest.mark.parametrize("resource", ["orders", "catalog.offers2"])
def test_an_expired_cursor_says_so(hook, limio_emulator, resource, status):
    limio_emulator.configure(cursor_expired_status=status)
    pages = hook.iter_pages(resource, page_size=10)
    next(pages)
    limio_emulator.expire_cursors()
    with pytest.raises(CursorRefusedError) as caught:
        next(pages)
    assert caught.value.status == status


def test_half_a_surrogate_pair_does_not_stop_a_pull(hook, limio_emulator):
    limio_emulator.put_records("objects/limio/orders", [rb'{"id":"a","t":"\ud83d"}', rb'{"id":"b","t":"\ud83d\ude00 \\ud83d"}'])
    assert [row["t"] for row in hook.iter_records("orders")] == ["\ufffd", "😀 \\ud83d"]


# -- a token that expires --------------------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize("good_for", [1, 2, 3, 5, 19, 20, 21])
def test_a_token_that_expires_between_any_two_pages_costs_one_401_and_loses_nothing(hook, limio_emulator, good_for):
    limio_emulator.configure(token_requests=good_for)
    assert ids(hook.iter_records("orders", page_size=10)) == limio_emulator.tenant.ids("orders")
    pages = 20
    expiries = (pages - 1) // good_for
    assert limio_emulator.counters.by_status[401] == expiries
    assert limio_emulator.counters.tokens_minted == expiries + 1
    assert limio_emulator.counters.requests == pages + 2 * expiries + 1


def test_a_token_that_expires_in_the_midst_of_details_loses_nothing(hook, limio_emulator):
    limio_emulator.configure(token_requests=40)
    assert ids(hook.iter_records("orders", detail=True)) == limio_emulator.tenant.ids("orders")


def test_a_token_that_expires_in_the_midst_of_a_scroll_loses_nothing(hook, limio_emulator):
    limio_emulator.configure(token_requests=1)
    assert ids(hook.iter_records("catalog.offers2", page_size=5)) == limio_emulator.tenant.ids("catalog/offers2")


@pytest.mark.parametrize(
    "options", [{"token_prefix": "Bearer "}, {"token_type": "bearer"}, {"token_type": "BEARER"}, {"omit_expires_in": True}]
)
def test_every_form_of_the_token_answer(hook, limio_emulator, options):
    limio_emulator.configure(**options)
    assert len(list(hook.iter_records("orders", page_size=50))) == 200
    assert limio_emulator.counters.tokens_minted == 1


# -- the connection test ---------------------------------------------------------------------------------------------


def test_a_good_connection(hook, limio_emulator):
    assert hook.test_connection() == (
        True,
        f"A token was minted and one page of subscriptions was read from {limio_emulator.url}/api.",
    )
    assert limio_emulator.counters.requests == 2
    assert limio_emulator.counters.log[-1]["query"] == "limit=1"


def test_a_good_key(key_hook, limio_emulator):
    ok, message = key_hook.test_connection()
    assert ok
    assert message.startswith("The key was accepted and one page of campaigns")
    assert limio_emulator.counters.tokens_minted == 0


def test_a_wrong_key(key_hook, limio_emulator):
    limio_emulator.configure(api_key="another")
    ok, message = key_hook.test_connection()
    assert not ok
    assert message.startswith("The key was not accepted")
    assert "demo-publishable-key" not in message


def test_a_wrong_secret_is_no_green_light(hook, limio_emulator):
    limio_emulator.configure(client_secret="another")
    ok, message = hook.test_connection()
    assert not ok
    assert message.startswith("No token could be had.")
    assert "refused the client" in message
    assert "demo-secret" not in message


@pytest.mark.parametrize(("status", "said"), [(403, "scope 'MMA'"), (401, "401"), (500, "500"), (404, "404")])
def test_a_token_that_reads_nothing_is_no_green_light(hook, limio_emulator, status, said):
    body = {"message": "canary-of-the-body", "errorCode": "canary-code"}
    limio_emulator.faults.add(Fault("status", "/api/", status=status, body=body, times=None, headers={"x-request-id": "req-7"}))
    ok, message = hook.test_connection()
    assert not ok
    assert message.startswith("A token was minted, but reading one record failed.")
    assert said in message
    assert "req-7" in message
    assert "canary" not in message
    assert not any(token in message for token in limio_emulator.minted_tokens)


def test_an_answer_that_is_no_list_is_no_green_light(hook, limio_emulator):
    limio_emulator.faults.add(Fault("html", "/api/", times=None))
    ok, message = hook.test_connection()
    assert not ok
    assert "HTML" in message


def test_a_wrong_field_is_told(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", '{"conn_type": "limio", "host": "acme"}')
    ok, message = LimioHook().test_connection()
    assert not ok
    assert message.startswith("The connection's fields could not be read. connection 'limio_default', field 'region'")
    with pytest.raises(ConnectionFieldError):
        LimioHook().get_conn()


def test_a_scope_that_is_missing_is_named(hook, limio_emulator):
    limio_emulator.configure(scopes=("MMA",), include_scope=True)
    with pytest.raises(ScopeError, match="needs the scope 'partner'; the token was granted: MMA"):
        list(hook.iter_records("partner_organisations"))
    assert limio_emulator.counters.tokens_minted == 1


def test_a_502_that_stays_tells_what_the_body_said(hook, limio_emulator):
    limio_emulator.faults.add(Fault("status", "/api/", status=502, body={"message": "Invalid limit"}, times=None))
    with pytest.raises(ServerError, match=r"Invalid limit.*parameters"):
        list(hook.iter_records("orders", page_size=10))
    assert limio_emulator.counters.requests == 4


def test_timeouts_are_finite_unless_somebody_says_so_and_then_too(monkeypatch, hook_of, limio_emulator):
    import requests.adapters

    seen = []
    send = requests.adapters.HTTPAdapter.send

    def watched(self, request, **kwargs):
        seen.append(kwargs["timeout"])
        return send(self, request, **kwargs)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", watched)
    for extra, read in (({}, 60.0), ({"timeout": "7.5"}, 7.5)):
        seen.clear()
        hook = hook_of(limio_emulator, **extra)
        hook.request(path="/offers")
        hook.get_conn().get(f"{hook.base_url}/offers")
        assert seen == [(10.0, read)] * 3
