# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A history by dlt keeps each version once, whatever is repeated, and ends no version of a record that did not come."""

from __future__ import annotations

import json

import pytest


def put(emulator, *records):
    emulator.put_records("custom/things", [json.dumps(record).encode() for record in records])


def versions(warehouse):
    return warehouse.query("SELECT id, v, _valid_to IS NULL FROM lake.things ORDER BY id, _valid_from")


@pytest.mark.exhaustive
def test_each_version_is_kept_once(dlt_home, limio_emulator, warehouse):
    dlt_home.write_dag(
        f"""
        things = Resource(
            name="things", path="/custom/things", primary_key=("part", "id"), time_column="t", timestamps=("t",),
        )
        LimioToDltOperator(
            task_id="load", destination={warehouse.kind!r}, destination_conn_id={warehouse.conn_id!r}, dataset="lake",
            table="things", resource=things, mode="history",
        )
        """
    )

    def load(run_id):
        done = dlt_home.attempt("load", run_id=run_id)
        assert done.task("load")["state"] == "success", dlt_home.output()[-6000:]

    # Keys of two columns, whose texts are the same one after the other.
    first = {"part": "a", "id": "b1", "v": 1, "t": "2026-01-01T00:00:00Z"}
    other = {"part": "ab", "id": "1", "v": 1, "t": "2026-01-01T00:00:00Z"}
    put(limio_emulator, first, other)
    dlt_home.attempt("load", run_id="late", kill=["before dlt extract", 1])
    load("one")
    load("again")
    assert versions(warehouse) == [("1", 1, True), ("b1", 1, True)]
    changed = {**first, "v": 2, "t": "2026-01-02T00:00:00Z", "note": None}
    put(limio_emulator, changed)
    dlt_home.attempt("load", run_id="two", kill=["after dlt statements", 1])
    assert versions(warehouse) == [("1", 1, True), ("b1", 1, False), ("b1", 2, True)]
    load("two")
    load("late")
    assert versions(warehouse) == [("1", 1, True), ("b1", 1, False), ("b1", 2, True)]
    put(limio_emulator, {**first, "t": "2026-01-03T00:00:00Z"})
    load("three")
    assert versions(warehouse) == [("1", 1, True), ("b1", 1, False), ("b1", 2, False), ("b1", 1, True)]
    times = warehouse.query("SELECT _valid_from, _valid_to FROM lake.things WHERE id = 'b1' ORDER BY _valid_from")
    assert [end for _, end in times[:-1]] == [start for start, _ in times[1:]]
    assert warehouse.stages() == []
