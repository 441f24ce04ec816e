# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A connection that copies parts while they are pulled, and that hangs, does not hold up the load."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest

from limio_limitrail.landing.column_types import Kind
from limio_limitrail.landing.sql import Target, WriteMode, load, postgres_staging, run_staging
from limio_limitrail.landing.sql.run_staging import RunStaging
from limio_limitrail.landing.sql.staging_table import StagingTarget
from limio_limitrail.usage.ledger import overview
from limio_limitrail.usage.ledger.overview import LedgerReader
from limio_limitrail.usage.ledger.states import LedgerError
from tests.support.databases import NOON, RunParts, make_part
from tests.support.ledgers import FailingDatabase
from tests.support.stalling_proxy import stalling_proxy

INT, T = Kind.INTEGER, Kind.TEXT
ROWS = [{"id": (INT, [number]), "v": (T, [str(number)])} for number in range(3)]
SCHEMA = {"id": INT, "v": T}
STAGING = "SELECT relname FROM pg_class WHERE relname ~ '^_limio_staging' AND relkind = 'r'"
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^COPY' AND state = 'active'"


def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def proxy(postgres):
    with stalling_proxy(f"{postgres.connection['host']}/.s.PGSQL.5432", stall_at=b"COPY ") as proxy:
        yield proxy


def test_a_page_over_a_connection_that_hangs_ends_and_stops_nothing_else(postgres, monkeypatch):
    monkeypatch.setattr(overview, "CUT_OFF_AFTER", 0.1)
    with stalling_proxy(f"{postgres.connection['host']}/.s.PGSQL.5432", stall_at=b"pg_sleep") as proxy:
        behind = replace(postgres, connection={**postgres.connection, "host": "127.0.0.1", "port": proxy.port})
        held = FailingDatabase(behind.hook())
        reader = LedgerReader(database=held, table="ledger", changes_table="changes", seconds=0.2)
        # Its own thread forwards what cancels the statement: a driver that stops all threads would wait for ever.
        with pytest.raises(LedgerError, match="did not answer within"):
            reader._read(lambda sql: sql.session.query("SELECT pg_sleep(600)"))
        assert proxy.stalled.is_set()
        held.close()
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep.600' AND state = 'active' AND pid <> pg_backend_pid()"
    )
    until(lambda: postgres.query(running) == [(0,)])


@pytest.mark.every_driver
@pytest.mark.parametrize(("there", "staged"), [(True, True), (False, True), (False, False)])
def test_the_load_goes_its_own_way(postgres, proxy, tmp_path, monkeypatch, caplog, there, staged):
    monkeypatch.setattr(run_staging, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(run_staging, "_STOP_SECONDS", 0.1)
    monkeypatch.setattr(run_staging, "LOCK_WAIT", 0.2)
    monkeypatch.setattr(postgres_staging, "LOCK_WAIT", 0.2)
    if there:
        postgres.land("merge", {"id": (INT, [0]), "v": (T, ["old"])}, run="before")
    stored = RunParts.stored([make_part(part, name=f"part-{n}") for n, part in enumerate(ROWS)], folder=tmp_path)
    target = Target(table="subs", mode=WriteMode.MERGE, primary_key=("id",), time_column=None, run_id="run", extracted_at=NOON)
    if staged:
        stored.stage(target, hook=postgres.hook, schema=SCHEMA)
    behind = replace(postgres, connection={**postgres.connection, "host": "127.0.0.1", "port": proxy.port})
    parts = [source.part for source in stored.sources]
    staging = RunStaging(
        hook=behind.hook,
        target=StagingTarget(table="subs", primary_key=("id",), time_column=None, run_id="run"),
        source=lambda part: next(source for source in stored.sources if source.part == part),
    )
    with caplog.at_level(logging.INFO):
        staging.add(parts, schema=SCHEMA)
        assert proxy.stalled.wait(60)
        found = staging.finish(parts)
        assert "its connection seems to hang" in caplog.text
        until(lambda: postgres.query(OPEN) == [(1,)])
        result = load(hook=postgres.hook(), target=target, schema=SCHEMA, parts=stored.sources, staged=found)
    assert (result.rows, result.inserted) == (3, 2 if there else 3)
    assert [row["v"] for row in postgres.rows()] == ["0", "1", "2"]
    assert ("are not used" in caplog.text) is staged, "the server still has a transaction that locks the staging table"
    staging.clean_up()
    assert bool(postgres.query(STAGING)) is staged
    proxy.close()
    until(lambda: postgres.query(OPEN) == [(0,)])
    staging.clean_up()
    assert not postgres.query(STAGING)
