# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Delta tables, by deltalake: each load is one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.dlt.files.model import Change, CommitConflictError, with_columns
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT, RUN_ID
from limio_limitrail.landing.sql.model import WriteMode

if TYPE_CHECKING:
    import pyarrow as pa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DeltaFiles:
    """A Delta table; see `FileTable`.

    :param location: its URL.
    :param options: deltalake's storage options, with the credentials of the bucket.
    """

    def __init__(self, location: str, *, options: Mapping[str, str]) -> None:
        import pyarrow as pa
        from deltalake import DeltaTable

        self._location, self._options = location, dict(options)
        there = DeltaTable.is_deltatable(location, self._options)
        self._table = DeltaTable(location, storage_options=self._options) if there else None
        self.schema: pa.Schema | None = None if self._table is None else pa.schema(self._table.schema().to_arrow())

    def count(self, *, run_id: str | None = None) -> int:
        """Return the number of rows."""
        if self.schema is None or (run_id is not None and RUN_ID not in self.schema.names):
            return 0
        return self._count("true" if run_id is None else _of_run(run_id))

    def reaches(self, column: str, moment: datetime) -> bool:
        """Return whether a row has such a time or a later one."""
        return self._count(f"{_quoted(column)} >= {_instant(moment)}") > 0

    def begins(self, column: str, moment: datetime) -> bool:
        """Return whether a row has such a time or an earlier one."""
        return self._count(f"{_quoted(column)} <= {_instant(moment)}") > 0

    def _count(self, condition: str) -> int:
        import pyarrow as pa
        from deltalake import QueryBuilder

        found = QueryBuilder().register("t", self._table).execute(f"SELECT count(*) AS n FROM t WHERE {condition}")
        return int(pa.table(found).column("n")[0].as_py())

    def write(self, rows: pa.RecordBatchReader, *, change: Change) -> None:
        """Write rows in one commit."""
        from deltalake import CommitProperties, write_deltalake

        # deltalake would put some commits on top of others that it takes for unrelated.
        alone = CommitProperties(max_commit_retries=0)
        with _conflicts():
            if self._table is None or self.schema is None:
                write_deltalake(self._location, rows, mode="error", storage_options=self._options, commit_properties=alone)
            elif change.mode is WriteMode.REPLACE:
                whole = with_columns(rows, of=self.schema)
                write_deltalake(self._table, whole, mode="overwrite", schema_mode="overwrite", commit_properties=alone)
            elif change.mode is WriteMode.MERGE and set(change.keys) <= set(self.schema.names):
                # What a newer row does not have must not stay as it was.
                whole = with_columns(rows, of=self.schema)
                self._merge(whole, change=change, columns=self.schema.names, properties=alone)
            elif change.mode is WriteMode.APPEND and RUN_ID in self.schema.names:
                of_run = _of_run(change.run_id)
                write_deltalake(
                    self._table, rows, mode="overwrite", predicate=of_run, schema_mode="merge", commit_properties=alone
                )
            else:
                write_deltalake(self._table, rows, mode="append", schema_mode="merge", commit_properties=alone)

    def _merge(self, rows: pa.RecordBatchReader, *, change: Change, columns: list[str], properties: Any) -> None:
        table: Any = self._table
        values = {_quoted(name): f"source.{_quoted(name)}" for name in rows.schema.names}
        merge = table.merge(
            source=rows,
            predicate=" AND ".join(f"target.{_quoted(key)} = source.{_quoted(key)}" for key in change.keys),
            source_alias="source",
            target_alias="target",
            merge_schema=True,
            commit_properties=properties,
        )
        merge = merge.when_matched_update(values, predicate=_replaces(change, columns=columns))
        merge.when_not_matched_insert(values).execute()


def _replaces(change: Change, *, columns: list[str]) -> str:
    """Return the condition that a row replaces the table's: that one is not newer."""
    stays = "false"
    if EXTRACTED_AT in columns:
        extracted = _quoted(EXTRACTED_AT)
        stays = f"target.{extracted} > source.{extracted}"
    if change.time is not None and change.time not in columns:
        stays = f"source.{_quoted(change.time)} IS NULL AND {stays}"
    elif change.time is not None:
        name = _quoted(change.time)
        ours, theirs = f"source.{name}", f"target.{name}"
        newer = f"({theirs} IS NOT NULL AND ({ours} IS NULL OR {theirs} > {ours}))"
        as_new = f"({theirs} = {ours} OR ({theirs} IS NULL AND {ours} IS NULL))"
        stays = f"{newer} OR ({as_new} AND {stays})"
    return f"CASE WHEN {stays} THEN 0 ELSE 1 END = 1"


@contextmanager
def _conflicts() -> Iterator[None]:
    """Raise `CommitConflictError` where deltalake says that another commit came in between."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError as error:
        raise CommitConflictError from error
    except DeltaError as error:
        if "already exists at" not in str(error):
            raise
        raise CommitConflictError from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _instant(moment: datetime) -> str:
    micros = (moment - _EPOCH) // timedelta(microseconds=1)
    return f"arrow_cast({micros}, 'Timestamp(Microsecond, Some(\"UTC\"))')"


def _of_run(run_id: str) -> str:
    literal = run_id.replace("'", "''")
    return f"{_quoted(RUN_ID)} = '{literal}'"
