# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A whole Airflow, in which all that needs one happens: a start costs more than most of what is done with it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from limio_limitrail.emulator import EmulatorServer, LimitRailOptions
from tests.support.airflow_versions import MISSING

if TYPE_CHECKING:
    from tests.support.airflow_whole import WholeAirflow


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_a_whole_airflow(
    whole_airflow: Callable[..., WholeAirflow],
    limio_emulator_factory: Callable[..., EmulatorServer],
    postgres_server: Any,
    tmp_path: Path,
) -> None:
    """People wait for orders and baskets, approve rows, expect mails and sum up days, at the same time, and no secret is left."""
    from tests.support.databases import fresh_postgres
    from tests.support.situations import orders, usage_page
    from tests.support.situations.approvals import check_approvals
    from tests.support.situations.baskets import check_baskets
    from tests.support.situations.deadline import check_deadline
    from tests.support.situations.hidden import secrets_of
    from tests.support.situations.late_usage import check_late_usage

    airflow = whole_airflow(**usage_page.settings(tmp_path))
    airflow.log_in("root", usage_page.PASSWORDS["root"])
    limio = limio_emulator_factory(client_secret=f"secret/{secrets.token_urlsafe(24)}")
    without_keys = limio_emulator_factory(limitrail=LimitRailOptions(idempotency="off"))
    slow, late = limio_emulator_factory(), limio_emulator_factory()
    airflow.add_connection(orders.CONN_ID, limio.airflow_connection_json())

    def with_a_triggerer() -> None:
        """One after the other: all use the triggerer, which some of them kill."""
        check_deadline(airflow, slow, tmp_path)
        orders.check_orders(airflow, limio)
        check_baskets(airflow, limio, tmp_path)

    def without_triggerer() -> None:
        if MISSING["needs_state_store"] is None:
            with fresh_postgres(postgres_server) as warehouse:
                check_late_usage(airflow, late, warehouse)

    with fresh_postgres(postgres_server) as warehouse:
        usage_page.check_usage_page(airflow, warehouse)
    at_the_same_time(with_a_triggerer, without_triggerer, lambda: check_approvals(airflow, without_keys, tmp_path))

    dump, logs = airflow.dump(), airflow.logs()
    for emulator in (limio, without_keys, slow, late):
        found = [hidden for hidden in secrets_of(emulator) if hidden in dump or hidden in logs]
        assert found == []
    airflow.stop()
    assert processes_of(airflow) == []


def at_the_same_time(*situations: Callable[[], None]) -> None:
    """Run all to their ends, and tell of each that fails."""
    with ThreadPoolExecutor(len(situations)) as threads:
        running = [threads.submit(situation) for situation in situations]
    failed = [error for one in running if (error := one.exception()) is not None]
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise BaseExceptionGroup("situations that failed", failed)


def processes_of(airflow: WholeAirflow) -> list[psutil.Process]:
    """All processes that were given this Airflow's home, whoever their parent is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AIRFLOW_HOME") == str(airflow.home.path):
                found.append(process)
        except psutil.Error:
            continue
    return found
