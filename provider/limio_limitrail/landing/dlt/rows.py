# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The rows of parts as Arrow tables in the columns of a warehouse, and which of them an older duplicate is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.arrow_tables import integer_array
from limio_limitrail.landing.column_types import Kind, arrow_type
from limio_limitrail.landing.dlt.columns import only
from limio_limitrail.landing.dlt.versions import ROW_VERSION, row_versions
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.sql.staged_rows import in_kinds
from limio_limitrail.landing.timestamps import sort_keys

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.column_parts import ColumnPart
    from limio_limitrail.landing.sql.plan import LoadPlan

_NUMBER = "number"
_TIME = "time"


def row_tables(parts: Sequence[ColumnPart], *, plan: LoadPlan, dropped: pa.Array) -> Iterator[pa.Table]:
    """Read the rows of parts, a group at a time, with the columns that the load itself writes.

    :param dropped: the numbers of the rows that are left out, from 0, in order.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    at = 0
    for part in parts:
        for group in part.groups():
            rows = in_kinds(rows=group, part=part.name, plan=plan)
            rows = rows.rename_columns([column.name for column in plan.columns])
            versions = row_versions(rows, plan=plan) if any(own.name == ROW_VERSION for own in plan.metadata) else None
            for own in plan.metadata:
                value = pa.scalar(own.value, arrow_type(own.kind))
                filled = versions if own.name == ROW_VERSION else pa.repeat(value, rows.num_rows)
                rows = rows.append_column(own.name, filled)
            if len(dropped):
                numbers = integer_array(range(at, at + rows.num_rows))
                rows = rows.filter(pc.invert(pc.is_in(numbers, value_set=dropped)))
            at += group.num_rows
            yield rows


def empty_table(plan: LoadPlan) -> pa.Table:
    """Return a table without rows, with all columns of the plan."""
    import pyarrow as pa

    kinds = {column.name: column.kind for column in plan.columns} | {column.name: column.kind for column in plan.metadata}
    fields = [pa.field(name, arrow_type(kind)) for name, kind in kinds.items()]
    return pa.schema(fields).empty_table()


def find_duplicates(parts: Sequence[ColumnPart], *, plan: LoadPlan, keys: Sequence[str], time: str | None) -> pa.Array:
    """Return the numbers of the rows that a newer row of the same key replaces; of two of the same time the last counts.

    The keys and times of all rows are in memory for this, and nothing else of them.

    :param keys: the record keys that identify a row.
    :param time: the record key of the time.
    :raises LandingError: a row has no value in a key.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = _keys_and_times(parts, plan=plan, keys=keys, time=time)
    nothing = pa.array([], pa.int64())
    if found is None or not keys:
        return nothing
    names = [name for name in found.column_names if name not in (_NUMBER, _TIME)]
    for column, key in zip(names, keys, strict=True):
        if missing := found.column(column).null_count:
            raise LandingError(
                f"{plan.table}: {missing} of {found.num_rows} rows have no value in {key!r}, which belongs to the primary key. "
                "Nothing was written: name other columns in primary_key=, or use another mode"
            )
    counts = found.group_by(names).aggregate([(_NUMBER, "count")])
    if counts.num_rows == found.num_rows:
        return nothing
    repeated = counts.filter(pc.greater(counts.column(f"{_NUMBER}_count"), 1)).select(names)
    rows = found.join(repeated, keys=names, join_type="left semi").to_pydict()
    newest: dict[tuple[Any, ...], tuple[bool, Any, int]] = {}
    dropped: list[int] = []
    for *values, when, number in zip(*(rows[name] for name in names), rows[_TIME], rows[_NUMBER], strict=True):
        own = (when is not None, when or 0, number) if not isinstance(when, str) else (True, when, number)
        row_key = tuple(values)
        other = newest.get(row_key)
        newest[row_key] = own if other is None else max(own, other)
        if other is not None:
            dropped.append(min(own, other)[2])
    return pa.array(sorted(dropped), pa.int64())


def _keys_and_times(parts: Sequence[ColumnPart], *, plan: LoadPlan, keys: Sequence[str], time: str | None) -> pa.Table | None:
    """Return the keys, the times and the numbers of all rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = only(plan, [*keys, *([] if time is None else [time])])
    by_key = {column.key: column for column in wanted.columns}
    timed = None if time is None else by_key.get(time)
    tables: list[pa.Table] = []
    at = 0
    for part in parts:
        for group in part.groups(keys=by_key):
            rows = in_kinds(rows=group, part=part.name, plan=wanted)
            columns = {f"key{index}": rows.column(by_key[key].staged) for index, key in enumerate(keys)}
            if timed is None:
                columns[_TIME] = pa.nulls(rows.num_rows, pa.int64())
            elif timed.kind is Kind.TEXT:
                columns[_TIME] = sort_keys(rows.column(timed.staged).combine_chunks())
            elif timed.kind is Kind.TIMESTAMP:
                columns[_TIME] = pc.cast(rows.column(timed.staged), pa.int64())
            else:
                columns[_TIME] = rows.column(timed.staged)
            columns[_NUMBER] = integer_array(range(at, at + rows.num_rows))
            at += rows.num_rows
            tables.append(pa.table(columns))
    return pa.concat_tables(tables) if tables else None
