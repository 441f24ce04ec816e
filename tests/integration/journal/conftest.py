# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tasks that bill usage to the API with the journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.journal import JournalServer
from tests.support.journal_runs import Billing, Runner
from tests.support.usage import Database


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A process that tries tasks in processes of their own."""
    home = tmp_path_factory.mktemp("journal") / "home"
    (home / "dags").mkdir(parents=True)
    (home / "tmp").mkdir()
    found = Runner(home)
    yield found
    found.stop()


@pytest.fixture
def billing_of(request: pytest.FixtureRequest, tmp_path: Path, runner: Runner) -> Iterator[Callable[..., Billing]]:
    """Make an API and a database: ``lite``, ``duck`` or ``pg``."""
    with contextlib.ExitStack() as stack:

        def make(conn_id: str = "lite", **options: Any) -> Billing:
            server = stack.enter_context(JournalServer(**options))
            connection: dict[str, Any] = {
                "duck": {"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")},
                "lite": {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.sqlite")},
            }.get(conn_id) or request.getfixturevalue("postgres_connection")
            return Billing(server=server, database=Database(conn_id, connection), runner=runner, folder=tmp_path)

        yield make
