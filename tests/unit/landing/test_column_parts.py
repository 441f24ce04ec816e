# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Parts of typed columns come back as they were written, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pytest
from airflow.sdk import ObjectStoragePath
from hypothesis import given
from hypothesis import strategies as st

from limio_limitrail.landing.column_parts import ColumnPart, column_bytes, staged_format
from limio_limitrail.landing.column_types import Kind, arrow_field, arrow_type
from limio_limitrail.landing.parts import DamagedPartError, FolderWriteError, Part, PartFormat, store_part

FORMATS = [PartFormat.PARQUET, PartFormat.ARROW]
TEXTS = st.one_of(st.sampled_from(["", "\0", "a\0b", '"\\ud800"', "é", "\U0001f600", "null"]), st.text(max_size=5))
VALUES = {
    Kind.NULL: st.none(),
    Kind.BOOLEAN: st.booleans(),
    Kind.INTEGER: st.integers(-(2**53), 2**53),
    Kind.BIGINT: st.integers(-(2**63), 2**63 - 1),
    Kind.DOUBLE: st.floats(allow_nan=False),
    Kind.TIMESTAMP: st.integers(-(10**16), 10**16),
    Kind.TEXT: TEXTS,
    Kind.JSON: TEXTS,
}


def table(columns: dict[str, tuple[Kind, list[object]]]) -> pa.Table:
    fields = pa.schema([arrow_field(name=name, kind=kind) for name, (kind, _) in columns.items()])
    return pa.Table.from_arrays([pa.array(values, arrow_type(kind)) for kind, values in columns.values()], schema=fields)


def stored(folder: Path, rows: pa.Table, form: PartFormat) -> ColumnPart:
    path = ObjectStoragePath(f"file://{folder}")
    part = store_part(path / f"part-00000{form.suffix}", column_bytes(rows, part_format=form), rows=rows.num_rows)
    return ColumnPart(folder=path, part=part)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


@given(st.data(), st.integers(0, 8), st.sampled_from(FORMATS))
def test_every_kind_comes_back(folder, data, rows, form):
    columns = {
        kind.value: (kind, data.draw(st.lists(st.none() | values, min_size=rows, max_size=rows)))
        for kind, values in VALUES.items()
        if kind is Kind.TEXT or data.draw(st.booleans())
    }
    whole = table(columns)
    part = stored(folder, whole, form)
    assert part.read().equals(whole, check_metadata=True)
    assert pa.concat_tables(part.groups(keys=["text", "json", "unknown"])).equals(
        whole.select([name for name in whole.column_names if name in ("text", "json")]), check_metadata=True
    )
    assert sum(group.num_rows for group in part.groups(keys=[])) == rows


@pytest.mark.parametrize("form", FORMATS)
def test_a_table_of_many_rows_is_read_in_groups(tmp_path, form):
    rows = table({"n": (Kind.INTEGER, list(range(250_000)))})
    part = stored(tmp_path, rows, form)
    groups = list(part.groups())
    assert len(groups) > 1
    assert pa.concat_tables(groups).equals(rows)


def cut(content: bytes) -> bytes:
    return content[:-1]


def changed(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def of_another_run(content: bytes) -> bytes:
    other = column_bytes(table({"n": (Kind.INTEGER, [4, 5, 6])}), part_format=PartFormat.ARROW)
    assert len(other) == len(content)
    return other


@pytest.mark.parametrize("damage", [cut, changed, of_another_run, lambda _: b""])
def test_a_damaged_part_is_not_read(tmp_path, damage):
    part = stored(tmp_path, table({"n": (Kind.INTEGER, [1, 2, 3])}), PartFormat.ARROW)
    path = tmp_path / part.name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedPartError, match="not the file that was written"):
        list(part.groups())
    path.unlink()
    with pytest.raises(DamagedPartError, match="is gone"):
        part.read()


def test_a_part_that_is_cut_short_while_it_is_read_stays_whole(tmp_path):
    rows = table({"n": (Kind.INTEGER, list(range(25_000))), "t": (Kind.TEXT, [str(n) for n in range(25_000)])})
    part = stored(tmp_path, rows, PartFormat.ARROW)
    groups = part.groups()
    first = next(groups)
    os.truncate(tmp_path / part.name, 10)
    assert pa.concat_tables([first, *groups]).equals(rows)


def test_no_part_is_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "part-00000.arrow").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        stored(tmp_path, table({"n": (Kind.INTEGER, [1])}), PartFormat.ARROW)
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("url", "form"), [("file:///tmp/x", PartFormat.ARROW), ("/tmp/x", PartFormat.ARROW), ("memory://x/y", PartFormat.PARQUET)]
)
def test_what_is_staged_where(url, form):
    assert staged_format(ObjectStoragePath(url)) is form


def test_the_digest_is_that_of_the_file(tmp_path):
    part = stored(tmp_path, table({"n": (Kind.INTEGER, [1])}), PartFormat.ARROW)
    content = (tmp_path / part.name).read_bytes()
    assert part.part == Part(name="part-00000.arrow", rows=1, size=len(content), digest=hashlib.sha256(content).hexdigest())


def test_a_folder_that_is_gone_is_somebody_elses_doing(tmp_path):
    with pytest.raises(DamagedPartError, match=r"the folder .* is gone; another try of the same run may be writing there"):
        stored(tmp_path / "gone", pa.table({"a": [1]}), PartFormat.ARROW)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    """/dev/full is a disk without room for anything."""
    original = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *mode: original("/dev/full", os.O_WRONLY))
    message = (
        rf"part-00000.arrow \([\d,]+ bytes\) could not be written into file://{tmp_path}: No space left on device "
        r"\([\d,]+ of [\d,]+ bytes are free\). Make room"
    )
    with pytest.raises(FolderWriteError, match=message):
        stored(tmp_path, pa.table({"a": [1]}), PartFormat.ARROW)
