# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The texts of numbers in a column of doubles that becomes a column of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limio_limitrail.landing.column_types import Kind, arrow_type, cast
from limio_limitrail.landing.sql.dialect import VALUE, quoted

if TYPE_CHECKING:
    from limio_limitrail.landing.sql.names import TableName
    from limio_limitrail.landing.sql.session import Session

REWRITTEN_AT_ONCE = 100_000
"""Different numbers whose texts are compared at once."""

_PLAIN_DOUBLE = 1e10
"""Below this magnitude, and above a thousandth, every database writes a double without an exponent."""


def texts(values: list[Any], *, kind: Kind) -> list[str]:
    """Return the texts that `column_types.cast` writes."""
    import pyarrow as pa

    column = pa.chunked_array([pa.array(values, arrow_type(kind))])
    written: list[str] = cast(column, source=kind, target=Kind.TEXT).to_pylist()
    return written


def rewrite_doubles(session: Session, *, table: TableName, column: str) -> None:
    """Rewrite the very large and very small numbers of a column that has just become text as `column_types.cast` does.

    Databases differ in when and how they write an exponent, and in the sign of zero; in between they agree.
    """
    name, qualified = quoted(column), session.dialect.qualified(table)
    number = f"abs(CAST({name} AS {session.dialect.types[Kind.DOUBLE]}))"
    order = session.dialect.exact(name, Kind.TEXT)
    # A rewritten text may come again, and is right then.
    unusual = (
        f"SELECT {name} FROM {qualified} WHERE ({number} >= {_PLAIN_DOUBLE:.0f} OR {number} < 0.001) AND {order} > {VALUE} "
        f"GROUP BY {name} ORDER BY {order} LIMIT {REWRITTEN_AT_ONCE}"
    )
    last = ""
    while found := [text for (text,) in session.query(unusual, last)]:
        last = found[-1]
        wanted = texts([float(text) for text in found], kind=Kind.DOUBLE)
        changes = {old: new for old, new in zip(found, wanted, strict=True) if old != new}
        if changes:
            columns = {"old": list(changes), "new": list(changes.values())}
            stage = session.staged_values(columns, types=[session.dialect.text_type] * 2)
            session.execute(session.dialect.update(qualified, stage, [(name, "s.new")], f"t.{name} = s.old"))
