# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Usage is committed from parts in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.places import Bucket
from tests.support.usage import Code, make_rows

pytestmark = pytest.mark.needs_s3

FORMATS = Path(__file__).parent / "formats"
BODY = Code('{"externalAccount": Column("account"), "operation": Column("operation"), "amount": Column("amount")}')


@pytest.fixture
def bucket(s3_server, tmp_path):
    """A bucket with parts that were pulled."""
    bucket = Bucket(s3_server, tmp_path)
    for folder in FORMATS.iterdir():
        for path in folder.iterdir():
            bucket.write(f"{folder.name}/{path.name}", path.read_bytes())
    return bucket


@pytest.mark.parametrize("form", ["jsonl_1", "parquet_1"])
def test_parts_in_a_bucket(place_of, bucket, form):
    place = place_of("duck", make_rows(5))
    place.home.connect(bucket.connections)
    place.write_dag(parts_path=f"{bucket.url}/{form}", body=BODY)
    for run_id in ("one", "two"):
        last = place.attempt(run_id)
        assert (last.state, last.summary["committed"]) == ("success", 5)
    sent = [json.loads(entry.body) for entry in place.journal().values()]
    assert sorted(body["externalAccount"] for body in sent) == [f"acme-{number}" for number in range(5)]


def test_a_part_that_is_damaged_and_a_folder_that_is_not_there(place_of, bucket):
    place = place_of("duck", make_rows(5))
    place.home.connect(bucket.connections)
    part = bucket.names("jsonl_1/part-")[0]
    content = bucket.read(part)
    bucket.write(part, bytes([content[0] ^ 1]) + content[1:])
    place.write_dag(parts_path=f"{bucket.url}/jsonl_1", body=BODY, retries=3)
    assert "is not the file that was written: its digest differs" in place.attempt().error
    place.write_dag(parts_path=f"{bucket.url}/nothing", body=BODY, retries=3)
    last = place.attempt("two")
    assert last.state == "failed"
    assert "holds no manifest" in last.error
    assert place.sent() == []
