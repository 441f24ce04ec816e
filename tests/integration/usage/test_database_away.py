# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A ledger's database that goes away in the middle, as in a restart or a failover, and comes back."""

from __future__ import annotations

import time

import psycopg
import pytest

from limio_limitrail.emulator import Fault
from tests.support.usage import COMMIT, make_rows

PATIENCE = 300


@pytest.fixture
def switch(postgres_connection):
    """Takes the database away, and gives it back."""
    name = postgres_connection["schema"]

    def set_(*, there: bool) -> None:
        login = {"host": postgres_connection["host"], "user": postgres_connection["login"]}
        with psycopg.connect(**login, dbname="postgres", autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {there}")
            if not there:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    yield set_
    set_(there=True)


@pytest.mark.exhaustive
def test_no_row_is_left_in_doubt(place_of, switch):
    place = place_of("pg", make_rows(400))
    place.server.faults.add(Fault("latency", COMMIT, times=None, seconds=0.2))
    place.write_dag(on_unknown="park", retries=3)
    process = place.begin()
    until = time.monotonic() + PATIENCE
    while len(place.sent()) < 50:
        assert time.monotonic() < until
        time.sleep(0.01)
    switch(there=False)
    # More tries than a transaction has otherwise.
    while place.home.output().count("could not be used") < 6:
        assert time.monotonic() < until, place.home.output()[-3000:]
        time.sleep(0.05)
    switch(there=True)
    last = place.join(process)
    assert (last.state, last.summary["committed"]) == ("success", 400), place.output()[-3000:]
    assert len(place.agree()) == 400
