# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Databases to land in: a DuckDB file, an embedded Postgres through each of its drivers, SQLite, and standard SQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import (
    HELD,
    WHILE_PULLING,
    Database,
    ask_databases,
    make_database,
    make_part,
    open_database,
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Tasks with child tables are loaded after the pull.
    early = () if metafunc.module.__name__.endswith("test_child_tables") else (HELD, WHILE_PULLING)
    ask_databases(metafunc, otherwise=("duckdb files", "psycopg2", *early, "standard"))


@pytest.fixture
def db(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Every database in turn; DuckDB once with parts that it reads itself, where the driver matters."""
    yield from open_database(request.param, request=request, tmp_path=tmp_path, monkeypatch=monkeypatch)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Postgres, through each of its drivers where the driver matters."""
    yield from open_database(request.param, request=request, tmp_path=tmp_path, monkeypatch=monkeypatch)


@pytest.fixture(params=["duckdb", "psycopg3"])
def typed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The databases with schemas and strict types."""
    yield from open_database(request.param, request=request, tmp_path=tmp_path, monkeypatch=monkeypatch)


@pytest.fixture
def duck(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A DuckDB file."""
    yield from open_database("duckdb", request=request, tmp_path=tmp_path, monkeypatch=monkeypatch)


@pytest.fixture
def lite(tmp_path: Path) -> Database:
    """A SQLite file."""
    return make_database("sqlite", folder=tmp_path)


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A maker of any one database, by name."""
    with contextlib.ExitStack() as stack:
        opener = contextlib.contextmanager(open_database)
        yield lambda name: stack.enter_context(opener(name, request=request, tmp_path=tmp_path, monkeypatch=monkeypatch))


@pytest.fixture
def file_database() -> Any:
    """A maker of databases that are files, for tests that need many."""
    return make_database


@pytest.fixture
def part() -> Any:
    """A maker of parts."""
    return make_part
