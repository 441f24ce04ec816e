# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Rows out of the parts of a finished pull."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace

import pytest
from airflow.sdk import ObjectStoragePath

from limio_limitrail.api.errors import ParameterError
from limio_limitrail.landing.parts import DamagedPartError, PartFormat
from limio_limitrail.landing.pull import Pull
from limio_limitrail.landing.shaping import Shaping
from limio_limitrail.usage.rows import rows_of_parts
from tests.support.record_pages import RecordPage


class Walk:
    page_size = 100
    total = None
    server_time = datetime(2026, 1, 1, tzinfo=UTC)
    server_keeps_position = False

    def __init__(self, pages: list[bytes]) -> None:
        self._pages = pages

    def pages(self) -> Iterator[RecordPage]:
        for number, records in enumerate(self._pages):
            yield RecordPage(records, {"at": str(number + 1)} if number + 1 < len(self._pages) else None)


def pull(folder, form, *pages: bytes):
    kept: list = [None]
    store = SimpleNamespace(load=lambda: kept[-1], save=kept.append, clear=lambda: kept.append(None), check_owner=lambda: None)
    Pull(
        resource="things",
        run_id="run",
        signature="s",
        folder=ObjectStoragePath(f"file://{folder}"),
        part_format=PartFormat(form),
        shaping=Shaping(),
        since=None,
        store=store,
        open_list=lambda checkpoint: Walk(list(pages)),
        restart_on=RuntimeError,
        part_rows=2,
    ).run()
    return f"file://{folder}"


RECORDS = b'[{"id":1,"amount":0.1000,"text":"a\\u2028b\\u0085c\\r\\n"},{"id":2,"amount":2.5},{"id":3,"text":"x"}]'


def test_json_lines_keep_every_digit_and_each_row_its_own_columns(tmp_path):
    source = rows_of_parts(pull(tmp_path, "jsonl", RECORDS, b'[{"id":123456789012345678901234567890}]'))
    rows = list(source.rows)
    assert source.columns is None
    assert rows == [
        {"id": 1, "amount": Decimal("0.1000"), "text": "a\u2028b\x85c\r\n"},
        {"id": 2, "amount": Decimal("2.5")},
        {"id": 3, "text": "x"},
        {"id": 123456789012345678901234567890},
    ]
    assert str(rows[0]["amount"]) == "0.1000"


def test_parquet_has_the_columns_of_all_parts(tmp_path):
    source = rows_of_parts(pull(tmp_path, "parquet", RECORDS, b'[{"id":4,"late":true}]'))
    assert set(source.columns) >= {"id", "amount", "text", "late"}
    rows = list(source.rows)
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    assert rows[3]["late"] is True
    assert rows[2].get("amount") is None


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_pull_of_nothing_has_no_rows(tmp_path, form):
    assert list(rows_of_parts(pull(tmp_path, form, b"[]")).rows) == []


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_part_gives_no_rows(tmp_path, form, harm):
    folder = pull(tmp_path, form, RECORDS)
    part = min(tmp_path.glob("part-*"))
    content = part.read_bytes()
    match harm:
        case "cut":
            part.write_bytes(content[:-1])
        case "changed":
            part.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "gone":
            part.unlink()
    with pytest.raises((DamagedPartError, FileNotFoundError)):
        next(rows_of_parts(folder).rows)


def test_a_folder_without_a_manifest_is_no_finished_pull(tmp_path):
    with pytest.raises(ParameterError, match=r"holds no manifest: give the folder of a finished pull"):
        rows_of_parts(f"file://{tmp_path}/nowhere")


def test_a_manifest_of_a_later_version_is_refused(tmp_path):
    folder = pull(tmp_path, "jsonl", RECORDS)
    [manifest] = [path for path in tmp_path.iterdir() if "manifest" in path.name]
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": 999}))
    with pytest.raises(ValueError, match="999"):
        rows_of_parts(folder)
