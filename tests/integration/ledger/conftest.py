# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Ledgers in every kind of database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.usage.ledger import transactions as transactions_module
from limio_limitrail.usage.ledger.ledger import Ledger
from tests.support.databases import Database, ask_databases, make_database, open_database
from tests.support.ledgers import FailingDatabase, make_ledger, make_worker


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    ask_databases(metafunc, otherwise=("psycopg2", "standard"))


@pytest.fixture
def db(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Every database in turn."""
    yield from open_database(request.param, request=request, tmp_path=tmp_path, monkeypatch=monkeypatch)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Postgres, through each of its drivers where the driver matters."""
    yield from open_database(request.param, request=request, tmp_path=tmp_path, monkeypatch=monkeypatch)


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Database]]:
    """A maker of any one database, by name."""
    with contextlib.ExitStack() as stack:
        opener = contextlib.contextmanager(open_database)
        yield lambda name: stack.enter_context(opener(name, request=request, tmp_path=tmp_path, monkeypatch=monkeypatch))


@pytest.fixture
def lite(tmp_path: Path) -> Database:
    """A SQLite file."""
    return make_database("sqlite", folder=tmp_path)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions are tried again at once."""
    monkeypatch.setattr(transactions_module, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture
def ledger_in(no_pauses: None) -> Iterator[Callable[..., Ledger]]:
    """A maker of ledgers, one a worker, each with a connection of its own; the first in a table makes it."""
    with contextlib.ExitStack() as stack:

        def make(database: Database, run: str = "run-1", *, attempt: int = 1, table: str = "ledger", **more: Any) -> Ledger:
            held = FailingDatabase(database.hook())
            stack.callback(held.close)
            ledger = make_ledger(held, make_worker(run, attempt=attempt), table=table, **more)
            ledger.prepare()
            return ledger

        yield make
