# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One look at an object, and at a list."""

from __future__ import annotations

import gc
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from tenacity import BaseRetrying, RetryCallState

from limio_limitrail.api.errors import (
    ApiError,
    CredentialsError,
    CursorRefusedError,
    InvalidRequestError,
    NotFoundError,
    ParameterError,
    ProtocolError,
    RateLimitError,
    ScopeError,
    ServerError,
    TransportError,
)
from limio_limitrail.emulator import Fault, Reply
from limio_limitrail.limio.resources import RESOURCES
from limio_limitrail.limitrail.resources import RESOURCES as LIMITRAIL
from limio_limitrail.polling.conditions import MAX_IDS, Missing, ObjectCondition, RecordsCondition, find_predicate
from limio_limitrail.polling.poll import NoAnswerError, PollPolicy, PollResult, PollStatus

ORDERS = "objects/limio/orders"


def order(id_: str = "one", **more: Any) -> ObjectCondition:
    return ObjectCondition(path_type="orders", object_id=id_, **more)


def put(server: Any, *records: dict[str, Any]) -> None:
    server.put_records(ORDERS, records)


# -- objects -------------------------------------------------------------------------------------------------------


def test_there_and_not_there(client, limio_emulator):
    put(limio_emulator)
    assert order().poll(client) == PollResult(status=PollStatus.NOT_YET, summary="it does not exist")
    with pytest.raises(NotFoundError):
        order(missing=Missing.FAIL).poll(client)
    put(limio_emulator, {"id": "one", "email": "user@example.com"})
    assert order().poll(client) == PollResult(
        status=PollStatus.FOUND,
        summary="it has no status",
        result={"path_type": "orders", "id": "one", "status": None},
    )


@pytest.mark.parametrize("there", [True, False])
def test_a_look_leaves_nothing_that_only_a_collection_frees(client, limio_emulator, there):
    """In a triggerer a collection goes through all that Airflow has loaded, and everything stands still for it."""
    put(limio_emulator, *([{"id": "one", "status": "active"}] if there else []))
    order().poll(client)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(3):
            order().poll(client)
        gc.collect()
        left = [type(one).__name__ for one in gc.garbage if isinstance(one, ApiError | RetryCallState | BaseRetrying)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        ("processed", PollStatus.FOUND),
        ("PROCESSED", PollStatus.FOUND),
        ("Done", PollStatus.FOUND),
        ("failed", PollStatus.FAILED),
        ("FaIlEd", PollStatus.FAILED),
        ("pending", PollStatus.NOT_YET),
        ("", PollStatus.NOT_YET),
        (None, PollStatus.NOT_YET),
        (7, PollStatus.NOT_YET),
        ({"name": "processed"}, PollStatus.NOT_YET),
        (["processed"], PollStatus.NOT_YET),
    ],
)
def test_statuses(client, limio_emulator, status, standing):
    put(limio_emulator, {"id": "one", "status": status})
    look = order(target_statuses=("Processed", "done"), failed_statuses=("Failed",)).poll(client)
    assert look.status is standing
    assert (look.result is None) == (standing is PollStatus.NOT_YET)


@pytest.mark.parametrize(
    ("status", "told", "shown"),
    [
        (7, "7", "7"),
        (-1.5, "-1.5", "-1.5"),
        (" processed ", "processed", "processed"),
        ("processed", " processed", "processed"),
        ("token: processed", "Token: Processed", "token: ***"),  # masked where it is shown
        ("x" * 300, "X" * 300, "x" * 199 + "…"),
    ],
)
def test_a_status_is_compared_as_it_came(client, limio_emulator, status, told, shown):
    put(limio_emulator, {"id": "one", "status": status})
    for named, expected in (
        ({"target_statuses": (told,)}, PollStatus.FOUND),
        (
            {"target_statuses": ("other",), "failed_statuses": (told,)},
            PollStatus.FAILED,
        ),
    ):
        look = order(**named).poll(client)
        assert (look.status, look.result and look.result["status"]) == (expected, shown)


@pytest.mark.parametrize("said", ["two", "ONE", "", None, True, ["one"], {"id": "one"}, 1, 10**30])
@pytest.mark.parametrize(
    "waits_for",
    [{}, {"target_statuses": ("processed",)}, {"target_statuses": ("a",), "failed_statuses": ("processed",)}],
    ids=["an object", "a status", "no failure"],
)
def test_the_status_of_another_object_says_nothing(client, limio_emulator, said, waits_for):
    body = json.dumps({"id": said, "status": "processed", "error": "not ready"}).encode()
    limio_emulator.on_request(lambda call: Reply(200, body) if "orders" in call.path else None)
    with pytest.raises(ProtocolError, match="another record than the one requested: its 'id' differs"):
        order(**waits_for).poll(client)


