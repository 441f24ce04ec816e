# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Whose list a pull reads, and how many of the known rows it may lack."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.api.query import CLIENT, TENANT
from limio_limitrail.api.resource import Resource
from limio_limitrail.landing.shrinking import ShrinkGuard
from limio_limitrail.landing.sql.duckdb import DUCKDB
from limio_limitrail.landing.sql.generic import STANDARD
from limio_limitrail.landing.sql.postgres_dialect import POSTGRES
from limio_limitrail.landing.sql.sqlite import SQLITE
from limio_limitrail.transfers.folders import RunIdentity
from limio_limitrail.transfers.missing import check_database, is_full_scan, pull_scope

OWNER = {"base URL": "https://one", CLIENT: "me"}


def digest(*, owner: dict[str, str] = OWNER, region: str = "eu", task_id: str = "load", dag_id: str = "sync", **run: Any) -> str:
    resource = Resource(name="things", path="/things/{region}", primary_key=("id",))
    identity = RunIdentity(dag_id=dag_id, task_id=task_id, **{"run_id": "1", "map_index": -1, **run})
    hook: Any = SimpleNamespace(conn_type="limio", base_url="https://one/api", owner=lambda: owner)
    plan: Any = SimpleNamespace(run=identity, resource=resource)
    return pull_scope(plan, hook=hook, path_params={"region": region}).digest


def test_a_scope_is_one_list_of_one_task() -> None:
    same = [digest(), digest(run_id="2"), digest(map_index=3)]
    others = [
        digest(region="us"),
        digest(task_id="other"),
        digest(dag_id="other"),
        digest(owner={**OWNER, "base URL": "https://two"}),
        digest(owner={**OWNER, CLIENT: "you"}),
        digest(owner={**OWNER, TENANT: "acme"}),
    ]
    assert len({*same}) == 1
    assert len({*same, *others}) == 1 + len(others)
    # A named tenant may have another client.
    assert digest(owner={**OWNER, TENANT: "acme", CLIENT: "you"}) == digest(owner={**OWNER, TENANT: "acme"})


def test_a_scope_stays_the_same_in_every_version() -> None:
    assert digest() == "22a8dc7fa20f1f20"


@pytest.mark.parametrize(
    ("since", "until", "query", "full"),
    [(None, None, {}, True), (None, None, {"q": "x"}, False), ("2026", None, {}, False), (None, "2026", {}, False)],
)
def test_a_full_scan_is_not_filtered(since: Any, until: Any, query: dict[str, str], full: bool) -> None:
    plan: Any = SimpleNamespace(time_range=SimpleNamespace(since=since, until=until))
    assert is_full_scan(plan, query_params=query) is full


def test_databases_in_which_loads_wait_for_each_other() -> None:
    for dialect in (DUCKDB, POSTGRES, SQLITE):
        check_database(dialect, on_missing="mark", conn_id="warehouse")
    check_database(STANDARD, on_missing="keep", conn_id="warehouse")
    with pytest.raises(ParameterError, match="works in DuckDB, Postgres and SQLite"):
        check_database(STANDARD, on_missing="delete", conn_id="warehouse")


@pytest.mark.parametrize(
    ("most", "missing", "known", "empty", "refused"),
    [
        ("20%", 10, 20, False, False),  # ten rows in any case
        ("20%", 11, 55, False, False),
        ("20%", 11, 54, False, True),
        ("29%", 29, 100, False, False),
        ("20%", 1, 1, True, True),  # an empty list
        ("100%", 90, 90, True, False),
        ("20%", 0, 0, True, False),
        (0, 1, 1000, False, True),
        (500, 500, 500, True, False),
    ],
)
def test_how_many_rows_may_be_missing(most: int | str, missing: int, known: int, empty: bool, refused: bool) -> None:
    assert ShrinkGuard(most=most).refuses(missing=missing, known=known, empty=empty) is refused
