# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Destinations that need a server or packages that the other tests do not install."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import mariadb

pytest.importorskip("dlt")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[dict[str, Any]]:
    with mariadb.start_mariadb() as details:
        yield details


@pytest.fixture
def mariadb_connection(mariadb_server: dict[str, Any]) -> dict[str, Any]:
    mariadb.query(mariadb_server, "DROP DATABASE IF EXISTS lake")
    return mariadb_server
