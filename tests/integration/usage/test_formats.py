# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tasks that meet what other versions have left: rows of a newer ledger, and pulled parts. The folders
in ``formats`` are what former versions pulled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.usage import Code, make_rows

FORMATS = Path(__file__).parent / "formats"
LEDGER = "limitrail_usage_ledger"
BODY = Code('{"externalAccount": Column("account"), "operation": Column("operation"), "amount": Column("amount")}')


@pytest.mark.sampled(1)
@pytest.mark.parametrize("conn_id", ["duck", "lite", "pg"])
def test_a_row_of_a_newer_version_stops_the_task(place_of, conn_id):
    place = place_of(conn_id, make_rows(20))
    place.write_dag(retries=3)
    assert place.attempt("one").state == "success"
    key = next(iter(place.database.ledger()))
    place.database.execute(f"UPDATE {LEDGER} SET ledger_format = 4, state = 'half' WHERE idempotency_key = '{key}'")
    before = place.database.ledger()
    place.database.fill(make_rows(25))
    last = place.attempt("two")
    assert last.state == "failed"
    assert key in last.error
    assert "has format 4, and this version reads format 3" in last.error
    assert len(place.sent()) == 20
    assert place.database.ledger() == before


@pytest.mark.sampled(1)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_parts_that_an_older_version_has_pulled(place_of, form):
    place = place_of("duck", make_rows(5))
    assert {path.name for path in FORMATS.iterdir()} == {"jsonl_1", "parquet_1"}
    place.write_dag(parts_path=f"file://{FORMATS}/{form}_1", body=BODY)
    last = place.attempt()
    assert (last.state, last.summary["committed"]) == ("success", 5)
    sent = [json.loads(entry.body) for entry in place.journal().values()]
    assert sorted(body["externalAccount"] for body in sent) == [f"acme-{number}" for number in range(5)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "has format 2, and this version reads format 1"),
        ({"parts": 7}, "is damaged"),
        (None, "is not JSON"),
    ],
)
def test_parts_that_cannot_be_read(place_of, tmp_path, change, says):
    place = place_of("duck")
    shutil.copytree(FORMATS / "jsonl_1", tmp_path / "parts")
    file = tmp_path / "parts" / "manifest.json"
    file.write_text("{" if change is None else json.dumps({**json.loads(file.read_text()), **change}))
    place.write_dag(parts_path=f"file://{tmp_path}/parts", body=BODY, retries=3)
    last = place.attempt()
    assert last.state == "failed"
    assert says in last.error
    assert f"{tmp_path}/parts" in last.error
    assert place.sent() == []