@pytest.mark.parametrize("member", ["name", "reference", "external_id"])
def test_an_object_may_be_asked_for_by_another_name_than_its_id(client, limio_emulator, member):
    body = json.dumps({"id": "order-1", member: "one", "status": "processed"}).encode()
    limio_emulator.on_request(lambda call: Reply(200, body) if "orders" in call.path else None)
    assert order(target_statuses=("processed",)).poll(client).status is PollStatus.FOUND


@pytest.mark.parametrize("members", ['"id":"one","status":"pending","status":"done"', '"id":"two","id":"one","status":"done"'])
def test_a_status_that_comes_twice_says_nothing(client, limio_emulator, members):
    limio_emulator.on_request(lambda call: Reply(200, f"{{{members}}}".encode()) if "orders" in call.path else None)
    with pytest.raises(ProtocolError, match="comes twice with different values"):
        order(target_statuses=("done",)).poll(client)


def test_an_id_that_is_a_number(client, limio_emulator):
    limio_emulator.on_request(lambda call: Reply(200, b'{"id":7,"status":"done"}') if "orders" in call.path else None)
    assert order("7").poll(client).status is PollStatus.FOUND


def test_a_status_that_is_very_long_or_holds_the_token(client, limio_emulator):
    token = client.auth.credential().reveal()
    put(limio_emulator, {"id": "one", "status": f"{token} {'x' * 100_000}"})
    look = order().poll(client)
    assert look.result is not None
    assert token not in str(look)
    assert len(str(look)) < 2000


def test_ids_stay_one_part_of_the_path(client, limio_emulator):
    put(limio_emulator)
    for id_ in ("../customers", "a/b", "a?b=c", "a#b", "a%2Fb", " ", "\u00e9", "..", "."):
        try:
            assert order(id_).poll(client).status is PollStatus.NOT_YET
        except (ParameterError, InvalidRequestError):
            continue
    for entry in limio_emulator.counters.log:
        if "token" not in entry["path"]:
            assert entry["path"].startswith("/api/objects/limio/orders/")
            assert entry["query"] == ""


def test_no_id(client, limio_emulator):
    with pytest.raises(ParameterError):
        order("").poll(client)
    assert limio_emulator.counters.requests == 0


@pytest.mark.parametrize(
    ("fault", "error", "requests", "passes"),
    [
        (Fault("status", status=400), InvalidRequestError, 1, False),
        (Fault("status", status=401, times=2), CredentialsError, 2, False),
        (Fault("status", status=403), ScopeError, 1, False),
        (Fault("status", status=408), TransportError, 1, True),
        (Fault("status", status=409), ApiError, 1, False),
        (Fault("status", status=429, headers={"Retry-After": "7"}), RateLimitError, 1, True),
        (Fault("status", status=500), ServerError, 1, True),
        (Fault("status", status=502), ServerError, 1, True),
        (Fault("status", status=503), ServerError, 1, True),
        (Fault("reset"), TransportError, 1, True),
        (Fault("truncated"), TransportError, 1, True),
        (Fault("html"), ProtocolError, 1, False),
        (Fault("bad_json"), ProtocolError, 1, False),
    ],
    ids=lambda value: f"{value.kind}{value.status}" if isinstance(value, Fault) else None,
)
def test_a_look_is_one_try(client, limio_emulator, fault, error, requests, passes):
    from dataclasses import replace

    put(limio_emulator, {"id": "one", "status": "active"})
    limio_emulator.faults.add(replace(fault, match="/api/objects"))
    client.auth.credential()
    limio_emulator.counters.reset()
    with pytest.raises(error) as caught:
        order().poll(client)
    asked = [entry for entry in limio_emulator.counters.log if entry["path"].startswith("/api/objects")]
    assert len(asked) == requests
    assert PollPolicy(poke_interval=1).is_transient(caught.value) is passes
    assert caught.value.retry_after == (7 if fault.status == 429 else None)


def test_a_token_that_has_ended(client, limio_emulator):
    put(limio_emulator, {"id": "one", "status": "active"})
    assert order().poll(client).status is PollStatus.FOUND
    limio_emulator.expire_tokens()
    assert order().poll(client).status is PollStatus.FOUND
    assert limio_emulator.counters.tokens_minted == 2


@pytest.mark.parametrize("body", ["[]", '"active"', "7", "null"])
def test_answers_that_are_no_object(client, limio_emulator, body):
    limio_emulator.on_request(lambda call: Reply(200, body.encode()) if "orders" in call.path else None)
    with pytest.raises(ProtocolError, match="expected a JSON object"):
        order().poll(client)


def test_what_can_never_be_decided():
    with pytest.raises(ParameterError, match="done cannot be among"):
        order(target_statuses=("Done",), failed_statuses=("dONE",))
    with pytest.raises(ParameterError, match="target_statuses"):
        order(failed_statuses=("done",))
    for least in (0, -1):
        with pytest.raises(ParameterError, match="min_records"):
            RecordsCondition(resource=RESOURCES["orders"], min_records=least)


def test_names():
    assert str(order(target_statuses=("a", "b"))) == "orders/one to be a or b"
    assert str(RecordsCondition(resource=RESOURCES["orders"], min_records=2, predicate=bool)) == "2 records of orders that match"
    assert str(RecordsCondition(resource=RESOURCES["orders"])) == "a record of orders"


