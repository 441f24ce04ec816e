# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What a load wants of a table of files, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from limio_limitrail.landing.sql.model import WriteMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa


class CommitConflictError(Exception):
    """Another load has written the table since it was read; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """How rows go into a table.

    :param mode: what happens to the rows that are there.
    :param keys: the columns that identify a row.
    :param time: the column with the time of a row, if the table has one.
    :param run_id: the run.
    """

    mode: WriteMode
    keys: tuple[str, ...]
    time: str | None
    run_id: str


class FileTable(Protocol):
    """A table as it was when it was opened."""

    @property
    def schema(self) -> pa.Schema | None:
        """Its columns; ``None`` if it does not exist."""
        ...

    def count(self, *, run_id: str | None = None) -> int:
        """Return the number of rows, of all runs or of one."""
        ...

    def reaches(self, column: str, moment: datetime) -> bool:
        """Return whether a row has such a time or a later one."""
        ...

    def begins(self, column: str, moment: datetime) -> bool:
        """Return whether a row has such a time or an earlier one."""
        ...

    def write(self, rows: pa.RecordBatchReader, *, change: Change) -> None:
        """Write rows in one commit; readers see the table as it was before, or as it is after it.

        :raises CommitConflictError: another load was faster.
        """
        ...


def dlt_columns(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return columns as dlt describes them; a type that this package does not write is named as Arrow does."""
    import pyarrow as pa

    names = {
        pa.bool_(): "bool",
        pa.int64(): "bigint",
        pa.float64(): "double",
        pa.timestamp("us", "UTC"): "timestamp",
        pa.timestamp("us", "+00:00"): "timestamp",
        pa.string(): "text",
        pa.large_string(): "text",
        pa.string_view(): "text",
    }
    return {field.name: {"name": field.name, "data_type": names.get(field.type, str(field.type))} for field in schema}


def with_columns(rows: pa.RecordBatchReader, *, of: pa.Schema) -> pa.RecordBatchReader:
    """Return rows with all columns of a table, without values in those that do not come."""
    import pyarrow as pa

    missing = [field.with_nullable(True) for field in of if field.name not in rows.schema.names]
    schema = pa.schema([*rows.schema, *missing])

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            empty = [pa.nulls(batch.num_rows, field.type) for field in missing]
            yield pa.RecordBatch.from_arrays([*batch.columns, *empty], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())
