# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Convert a part into rows of the staging table."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from limio_limitrail.landing.arrow_tables import integer_array, without_columns
from limio_limitrail.landing.column_types import Kind, arrow_type, cast, kind_of
from limio_limitrail.landing.sql.model import LandingError
from limio_limitrail.landing.timestamps import sort_keys

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.sql.plan import ColumnPlan, LoadPlan

SEQUENCE = "seq"
"""The staging table's column that numbers the rows of a pull in the order in which they came."""

ORDER = "ord"
"""The staging table's column with the sort key of a row's time, where times are texts."""

STORED_NUL = "\\u0000"
"""Replaces a NUL character in a text column, in every database: Postgres cannot store NUL."""


def stage_columns(*, rows: pa.Table, part: str, plan: LoadPlan, time: ColumnPlan | None, start: int) -> pa.Table:
    """Convert a part's rows to the staging table: the columns of the plan, then `ORDER` if times are texts, then `SEQUENCE`.

    :param rows: rows of the part.
    :param part: its name, for messages.
    :param plan: what happens to each column.
    :param time: the time column, if there is one.
    :param start: the number of the first of these rows.
    :raises LandingError: the part has a column that the schema does not name, or a value that the wider kind cannot hold.
    """
    table = in_kinds(rows=rows, part=part, plan=plan)
    if time is not None and time.kind is Kind.TEXT:
        table = table.append_column(ORDER, sort_keys(table.column(time.staged).combine_chunks()))
    return table.append_column(SEQUENCE, integer_array(range(start, start + rows.num_rows)))


def in_kinds(*, rows: pa.Table, part: str, plan: LoadPlan) -> pa.Table:
    """Convert rows to the columns of the plan, with the names and kinds of the staging table.

    :param rows: rows of the part.
    :param part: its name, for messages.
    :param plan: what happens to each column.
    :raises LandingError: as for `stage_columns`.
    """
    import pyarrow as pa

    unknown = set(rows.column_names) - {column.key for column in plan.columns}.union(plan.ignored)
    if unknown or len(set(rows.column_names)) != len(rows.column_names):
        raise LandingError(
            f"{plan.table}: the schema leaves out {len(unknown)} columns of the part {part}, or it names one twice"
        )
    arrays = {column.staged: _array(rows=rows, part=part, column=column, to=column.kind, plan=plan) for column in plan.columns}
    return pa.table(arrays) if arrays else without_columns(rows.num_rows)


def nul_forms(rows: pa.Table, *, keys: Collection[str]) -> set[tuple[str, str]]:
    """Return which key columns contain a NUL character, and which contain `STORED_NUL`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [key for key in keys if key in rows.column_names and pa.types.is_string(rows.schema.field(key).type)]
    return {
        (key, form) for key in texts for form in ("\0", STORED_NUL) if pc.any(pc.match_substring(rows.column(key), form)).as_py()
    }


def _array(*, rows: pa.Table, part: str, column: ColumnPlan, to: Kind, plan: LoadPlan) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    at = rows.schema.get_field_index(column.key)
    if at < 0:
        return pa.chunked_array([pa.nulls(rows.num_rows, arrow_type(to))])
    source = kind_of(rows.schema.field(at))
    try:
        array = cast(rows.column(at), source=source, target=to)
    except ValueError:
        array = None
    if array is None:
        # Raised outside of the handler, so that Arrow's error, which quotes the value, is not even its context.
        raise LandingError(f"{plan.table}: part {part} holds {source} in column {column.name!r}, which cannot become {to}")
    if not pa.types.is_string(array.type) or not any(map(_may_hold_nul, array.chunks)):
        return array
    return pc.replace_substring(array, "\0", STORED_NUL)


def _may_hold_nul(texts: pa.StringArray) -> bool:
    """Return whether there is a NUL in the memory of texts, which takes a tenth of the time that Arrow needs to match them."""
    import numpy as np

    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return False
    ends = np.frombuffer(offsets, np.int32, count=len(texts) + 1, offset=4 * texts.offset)
    return not np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].all()
