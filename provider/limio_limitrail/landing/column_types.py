# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The column types of parts and tables, and how they widen.

A column starts with the narrowest kind of its first values, and widens when a value comes that this kind cannot preserve as
it was written. Widening ends at ``TEXT``, which holds anything.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

KIND_KEY = b"limio_limitrail.kind"
"""The key of an Arrow field's metadata that holds its kind: some kinds share an Arrow type."""

EXACT_IN_DOUBLE = 2**53
"""Up to this magnitude a double holds every integer exactly, so an integer column may become a double column."""


class Kind(StrEnum):
    """What a column holds."""

    NULL = "null"
    """Only nulls so far; stored as text."""
    BOOLEAN = "boolean"
    INTEGER = "integer"
    """64-bit integers, all of a magnitude up to 2**53."""
    BIGINT = "bigint"
    """64-bit integers, some of them beyond 2**53, which a double cannot hold."""
    DOUBLE = "double"
    TIMESTAMP = "timestamp"
    """A point in time in UTC, in microseconds."""
    TEXT = "text"
    JSON = "json"
    """Objects and arrays, as the JSON text that came."""


def widen(one: Kind, other: Kind) -> Kind:
    """Return the narrowest kind that holds every value of both kinds unchanged."""
    if one is other or other is Kind.NULL:
        return one
    if one is Kind.NULL:
        return other
    pair = {one, other}
    if pair == {Kind.INTEGER, Kind.BIGINT}:
        return Kind.BIGINT
    if pair == {Kind.INTEGER, Kind.DOUBLE}:
        return Kind.DOUBLE
    return Kind.TEXT


def arrow_type(kind: Kind) -> pa.DataType:
    """Return the Arrow type of a kind."""
    import pyarrow as pa

    match kind:
        case Kind.BOOLEAN:
            return pa.bool_()
        case Kind.INTEGER | Kind.BIGINT:
            return pa.int64()
        case Kind.DOUBLE:
            return pa.float64()
        case Kind.TIMESTAMP:
            return pa.timestamp("us", tz="UTC")
        case _:
            return pa.string()


def arrow_field(*, name: str, kind: Kind) -> pa.Field:
    """Make the Arrow field of a column, with its kind in the metadata."""
    import pyarrow as pa

    return pa.field(name, arrow_type(kind), metadata={KIND_KEY: kind.value.encode()})


def kind_of(field: pa.Field) -> Kind:
    """Return a field's kind.

    :raises ValueError: `arrow_field` did not make the field.
    """
    raw = (field.metadata or {}).get(KIND_KEY)
    if raw is None:
        raise ValueError(f"column {field.name!r} has no kind in its Arrow metadata; this package did not write it")
    return Kind(raw.decode())


def cast(array: pa.ChunkedArray, *, source: Kind, target: Kind) -> pa.ChunkedArray:
    """Convert a column to a wider kind.

    As text, booleans are ``true`` and ``false``; whole numbers up to 2**53 are their digits, whether integers or doubles; other
    doubles are their shortest decimal form; timestamps are ISO 8601 in UTC with six fractional digits and a ``Z``.

    :raises ValueError: the target is not wider than the source.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if widen(source, target) is not target:
        raise ValueError(f"a {source} column cannot become {target} without loss")
    if source is Kind.TIMESTAMP and target is Kind.TEXT:
        return pc.strftime(array, format="%Y-%m-%dT%H:%M:%SZ")
    target_type = arrow_type(target)
    if array.type == target_type:
        return array
    if source is Kind.NULL:
        return pa.chunked_array([pa.nulls(len(array), target_type)])
    if source is Kind.DOUBLE:
        return _double_texts(array)
    return pc.cast(array, target_type)


def _double_texts(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Format doubles; a whole number may have been an integer before its column widened to doubles."""
    import pyarrow.compute as pc

    whole = pc.and_(pc.equal(pc.trunc(array), array), pc.less_equal(pc.abs(array), EXACT_IN_DOUBLE))
    digits = pc.cast(pc.cast(pc.if_else(whole, array, None), "int64"), "string")
    return pc.coalesce(digits, pc.cast(array, "string"))
