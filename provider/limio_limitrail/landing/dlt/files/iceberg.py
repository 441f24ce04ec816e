# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Iceberg tables, by pyiceberg and a catalog: each load is one commit, and its rows are in memory for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.dlt.files.model import Change, CommitConflictError
from limio_limitrail.landing.dlt.files.newest import newest_rows
from limio_limitrail.landing.sql.metadata import RUN_ID
from limio_limitrail.landing.sql.model import LandingError, WriteMode

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_LISTED = 1000
"""So many keys are looked for one by one; of more, those between the lowest and the highest."""


class IcebergFiles:
    """An Iceberg table; see `FileTable`.

    :param catalog: pyiceberg's catalog.
    :param name: the namespace and the table.
    :param location: where a new table goes.
    :param metadata_files: lists the files of the metadata in that place.
    """

    def __init__(self, catalog: Any, *, name: tuple[str, str], location: str, metadata_files: Callable[[], list[str]]) -> None:
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

        self._catalog, self._name, self._location = catalog, name, location
        try:
            self._table = catalog.load_table(name)
        except (NoSuchTableError, NoSuchNamespaceError):
            self._table = None
            # A load that was killed while it created the table may have left the first.
            if any(not file.startswith("00000-") for file in metadata_files() if file.endswith(".metadata.json")):
                raise LandingError(
                    f"{'.'.join(name)}: there are an Iceberg table's files in its folder, and the catalog does not know the "
                    "table: register it in the catalog, load with its own catalog, or into a table of another name. Nothing was "
                    "written"
                ) from None
        else:
            _commits_alone(self._table)
        self.schema: pa.Schema | None = None if self._table is None else self._table.schema().as_arrow()

    def count(self, *, run_id: str | None = None) -> int:
        """Return the number of rows."""
        from pyiceberg.expressions import AlwaysTrue

        if self.schema is None or (run_id is not None and RUN_ID not in self.schema.names):
            return 0
        return self._count(AlwaysTrue() if run_id is None else _of_run(run_id))

    def reaches(self, column: str, moment: datetime) -> bool:
        """Return whether a row has such a time or a later one."""
        from pyiceberg.expressions import GreaterThanOrEqual, Reference

        return self._count(GreaterThanOrEqual(Reference(column), moment)) > 0

    def begins(self, column: str, moment: datetime) -> bool:
        """Return whether a row has such a time or an earlier one."""
        from pyiceberg.expressions import LessThanOrEqual, Reference

        return self._count(LessThanOrEqual(Reference(column), moment)) > 0

    def _count(self, condition: Any) -> int:
        table: Any = self._table
        return int(table.scan(row_filter=condition).count())

    def write(self, rows: pa.RecordBatchReader, *, change: Change) -> None:
        """Write rows in one commit, after one that creates an empty table where there is none."""
        import pyarrow as pa
        from pyiceberg.exceptions import CommitFailedException
        from pyiceberg.expressions import AlwaysTrue

        data = rows.read_all()
        table = self._table if self._table is not None else self._created(data.schema)
        replaced: Any = None
        if change.mode is WriteMode.REPLACE:
            replaced = AlwaysTrue()
        elif change.mode is WriteMode.APPEND and self.schema is not None and RUN_ID in self.schema.names:
            replaced = _of_run(change.run_id)
        elif change.mode is WriteMode.MERGE:
            replaced = _may_match(data, change.keys) if set(change.keys) <= set(table.schema().as_arrow().names) else None
        known = None
        if replaced is not None:
            scan = table.scan(row_filter=replaced)
            known = scan.to_arrow() if change.mode is WriteMode.MERGE else None
            if not (scan.count() if known is None else known.num_rows):
                replaced = None
        if known is not None and replaced is not None:
            data = newest_rows(known, data, change=change)
        transaction = table.transaction()
        new = [field for field in data.schema if field.name not in table.schema().as_arrow().names]
        if new:
            with transaction.update_schema() as update:
                update.union_by_name(pa.schema(new))
        if replaced is None:
            transaction.append(data)
        else:
            transaction.overwrite(data, overwrite_filter=replaced)
        try:
            transaction.commit_transaction()
        except CommitFailedException as error:
            raise CommitConflictError from error

    def _created(self, schema: pa.Schema) -> Any:
        from pyiceberg.exceptions import TableAlreadyExistsError

        self._catalog.create_namespace_if_not_exists(self._name[0])
        try:
            table = self._catalog.create_table(self._name, schema=schema, location=self._location.rstrip("/"))
        except TableAlreadyExistsError as error:
            raise CommitConflictError from error
        _commits_alone(table)
        return table


def _commits_alone(table: Any) -> None:
    """Let pyiceberg put no commit on top of another, which it does with some; the table's own properties do not change."""
    table.metadata.properties["commit.retry.num-retries"] = "0"


def _of_run(run_id: str) -> Any:
    from pyiceberg.expressions import EqualTo, Reference

    return EqualTo(Reference(RUN_ID), run_id)


def _may_match(rows: pa.Table, keys: tuple[str, ...]) -> Any:
    """Return a condition that all rows with one of the keys meet, and that is soon evaluated."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, In, LessThanOrEqual, Reference

    values = rows.column(keys[0])
    if not rows.num_rows or not (pa.types.is_string(values.type) or pa.types.is_int64(values.type)):
        return AlwaysTrue()
    distinct = values.unique()
    if len(distinct) <= _MOST_LISTED:
        return In(Reference(keys[0]), set(distinct.to_pylist()))
    ends: Mapping[str, Any] = pc.min_max(values).as_py()
    return And(GreaterThanOrEqual(Reference(keys[0]), ends["min"]), LessThanOrEqual(Reference(keys[0]), ends["max"]))
