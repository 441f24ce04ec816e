# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Places to commit usage from, on DuckDB, SQLite and Postgres."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer, LimitRailOptions
from tests.support.airflow_home import AirflowHome
from tests.support.usage import Database, Place, UsageRow, accounts_of


@pytest.fixture
def place_of(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_home: Callable[..., AirflowHome],
    limitrail_emulator_factory: Callable[..., EmulatorServer],
) -> Callable[..., Place]:
    """Make a place: its database, its rows, and the options of its emulator. The rows' accounts exist, but for ghosts."""

    def make(
        conn_id: str = "duck",
        rows: Sequence[UsageRow] = (),
        *,
        extra: dict[str, Any] | None = None,
        **options: Any,
    ) -> Place:
        server = limitrail_emulator_factory(limitrail=LimitRailOptions(**options))
        # Every request of the longest test is looked at afterwards.
        server.counters._log_size = 1_000_000
        server.counters.reset()
        server.limitrail.add_accounts(account for account in accounts_of(rows) if not account.startswith("ghost"))
        connection: dict[str, Any] = {
            "duck": {"conn_type": "duckdb", "host": str(tmp_path / "warehouse.duckdb")},
            "lite": {"conn_type": "sqlite", "host": str(tmp_path / "warehouse.sqlite")},
        }.get(conn_id) or request.getfixturevalue("postgres_connection")
        database = Database(conn_id, connection)
        database.fill(rows)
        more = {"limitrail_default": server.limitrail_connection_json(**(extra or {}))}
        home_of = partial(make_home, server, **{conn_id: connection}, **more)
        return Place(server=server, home=home_of(), database=database, folder=tmp_path, make_home=home_of)

    return make
