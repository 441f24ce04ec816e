# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Connections of this process that lead to the emulator."""

from __future__ import annotations

import pytest

from limio_limitrail.emulator import EmulatorServer


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> EmulatorServer:
    """The emulator, to which the connections of this very process lead."""
    with EmulatorServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_LIMIO_DEFAULT", server.airflow_connection_json())
        patch.setenv("AIRFLOW_CONN_LIMITRAIL_DEFAULT", server.limitrail_connection_json())
        file = tmp_path_factory.mktemp("warehouse") / "lite.sqlite"
        patch.setenv("AIRFLOW_CONN_LITE", f'{{"conn_type": "sqlite", "host": "{file}"}}')
        yield server
