# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What pulls ask of an S3 API, in which order, and what comes of it where the API is gone or says no."""

from __future__ import annotations

import re

import pytest

from tests.support.landed import duck_rows, manifest_of, records_of

pytestmark = [pytest.mark.needs_s3, pytest.mark.needs_state_store]

LIST = "/api/objects/limio/subscriptions"
LAND = """
LimioToObjectStorageOperator(
    task_id="land", resource="subscriptions", destination="{url}", page_size=17, part_rows=34, retries=3, retry_delay=NOW,
)
"""
LOAD = """
LimioToSqlOperator(
    task_id="load", resource="subscriptions", sql_conn_id="duck", table="subs", staging="{url}", page_size=17, part_rows=34,
    retries=3, retry_delay=NOW,
)
"""


def asked(emulator):
    """How often the list was asked for."""
    return sum(entry["path"] == LIST for entry in emulator.counters.log)


def changes(gate):
    """What was changed in the bucket, in order: `+` and the names that were written, `-` for removals."""
    found = []
    for request in gate.requests:
        method, _, path = request.partition(" ")
        if method == "PUT":
            found.append("+" + path.rpartition("/")[2])
        elif method == "DELETE" or (method == "POST" and "delete" in path):
            found.append("-")
    return found


def test_the_manifest_is_written_last_and_removed_first(home, bucket, gate):
    home.write_dag(LAND.format(url=bucket.url))
    written = [*(f"+part-{number:05d}.jsonl.zst" for number in range(6)), "+manifest.json"]
    assert home.attempt("land").task("land")["state"] == "success"
    assert changes(gate) == written
    gate.requests.clear()
    assert home.attempt("land").task("land")["state"] == "success"
    assert changes(gate) == ["-"] * 7 + written
    # Shut at the second removal: the first one has taken the manifest.
    folder = bucket.names("manifest.json")[0].removesuffix("manifest.json")
    assert len(bucket.names(folder)) == 7
    removals = iter(range(7))
    gate.shuts_at = lambda request: request.startswith(("DELETE", "POST")) and next(removals) == 1
    assert home.attempt("land").task("land")["state"] != "success"
    assert len(bucket.names(folder)) == 6
    assert bucket.names("manifest.json") == []


@pytest.mark.parametrize(
    ("request_", "finished"),
    [
        (r"PUT \S+part-00000", 0),
        (r"PUT \S+part-00002", 4),
        (r"PUT \S+manifest\.json", 12),
    ],
)
def test_the_store_is_gone_in_the_middle_of_a_pull(home, bucket, gate, limio_emulator, request_, finished):
    home.write_dag(LAND.format(url=bucket.url))
    gate.shuts_at = re.compile(request_).match
    failed = home.attempt("land")
    assert failed.task("land")["state"] == "up_for_retry"
    assert f'Could not connect to the endpoint URL: "{gate.url}' in home.output() or "Connection was closed" in home.output()
    assert bucket.names("manifest.json") == []
    assert len(bucket.names("/part-")) == finished / 2
    gate.open()
    limio_emulator.counters.reset()
    task = home.attempt("land").task("land")
    assert task["state"] == "success"
    assert asked(limio_emulator) == 12 - finished
    here = bucket.here(task["xcom"]["folder"])
    assert manifest_of(here)["rows"] == 200
    assert records_of(here) == list(limio_emulator.tenant.rows_of("subscriptions"))


def test_the_store_is_gone_before_a_retry(home, bucket, gate, limio_emulator):
    home.write_dag(LAND.format(url=bucket.url))
    assert home.attempt("land", kill=["after state", 3]).code == -9
    gate.shut()
    limio_emulator.counters.reset()
    assert home.attempt("land").task("land")["state"] == "up_for_retry"
    assert asked(limio_emulator) == 0
    gate.open()
    # The parts were out of reach, not gone.
    assert home.attempt("land").task("land")["state"] == "success"
    assert asked(limio_emulator) == 6


def test_the_store_is_gone_in_the_middle_of_a_load(home, bucket, gate, limio_emulator, tmp_path):
    home.write_dag(LOAD.format(url=bucket.url))
    gate.shuts_at = re.compile(r"GET \S+part-00003").match
    assert home.attempt("load").task("load")["state"] == "up_for_retry"
    gate.open()
    limio_emulator.counters.reset()
    task = home.attempt("load").task("load")
    assert (task["state"], task["xcom"]["inserted"], asked(limio_emulator)) == ("success", 200, 0)
    assert len(duck_rows(tmp_path / "warehouse.duckdb", "subs")) == 200
    assert bucket.names() == []


def test_the_store_is_gone_when_the_rows_are_in_the_table(home, bucket, gate, tmp_path):
    home.write_dag(LOAD.format(url=bucket.url))
    gate.shuts_at = re.compile("DELETE|POST").match
    task = home.attempt("load").task("load")
    assert task["state"] == "success", home.output()[-3000:]
    assert "could not be removed" in home.output()
    assert len(duck_rows(tmp_path / "warehouse.duckdb", "subs")) == 200


def test_a_part_that_is_damaged_is_not_loaded(home, bucket, limio_emulator, tmp_path):
    home.write_dag(LOAD.format(url=bucket.url))
    assert home.attempt("load", kill=["before load", 1]).code == -9
    [part] = bucket.names("part-00003")
    content = bucket.read(part)
    middle = len(content) // 2
    bucket.write(part, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    limio_emulator.counters.reset()
    task = home.attempt("load").task("load")
    assert (task["state"], task["xcom"]["inserted"], asked(limio_emulator)) == ("success", 200, 12)
    assert "is not the file that was written: its digest differs" in home.output()
    assert len(duck_rows(tmp_path / "warehouse.duckdb", "subs")) == 200


def test_a_bucket_that_is_not_there_is_not_made(home, bucket, limio_emulator):
    url = bucket.url.replace(bucket.name, f"{bucket.name}-mistyped")
    home.write_dag(LAND.format(url=url))
    task = home.attempt("land").task("land")
    assert f"{bucket.name}-mistyped" not in {one["Name"] for one in bucket.client.list_buckets()["Buckets"]}
    assert task["state"] != "success"


def test_many_parts_and_other_objects_beside_them(home, bucket, gate, limio_emulator):
    """More objects than a listing shows at once."""
    home.write_dag(LAND.format(url=bucket.url))
    first = home.attempt("land", run_id="one").task("land")["xcom"]["folder"]
    folder = bucket.inside(first)
    beside = [f"{folder}/_SUCCESS", f"{folder}-2/part-00000.jsonl.zst", f"{folder}/sub/part-00000.jsonl.zst"]
    for name in (*beside, *(f"{folder}/part-{number:05d}.jsonl.zst" for number in range(6, 1100))):
        bucket.write(name, b"not ours")
    assert home.attempt("land", run_id="one").task("land")["state"] == "success"
    assert sorted(set(bucket.names()) - set(beside)) == sorted(
        [*(f"{folder}/part-{number:05d}.jsonl.zst" for number in range(6)), f"{folder}/manifest.json"]
    )
    assert all(bucket.read(name) == b"not ours" for name in beside)
