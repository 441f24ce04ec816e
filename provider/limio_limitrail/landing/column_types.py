# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The kinds of value that a landed column can hold, and how two kinds meet.

A kind is decided from what came, never from what was hoped for: a column starts as narrow as its first values and widens
when a value comes that the narrow kind cannot give back as it was written. Widening ends at ``TEXT``, which holds anything.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

KIND_KEY = b"limio_limitrail.kind"
"""The Arrow field's metadata key that tells apart the kinds that share an Arrow type."""

EXACT_IN_DOUBLE = 2**53
"""Up to this magnitude every integer is also a double, so an integer column may become a double column."""


class Kind(StrEnum):
    """What a column holds."""

    NULL = "null"
    """Nothing but nulls so far; lands as text."""
    BOOLEAN = "boolean"
    INTEGER = "integer"
    """64-bit integers, all of a magnitude up to 2**53."""
    BIGINT = "bigint"
    """64-bit integers, some of them beyond 2**53: a double could not hold them."""
    DOUBLE = "double"
    TIMESTAMP = "timestamp"
    """An instant in UTC, to the microsecond."""
    TEXT = "text"
    JSON = "json"
    """Objects and arrays, as the JSON text that came."""


def widen(one: Kind, other: Kind) -> Kind:
    """Give the narrowest kind that holds every value of both kinds unchanged."""
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
    """Give the Arrow type that carries a kind."""
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
    """Read a field's kind back.

    :raises ValueError: the field was not made by `arrow_field`.
    """
    raw = (field.metadata or {}).get(KIND_KEY)
    if raw is None:
        raise ValueError(f"column {field.name!r} carries no kind in its Arrow metadata; it was not landed by this package")
    return Kind(raw.decode())


def cast(array: pa.ChunkedArray, *, source: Kind, target: Kind) -> pa.ChunkedArray:
    """Turn a column of one kind into a wider one, value for value.

    Booleans become ``true`` and ``false``, whole numbers up to 2**53 their digits whatever kind they had on the way, doubles else
    their shortest decimal form, instants ISO 8601 in UTC with six digits of a second and a ``Z``.

    :raises ValueError: the target is not wider than the source.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if widen(source, target) is not target:
        raise ValueError(f"a {source} column cannot become {target} without loss")
    if source is Kind.TIMESTAMP and target is Kind.TEXT:
        return pc.strftime(array, format="%Y-%m-%dT%H:%M:%SZ")
    wanted = arrow_type(target)
    if array.type == wanted:
        return array
    if source is Kind.NULL:
        return pa.chunked_array([pa.nulls(len(array), wanted)])
    if source is Kind.DOUBLE:
        return _double_texts(array)
    return pc.cast(array, wanted)


def _double_texts(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write doubles; a whole number may have been an integer before other values made its column one of doubles."""
    import pyarrow.compute as pc

    whole = pc.and_(pc.equal(pc.trunc(array), array), pc.less_equal(pc.abs(array), EXACT_IN_DOUBLE))
    digits = pc.cast(pc.cast(pc.if_else(whole, array, None), "int64"), "string")
    return pc.coalesce(digits, pc.cast(array, "string"))
