# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Which rows remain of a table's and a pull's, where both have some of the same keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.arrow_tables import integer_array
from limio_limitrail.landing.sql.metadata import EXTRACTED_AT

if TYPE_CHECKING:
    import pyarrow as pa

    from limio_limitrail.landing.dlt.files.model import Change

_NUMBER = "number"


def newest_rows(known: pa.Table, came: pa.Table, *, change: Change) -> pa.Table:
    """Return the rows of a table that no newer one replaces, and the rows that came and are not older than the table's.

    :param known: rows of the table.
    :param came: the pull's, of each key one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = [f"key{at}" for at in range(len(change.keys))]
    pairs = _numbered(known, change=change, keys=keys, side="known").join(
        _numbered(came, change=change, keys=keys, side="came"), keys=keys, join_type="inner"
    )
    extracted = _newer(pairs, "extracted")
    if change.time is None:
        stays = extracted
    else:
        theirs, ours = pairs.column("time known"), pairs.column("time came")
        as_new = pc.or_(pc.fill_null(pc.equal(theirs, ours), False), pc.and_(pc.is_null(theirs), pc.is_null(ours)))
        stays = pc.or_(_newer(pairs, "time"), pc.and_(as_new, extracted))
    replaced = pairs.filter(pc.invert(stays)).column(f"{_NUMBER} known")
    beaten = pairs.filter(stays).column(f"{_NUMBER} came")
    return pa.concat_tables([_without(known, replaced), _without(came, beaten)], promote_options="permissive")


def _newer(pairs: pa.Table, what: str) -> Any:
    """Return where the table has a later value, or has one and the pull has none."""
    import pyarrow.compute as pc

    theirs, ours = pairs.column(f"{what} known"), pairs.column(f"{what} came")
    return pc.and_(pc.is_valid(theirs), pc.fill_null(pc.greater(theirs, ours), True))


def _numbered(rows: pa.Table, *, change: Change, keys: list[str], side: str) -> pa.Table:
    """Return the keys and times of rows, with the numbers of the rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: dict[str, Any] = {}
    for key, name in zip(keys, change.keys, strict=True):
        column = rows.column(name)
        columns[key] = pc.cast(column, pa.string()) if pa.types.is_large_string(column.type) else column
    times: dict[str, str | None] = {"extracted": EXTRACTED_AT, "time": change.time}
    for what, time in times.items():
        found = None if time is None or time not in rows.column_names else rows.column(time)
        # Instants are compared as numbers, whose type does not depend on how a format writes the zone.
        if found is None:
            columns[f"{what} {side}"] = pa.nulls(rows.num_rows, pa.int64())
        else:
            columns[f"{what} {side}"] = pc.cast(found, pa.int64()) if pa.types.is_timestamp(found.type) else found
    columns[f"{_NUMBER} {side}"] = integer_array(range(rows.num_rows))
    return pa.table(columns)


def _without(rows: pa.Table, numbers: Any) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    gone = pc.is_in(integer_array(range(rows.num_rows)), value_set=pa.chunked_array(numbers).combine_chunks())
    return rows.filter(pc.invert(gone))
