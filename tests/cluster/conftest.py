# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""One Airflow with CeleryExecutor, one Redis, one Postgres and one emulator for all tests of several machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limio_limitrail.emulator import EmulatorServer
from tests.support.airflow_cluster import CeleryAirflow, start_redis
from tests.support.airflow_home import AirflowHome
from tests.support.cluster_world import ClusterWorld
from tests.support.databases import fresh_postgres


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def world(
    postgres_server: Any, whole_airflow_template: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterWorld]:
    """Airflow without any worker yet, and what its Dags work on."""
    template, name = whole_airflow_template
    folder = tmp_path_factory.mktemp("cluster")
    with (
        start_redis() as broker,
        fresh_postgres(postgres_server, template=name) as database,
        fresh_postgres(postgres_server) as warehouse,
        EmulatorServer() as emulator,
        CeleryAirflow(AirflowHome(None, template, folder / "home", {}), database, broker=broker) as airflow,
    ):
        yield ClusterWorld(airflow, emulator, warehouse, folder / "shared")
