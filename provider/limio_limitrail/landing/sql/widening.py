# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The text forms of a column's values when the column becomes text."""

from __future__ import annotations

import uuid
from typing import Any

from limio_limitrail.landing.column_types import Kind, arrow_type, cast
from limio_limitrail.landing.sql.dialect import Session
from limio_limitrail.landing.sql.names import TableName

ISO_INSTANT = "%Y-%m-%dT%H:%M:%S.%fZ"
"""The text form of an instant in UTC, for ``strftime``."""

_PLAIN_DOUBLE = 1e10
"""Below this magnitude, and above a thousandth, every database writes a double without an exponent."""


def texts(values: list[Any], *, kind: Kind) -> list[str]:
    """Return the texts that `column_types.cast` writes."""
    import pyarrow as pa

    column = pa.chunked_array([pa.array(values, arrow_type(kind))])
    written: list[str] = cast(column, source=kind, target=Kind.TEXT).to_pylist()
    return written


def respell_doubles(*, session: Session, table: TableName, column: str) -> None:
    """Rewrite the very large and very small numbers of a column that has just become text as `column_types.cast` writes them.

    Databases differ in when and how they write an exponent, and in the sign of zero; they agree in the range that is left alone.

    :param session: the load's session.
    :param table: the table.
    :param column: the column, whose texts are shortest forms of doubles.
    """
    dialect = session.dialect
    name, qualified = dialect.quote(column), dialect.qualified(table)
    number = f"abs(CAST({name} AS {dialect.types[Kind.DOUBLE]}))"
    unusual = f"{number} >= {_PLAIN_DOUBLE:.0f} OR {number} < 0.001"
    spelled = [text for (text,) in session.query(f"SELECT DISTINCT {name} FROM {qualified} WHERE {unusual}")]
    wanted = texts([float(text) for text in spelled], kind=Kind.DOUBLE)
    changes = [(old, new) for old, new in zip(spelled, wanted, strict=True) if old != new]
    if not changes:
        return
    import pyarrow as pa

    respelling = f"_limio_spelling_{uuid.uuid4().hex}"
    session.create_stage(stage=respelling, columns=[("old", dialect.text_type), ("new", dialect.text_type)])
    session.fill(stage=respelling, rows=pa.table({"old": [old for old, _ in changes], "new": [new for _, new in changes]}))
    session.analyze(stage=respelling)
    session.execute(dialect.update(qualified, dialect.quote(respelling), [(name, "s.new")], f"t.{name} = s.old"))
