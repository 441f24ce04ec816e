# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Tables of plain Parquet files: one file a run, or one file for all rows.

Each load writes one file, which is there as a whole or not at all, so that readers never see half a load. A retry writes the file
of the same name.
"""

from __future__ import annotations

import hashlib
import posixpath
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.dlt.files.model import Change, with_columns
from limio_limitrail.landing.sql.metadata import RUN_ID
from limio_limitrail.landing.sql.model import LandingError, WriteMode

if TYPE_CHECKING:
    import pyarrow as pa

ALL_ROWS = "all.parquet"
"""The file of a table that each load replaces."""

_THREADS = 16


def file_of_run(run_id: str) -> str:
    """Return the name of the file with the rows of a run."""
    return f"run-{hashlib.sha256(run_id.encode()).hexdigest()[:32]}.parquet"


class ParquetFiles:
    """A table of plain Parquet files; see `FileTable`.

    :param fs: fsspec's filesystem.
    :param folder: the table's folder in it.
    :param is_local: whether it is a folder of this machine.
    :param work: an own folder on this machine.
    """

    def __init__(self, fs: Any, *, folder: str, is_local: bool, work: Path) -> None:

        self._fs, self._folder, self._is_local, self._work = fs, folder.rstrip("/"), is_local, work
        fs.invalidate_cache()
        listed = fs.ls(self._folder, detail=False) if fs.isdir(self._folder) else []
        self._paths = sorted(path for path in listed if _is_data(posixpath.basename(path)))
        with ThreadPoolExecutor(_THREADS) as threads:
            footers = list(threads.map(self._footer, self._paths))
        self._rows = sum(rows for _, rows in footers)
        schemas = [schema for schema, _ in footers]
        self.schema: pa.Schema | None = _union(schemas, folder=posixpath.basename(self._folder)) if schemas else None

    def count(self, *, run_id: str | None = None) -> int:
        """Return the number of rows."""
        import pyarrow.compute as pc

        if run_id is None or self.schema is None:
            return self._rows
        own = [path for path in self._paths if posixpath.basename(path) == file_of_run(run_id)]
        return self._count(own or self._paths, RUN_ID, lambda column: pc.equal(column, run_id))

    def reaches(self, column: str, moment: datetime) -> bool:
        """Return whether a row has such a time or a later one."""
        import pyarrow.compute as pc

        return self._count(self._paths, column, lambda values: pc.greater_equal(values, _instant(moment))) > 0

    def begins(self, column: str, moment: datetime) -> bool:
        """Return whether a row has such a time or an earlier one."""
        import pyarrow.compute as pc

        return self._count(self._paths, column, lambda values: pc.less_equal(values, _instant(moment))) > 0

    def write(self, rows: pa.RecordBatchReader, *, change: Change) -> None:
        """Write rows as one file."""
        import pyarrow.parquet as pq

        own = ALL_ROWS if change.mode is WriteMode.REPLACE else file_of_run(change.run_id)
        names = {posixpath.basename(path) for path in self._paths}
        if names - {ALL_ROWS} if change.mode is WriteMode.REPLACE else ALL_ROWS in names:
            raise LandingError(
                f"the table's folder has files of another mode, and mode={change.mode.value!r} with Parquet cannot remove them "
                "in the moment in which it adds its own: load into a table of another name, or use table_format='delta'. "
                "Nothing was written"
            )
        whole = rows if self.schema is None else with_columns(rows, of=self.schema)
        made = self._work / own
        written = 0
        with pq.ParquetWriter(made, whole.schema, compression="zstd") as writer:
            for batch in whole:
                written += batch.num_rows
                writer.write_batch(batch)
        target = posixpath.join(self._folder, own)
        if not written and change.mode is WriteMode.APPEND and self.schema is not None:
            # What an earlier try of the run may have written.
            if self._fs.exists(target):
                self._fs.rm_file(target)
        elif self._is_local:
            hidden = Path(self._folder) / f".{own}"
            hidden.parent.mkdir(parents=True, exist_ok=True)
            self._fs.put_file(str(made), str(hidden))
            hidden.replace(target)
        else:
            self._fs.put_file(str(made), target)
        made.unlink()

    def _footer(self, path: str) -> tuple[pa.Schema, int]:
        import pyarrow.parquet as pq

        with self._fs.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            return parquet.schema_arrow, parquet.metadata.num_rows

    def _count(self, paths: list[str], column: str, matches: Any) -> int:
        """Return how many rows of files have a value of a column that matches."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        found = 0
        for path in paths:
            with self._fs.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
                if column not in parquet.schema_arrow.names:
                    continue
                for number in range(parquet.num_row_groups):
                    values = parquet.read_row_group(number, columns=[column]).column(column)
                    found += pc.sum(pc.fill_null(matches(values), False)).as_py() or 0
        return found


def _instant(moment: datetime) -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(moment, pa.timestamp("us", "UTC"))


def _is_data(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith((".", "_"))


def _union(schemas: list[pa.Schema], *, folder: str) -> pa.Schema:
    """Return all columns of files."""
    import pyarrow as pa

    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            other = fields.setdefault(field.name, pa.field(field.name, field.type))
            if other.type != field.type:
                raise LandingError(
                    f"{folder}: the column {field.name!r} is {other.type} in one file and {field.type} in another, which no load "
                    "of this package wrote: move the files elsewhere, or load into a table of another name. Nothing was written"
                )
    return pa.schema(list(fields.values()))
