# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Arguments of both hooks: read as parameters of operators are, or refused by name, and never a bare error."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd
import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.hooks.limitrail import LimitRailHook

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = "2026-01-01", "2026-01-01T00:00:00Z", " 2026-01-01T01:00:00+01:00 "
TIMES: list[Any] = [NEW_YEAR, *TEXTS, date(2026, 1, 1), datetime(2026, 1, 1), pd.Timestamp("2026-01-01", tz="UTC"), 20260101]
NO_TIMES: list[Any] = ["soon", "", "None", 1767225600, True, pd.NaT, float("nan"), [NEW_YEAR], {}, object()]
NO_MAPPINGS: list[Any] = ["a=1", 5, [1], [("a", "b")], True, object()]
NO_VALUES: list[Any] = [{"a": [1]}, {"a": {}}, {"a": float("nan")}, {"a": float("inf")}, {"a": object()}, {("a",): 1}]
NO_NAMES: list[Any] = [["orders"], 5, True, {}, b"orders", object()]
NO_TEXTS: list[Any] = [uuid.UUID(int=0), 5, True, ["/x"], b"/x", object()]


@pytest.fixture
def rail(monkeypatch: pytest.MonkeyPatch) -> LimitRailHook:
    """A hook whose connection leads nowhere."""
    connection = {
        "conn_type": "limitrail",
        "host": "http://127.0.0.1:9",
        "login": "c",
        "password": "s-1234",
        "extra": {"scope": "a"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", json.dumps(connection))
    return LimitRailHook()


@pytest.mark.parametrize("since", TIMES, ids=repr)
def test_a_time_in_each_form(hook, limio_emulator, since):
    next(hook.iter_records("abandoned_baskets", since=since, page_size="7", path_params="{}", query_params='{"a": 1}'))
    sent = dict(parse_qsl(limio_emulator.counters.log[-1]["query"]))
    assert sent == {"createdAfter": "2026-01-01T00:00:00Z", "limit": "7", "a": "1"}


@pytest.mark.parametrize("size", [timedelta(hours=1), 3600, "PT1H", "1:00:00"])
def test_a_span_in_each_form(rail, size):
    assert rail.open_list("usage", since="2026-01-01", until=date(2026, 1, 2), slice_size=size).slice_size == timedelta(hours=1)


READS: dict[str, tuple[list[Any], Callable[..., object]]] = {
    "since": (NO_TIMES, lambda hook, rail, value: rail.open_list("usage", since=value, until=NEW_YEAR)),
    "until": (NO_TIMES, lambda hook, rail, value: rail.count("usage", since=NEW_YEAR, until=value)),
    "slice_size": (
        ["often", "", True, [1], {}, float("nan"), -1, object()],
        lambda hook, rail, value: rail.open_list("usage", since=NEW_YEAR, until=NEW_YEAR + timedelta(1), slice_size=value),
    ),
    "page_size": (
        [True, False, 0, -1, "", "many", 1.5, float("nan"), [5], 10**7, object()],
        lambda hook, rail, value: list(hook.iter_records("orders", page_size=value)),
    ),
    "concurrency": (["4", True, 0, 1.5, None], lambda hook, rail, value: hook.open_list("orders", concurrency=value)),
    "path_params": (NO_MAPPINGS, lambda hook, rail, value: list(hook.iter_pages("orders", path_params=value))),
    "query_params": (NO_MAPPINGS, lambda hook, rail, value: hook.get_df("orders", query_params=value)),
    "(query_params|parameter 'a')": (NO_VALUES, lambda hook, rail, value: hook.request(path="/x", query_params=value)),
    "resource": (NO_NAMES, lambda hook, rail, value: (rail if value == 5 else hook).count(value)),
    "path": ([*NO_TEXTS, None], lambda hook, rail, value: hook.request(path=value)),
    "method": ([*NO_TEXTS, None], lambda hook, rail, value: hook.request(path="/x", method=value)),
    "idempotency_key": (
        [uuid.UUID(int=0), 5, True, ["k"], b"k"],
        lambda hook, rail, value: hook.request(path="/x", method="POST", idempotency_key=value),
    ),
    "scope": (
        [5.5, [None], {"a": 1}, object(), b"a", "a;b"],
        lambda hook, rail, value: LimitRailHook(scope=value).scopes,
    ),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, (values, _) in READS.items() for value in values],
    ids=lambda value: repr(value)[:20],
)
def test_what_cannot_be_read_is_named_and_nothing_is_sent(hook, rail, limio_emulator, name, value):
    limio_emulator.counters.reset()
    with pytest.raises(ParameterError, match=name):
        READS[name][1](hook, rail, value)
    assert [entry for entry in limio_emulator.counters.log if "token" not in entry["path"]] == []


@pytest.mark.parametrize(
    ("scope", "scopes"), [("x y", "axy"), (["x", "y"], "axy"), ("['x', 'y']", "axy"), (None, "a"), ("", "a"), ({"x"}, "ax")]
)
def test_scopes_in_each_form(rail, scope, scopes):
    assert LimitRailHook(scope=scope).scopes == tuple(scopes)