# -- lists ---------------------------------------------------------------------------------------------------------


def baskets(count: int) -> list[dict[str, Any]]:
    return [{"id": f"b{number}", "created": f"2026-10-01T00:{number // 60:02}:{number % 60:02}Z"} for number in range(count)]


def lists(**more: Any) -> RecordsCondition:
    return RecordsCondition(**{"resource": RESOURCES["abandoned_baskets"], "since": datetime(2026, 10, 1, tzinfo=UTC), **more})


def test_too_few_and_enough(client, limio_emulator):
    limio_emulator.put_records("checkout/abandoned", baskets(3))
    assert lists(min_records=4).poll(client) == PollResult(status=PollStatus.NOT_YET, summary="there are 3 records")
    look = lists(min_records=3).poll(client)
    assert look.status is PollStatus.FOUND
    assert look.result == {
        "resource": "abandoned_baskets",
        "count": 3,
        "ids": ["b0", "b1", "b2"],
        "watermark": "2026-10-01T00:00:02Z",
    }


def test_what_matches(client, limio_emulator):
    limio_emulator.put_records("checkout/abandoned", baskets(30))
    look = lists(predicate=lambda record: record["id"].endswith("9"), page_size=10, min_records=2).poll(client)
    assert look.summary == "2 of 20 records match"
    assert look.result is not None
    assert (look.result["ids"], look.result["watermark"]) == (["b9", "b19"], "2026-10-01T00:00:19Z")
    look = lists(predicate=lambda record: None, page_size=10).poll(client)
    assert (look.status, look.summary) == (PollStatus.NOT_YET, "0 of 30 records match")


def test_results_are_small(client, limio_emulator):
    records = [{"id": "x" * 5000 + str(number), "created": "2026-10-01" + "0" * 5000} for number in range(500)]
    limio_emulator.put_records("checkout/abandoned", [{**one, "created": None} for one in records])
    look = lists(page_size=1000).poll(client)
    assert look.result is not None
    assert look.result["count"] == 500
    assert len(look.result["ids"]) == MAX_IDS
    assert len(str(look.result)) < 30_000


def test_records_without_an_id_or_a_time(client, limio_emulator):
    limio_emulator.put_records("checkout/abandoned", [{"name": "one"}, {"id": 7, "created": 5}, {"id": None}])
    look = lists().poll(client)
    assert look.result == {"resource": "abandoned_baskets", "count": 3, "ids": ["None", "7", "None"], "watermark": None}


def test_a_list_is_begun_again_after_its_place_was_lost(client, limio_emulator):
    limio_emulator.put_records("checkout/abandoned", baskets(30))
    limio_emulator.faults.add(Fault("status", match="/api/checkout", query="queryMore", status=400))
    wait = lists(page_size=20, min_records=30)
    with pytest.raises(CursorRefusedError) as caught:
        wait.poll(client)
    assert PollPolicy(poke_interval=1).is_transient(caught.value)
    assert wait.poll(client).status is PollStatus.FOUND


def test_pages_larger_than_the_resource_allows(client, limio_emulator):
    from dataclasses import replace

    limio_emulator.put_records("checkout/abandoned", baskets(1))
    lists(resource=replace(RESOURCES["abandoned_baskets"], max_page_size=7), page_size=50).poll(client)
    assert "limit=7" in limio_emulator.counters.log[-1]["query"]


def test_no_window_where_one_is_needed(client, limio_emulator):
    with pytest.raises(ParameterError):
        lists(since=None).poll(client)
    with pytest.raises(ParameterError):
        RecordsCondition(resource=LIMITRAIL["usage"]).poll(client)
    assert limio_emulator.counters.requests == 0


@pytest.mark.parametrize(
    "path",
    [
        "",
        "operator",
        "operator.",
        ".truth",
        "operator.nothing",
        "no.such.module",
        "os.sep",
        "os..path",
        ".a.b",
        "..truth",
        "a\x00.b",
        "\ud800.b",
    ],
)
def test_predicates_that_are_none(path):
    with pytest.raises(ParameterError, match="cannot be imported here"):
        find_predicate(path)


def test_predicates_whose_module_is_broken(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for number, text in enumerate(["1 +", "raise ValueError", "1 / 0", "import no_such_module"]):
        (tmp_path / f"broken_module_{number}.py").write_text(text)
        with pytest.raises(ParameterError, match="cannot be imported here"):
            find_predicate(f"broken_module_{number}.is_large")


def test_predicates():
    assert find_predicate("operator.truth")({"id": 1}) is True


def test_the_error_of_too_many_failures():
    error = NoAnswerError.after(3, ValueError("why"))
    assert error.what == "3 polls in a row failed. The last one: why"
    assert NoAnswerError("what the trigger said").what == "what the trigger said"
    assert isinstance(NoAnswerError("x"), NoAnswerError)
